r"""Where the unit of a quantity begins: the end of an answer that is unit words and nouns, and what it says.

A tail may also change the value, "5 squared", "3 halves": then it says so, and is never left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from mrt.reasoning.grading import lexicon
from mrt.reasoning.grading.units import NO_UNIT, Unit, in_latex, unit_of

MAX_PIECES = 60  # of a unit; a longer run is none
_BRACED = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_MACRO = re.compile(rf"\\({lexicon.TEXT_MACROS})(?![A-Za-z])\s*\{{((?:[^{{}}]|\{{[^{{}}]*\}})*)\}}")
_PIECE = re.compile(
    rf"(?P<macro>\\(?:{lexicon.TEXT_MACROS})(?![A-Za-z])\s*{_BRACED})"
    r"|(?P<degree>\^\s?\{?\s?\\circ\s?\}?(?:\s?[CF](?![A-Za-z]))?|\\degree(?![A-Za-z]))"
    r"|(?P<power>\^\s?(?:\{\s?-?\d\s?\}|-?\d(?!\d)))"
    r"|(?P<over>/)|(?P<dot>\\cdot(?![A-Za-z])|\\times(?![A-Za-z])|[*-])|(?P<space>\s+|\\,)"
    r"|(?P<word>(?<!\\)(?<![A-Za-z\\])[^\W\d_]+\.?)|(?P<other>\\[A-Za-z]+|.)",
    re.DOTALL,
)
_UNIT_FRACTION = re.compile(
    rf"\\frac\s*\{{\s*(\\(?:{lexicon.TEXT_MACROS})\s*{_BRACED}(?:\^\s?\{{?\d\}}?)?)\s*\}}"
    rf"\s*\{{\s*((?:\s*\\(?:{lexicon.TEXT_MACROS})\s*{_BRACED}(?:\^\s?\{{?\d\}}?)?)+)\s*\}}"
)
_SQUASHED = re.compile(r"([A-Za-z]+)\s*\^?\s*\{?(-?\d)\}?")


@dataclass(frozen=True)
class Tail:
    """What was taken off the end of a quantity: its unit, and what its words do to the value (LaTeX to append)."""

    core: str
    unit: Unit
    factor: str = ""


def split_tail(text: str, bare_letters: bool, loose_nouns: bool) -> Tail | None:
    """The longest end of `text` that is a unit behind a number; None where there is none.

    `bare_letters` takes a last letter without \\text for a unit, `loose_nouns` plain words that nobody knows: both are
    right only where the gold answer has no letters.
    """
    text = _UNIT_FRACTION.sub(r"\1/\2", text)
    pieces = list(_PIECE.finditer(text))
    start = len(pieces)
    while (
        start > len(pieces) - MAX_PIECES and start and _may_belong(pieces[start - 1], text, bare_letters, loose_nouns)
    ):
        start -= 1
    while start < len(pieces):  # the longest run first, then without its first pieces
        core = text[: pieces[start].start()].strip()
        tail = _read(pieces[start:]) if _ends_a_value(core, pieces[start]) else None
        if tail is not None:
            unit, factor = tail
            if not (
                unit.known or factor or unit.nouns or re.search(r"[A-Za-z]{2}", text[len(core) :].partition("{")[2])
            ):
                return None  # "3 a": a variable
            return Tail(core, unit, factor)
        start += 1
    return None


def _ends_a_value(core: str, first: re.Match[str]) -> bool:
    if first.lastgroup not in ("macro", "word", "degree") or not re.search(r"\d|\\pi", core):
        return bool(first.lastgroup == "macro" and re.search(r"[A-Za-z]$|\}$", core) and _all_units(first.group()))
    plain = first.lastgroup == "word"
    return bool(re.search(r"(?:\d|\\pi|[)}]|\\%|!)\s*$" if plain else r"(?:[\d)}\]!.A-Za-z]|\\%)\s*$", core)) and not (
        core.endswith(("_", "^", "\\frac")) or re.search(r"[_^]\s*$", core)
    )


def _all_units(macro: str) -> bool:
    match = _MACRO.fullmatch(macro)
    words = re.findall(r"[^\W\d_]+", match.group(2)) if match else []
    return bool(words) and len(words[0]) > 1 and all(unit_of(word) for word in words)


def _may_belong(piece: re.Match[str], text: str, bare_letters: bool, loose_nouns: bool) -> bool:
    """Whether a piece can be part of a unit at all."""
    kind, word = piece.lastgroup, piece.group().rstrip(".")
    if kind == "macro":
        return _macro_words(piece.group()) is not None
    if kind != "word":
        return kind != "other"
    if word.lower() in lexicon.POWER_PREFIXES or word.lower() in lexicon.POWER_SUFFIXES or word in ("per", "of"):
        return True
    if word.lower() in lexicon.FACTORS:
        return word.lower() not in ("score", "gross", "third", "second") or loose_nouns
    if len(word) == 1:
        before = text[: piece.start()]
        compound = re.search(r"[A-Za-z}]\s*(?:\^\s?\{?-?\d\}?\s*)?/\s*$", before) or re.match(
            r"\s*/\s*(?:\\[a-z]+\{\s*)?[A-Za-z]", text[piece.end() :]
        )
        spaced = word in lexicon.BARE_UNITS_SPACED and before[-1:] == " "
        return unit_of(word) is not None and bool(
            (bare_letters and (word in lexicon.BARE_UNITS or spaced or compound)) or (compound and before[-1:] in " /")
        )
    if unit_of(word) is not None:
        return word.lower() not in ("in", "a") or text[piece.end() :].strip() == ""
    return (loose_nouns and text[: piece.start()][-1:] == " " and _is_noun(word)) or word in ("each", "a")


def _macro_words(macro: str) -> list[str] | None:
    """The words of a text macro where all of them may stand behind a number, else None."""
    match = _MACRO.fullmatch(macro)
    assert match is not None
    name, content = match.group(1), match.group(2).replace("\\cdot", " ")
    if name != "mathrm" and content.strip() in lexicon.ROMAN_UNITS:
        return None
    if not re.fullmatch(r"(?:[^\W_]|[\s.,\-/'*·^{}()])*", content) or content.strip()[:1].isdigit():
        return None
    words = [word for word in re.findall(r"[^\W\d_]+", content) if word != "s" or "'" not in content]
    if name in lexicon.VARIABLE_MACROS and words and len(words[0]) == 1:
        return None
    for word in words:
        low = word.lower()
        known = unit_of(word) or low in lexicon.POWER_PREFIXES or low in lexicon.POWER_SUFFIXES
        if not (known or low in lexicon.UNIT_FILLERS or low in lexicon.FACTORS or _is_noun(word)):
            return None
    return words


def _is_noun(word: str) -> bool:
    """A word that can only name what is counted."""
    low = word.lower()
    if low in lexicon.VALUE_WORDS or low.endswith(lexicon.VALUE_ENDINGS) or low in lexicon.FUNCTIONS:
        return False
    return len(word) > 2 or low in ("on", "by", "of", "ad")


def _read(pieces: list[re.Match[str]]) -> tuple[Unit, str] | None:
    """(unit, what the words do to the value) of a run of pieces; None where they are no unit."""
    words = _flatten(pieces)
    unit, factor, sign, power_next, last = NO_UNIT, "", 1, 1, None
    known = False
    for kind, value in words:
        if kind == "over":
            sign, last = -1, None
        elif kind == "power":
            if last is None:
                return None
            unit = unit.times(last.power(int(value) - 1) if int(value) != 1 else Unit())
        elif value in lexicon.POWER_PREFIXES:
            power_next = lexicon.POWER_PREFIXES[value]
        elif value in lexicon.POWER_SUFFIXES:
            n = lexicon.POWER_SUFFIXES[value]
            if last is not None:
                unit = unit.times(last.power(n - 1))
            elif known or factor or unit.nouns:
                return None
            else:
                factor = f"^{{{n}}}"
        elif kind == "degree":
            last = unit_of(value)
            assert last is not None
            unit, known = unit.times(last), True
        elif (found := unit_of(value)) is not None:
            last = found.power(sign * power_next)
            unit, known, power_next = unit.times(last), True, 1
        elif value.lower() in lexicon.FACTORS:
            if known or unit.nouns:
                return None
            factor += rf"\cdot {in_latex(lexicon.FACTORS[value.lower()])}"
        elif value.lower() not in lexicon.UNIT_FILLERS:
            unit = Unit(unit.dimension, unit.size, unit.pi, unit.nouns | {_stem(value)}, known)
    if power_next != 1 and not unit.nouns:
        unit = Unit(unit.dimension, unit.size, unit.pi, unit.nouns | {"square"}, known)
    return Unit(unit.dimension, unit.size, unit.pi, unit.nouns, known), factor


def _flatten(pieces: list[re.Match[str]]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for piece in pieces:
        kind, text = piece.lastgroup, piece.group()
        if kind == "macro":
            match = _MACRO.fullmatch(text)
            assert match is not None
            for part in re.finditer(r"(/)|(\^?\{?-?\d\}?)|([^\W\d_]+)", match.group(2)):
                if part.group(1) or part.group() == "per":
                    found.append(("over", "/"))
                elif part.group(2):
                    found.append(("power", re.sub(r"[^-\d]", "", part.group(2))))
                elif part.group(3) != "s" or "'" not in match.group(2):
                    found.append(("word", _lower_modifier(part.group(3))))
        elif kind == "power":
            found.append(("power", re.sub(r"[^-\d]", "", text)))
        elif kind == "degree":
            letter = re.sub(r"\\[a-z]+", "", text)
            found.append(("degree", "degC" if "C" in letter else "degF" if "F" in letter else "degree"))
        elif kind == "over" or text == "per":
            found.append(("over", "/"))
        elif kind == "word":
            found.append(("word", _lower_modifier(text.rstrip("."))))
    return _merge_degrees(found)


def _merge_degrees(found: list[tuple[str, str]]) -> list[tuple[str, str]]:
    r"""Degrees with a scale behind them, "degrees Fahrenheit", `^\circ \mathrm{C}`, are one unit."""
    merged: list[tuple[str, str]] = []
    scales = {"C": "degC", "F": "degF", "celsius": "degC", "fahrenheit": "degF"}
    for kind, value in found:
        scale = scales.get(value if len(value) == 1 else value.lower())
        if scale and merged and merged[-1][1].lower() in ("degree", "degrees", "deg"):
            merged[-1] = ("degree", scale)
        else:
            merged.append((kind, value))
    return merged


def _lower_modifier(word: str) -> str:
    low = word.lower()
    return low if low in lexicon.POWER_PREFIXES or low in lexicon.POWER_SUFFIXES else word


def _stem(word: str) -> str:
    low = word.lower()
    return low[:-3] + "y" if low.endswith("ies") else low[:-1] if low.endswith("s") else low
