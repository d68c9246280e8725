r"""How a written mathematical answer is read before it is compared: limits, separators, units, words.

Everything here is plain text and linear in the length of the input; the mathematics itself is in `math_worker.py`. The
rules exist because math-verify's own units and separators let wrong answers pass: it reads `1 2` as 3, drops the
base of `1011_2`, takes the last letter of `\pi r^2 h` for a unit, and calls `yes` and `sey` equal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_DIGITS = 1000  # in one number
MAX_DEPTH = 20  # brackets inside brackets
MAX_CARETS = 4  # exponents stacked on each other
MAX_ITEMS = 200  # separators in a list
MAX_TOKENS = 600  # a millisecond each to parse
MAX_PROSE = 12  # long words outside commands

_UNICODE = {
    **{chr(0xFF10 + d): str(d) for d in range(10)},
    **{c: f"^{{{i}}}" for i, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{c: f"_{{{i}}}" for i, c in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    **{c: rf"\frac{{{a}}}{{{b}}}" for c, a, b in [("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4)]},
    **dict.fromkeys("−–‐‑－", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\t\r\n~", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ "},
    **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap "},
    **{"∈": r"\in ", "∅": r"\emptyset ", "√": r"\sqrt ", "，": ",", "％": "%", "＝": "=", "（": "(", "）": ")"},
}
_TABLE = str.maketrans(_UNICODE)

_TEXT = r"\\(?:text|textrm|textbf|textit|textnormal|mathrm|mathbf|mathit|mbox|operatorname)(?![A-Za-z])\s*"
_GROUP = r"(?:\{,\}|\\[,;:! ]|[ ])"  # what stands between the thousands; a plain comma is math-verify's to read
_THOUSANDS = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:(?:{_GROUP}|,\\!\s?)\d{{3}})+(?!\d)")
_COMMA_NUMBER = re.compile(r"(-?\s?)(\d{1,3}(?:,\d{3})+)((?:\.\d+)?\s?(?:\\?%)?)")
_REPEATING = re.compile(r"(\d{0,20})\.(\d{0,20})\\(?:overline|bar)\s?\{(\d{1,20})\}")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\\\d.])(\d{1,30}(?:\.\d{1,30})?)[eE]([+-]?\d{1,6})(?![\d.A-Za-z])")
_MIXED = re.compile(r"(-?\d{1,30}) (\d{1,30})\s?/\s?(\d{1,30})")
_BASE = re.compile(rf"(-?\d[0-9A-Fa-f]*)\s?_\s?(?:\{{?(\d{{1,2}})\}}?|\{{?{_TEXT}\{{(\w+)\}}\}}?)")
_SET_BUILDER = re.compile(r"\\\{ ?([a-z]) ?(?:\\in ?\\mathbb\{R\} ?)?(?:\\mid|\\vert|\||:)(?![A-Za-z]) ?(.*)\\\}")
_TEXT_TAIL = re.compile(_TEXT + r"\{([^{}]*)\}\s?(?:\^\s?\{?-?\d\}?)?$")
_WORD_TAIL = re.compile(r"(?<=[\d}) ])([A-Za-z]+(?:[ /.]{1,2}[A-Za-z]+){0,4})(?:\^\s?\{?-?\d\}?)?$")
_LETTER_TAIL = re.compile(r"(?<=[\d} ])[A-Za-z]$")

_UNIT_NAMES = """
mm millimeter millimeters millimetre millimetres; cm centimeter centimeters centimetre centimetres
km kilometer kilometers kilometre kilometres; m meter meters metre metres; in inch inches; ft foot feet
yd yard yards; mi mile miles; mg milligram milligrams; g gram grams; kg kilogram kilograms; lb lbs pound pounds
oz ounce ounces; ml milliliter milliliters; l liter liters litre litres; gal gallon gallons
s sec second seconds; min minute minutes; h hr hrs hour hours; day days; week weeks; month months; year years
degree degrees deg; rad radian radians; dollar dollars usd; cent cents; euro euros; mph; kmh kph; unit units
people person; pm; am; students; ways; apples; coins; marbles
"""
_UNITS = {n: names.split()[0] for names in re.split("[;\n]", _UNIT_NAMES.strip()) for n in names.split()}
_MODIFIERS = {"square", "squared", "cubic", "cubed", "sq", "cu", "per", "a", "an", "of"}
_NOT_UNITS_TEXT = """
or and to not is isn no than about approximately million billion trillion thousand hundred dozen tens percent pct half
third quarter times plus minus negative if for when base mod modulo factorial with more less
"""
_NOT_UNITS = set(_NOT_UNITS_TEXT.split())
_SHORT_WORDS = {"no", "yes", "odd", "dne", "one", "two", "six", "ten", "all"}
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}


class Unreadable(ValueError):
    """An answer beyond the limits, or one that cannot be read in a single way; the text says which."""


@dataclass(frozen=True)
class Form:
    """One answer, read: `core` is LaTeX for math-verify; the rest was taken off it."""

    core: str
    key: str  # equal keys mean the same spelling
    unit: tuple[str, ...] = ()  # () where there is none or it is no known unit
    base: str = ""
    words: tuple[str, ...] = ()  # not empty where the answer is words, compared as words


def check_limits(text: str, max_chars: int) -> None:
    """Raises `Unreadable` for what would be expensive to parse or is no answer; linear time."""
    if len(text) > max_chars:
        raise Unreadable(f"{len(text)} characters, the limit is {max_chars}")
    if not text.strip():
        raise Unreadable("empty")
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        raise Unreadable(f"a number of more than {MAX_DIGITS} digits")
    if text.count(",") + text.count(";") + text.count("\\\\") > MAX_ITEMS:
        raise Unreadable(f"a list of more than {MAX_ITEMS} items")
    if re.search(rf"(?:\^[{{(]{{0,9}}[\w.!\\]{{0,30}}\){{0,9}}){{{MAX_CARETS + 1}}}", "".join(text.split())):
        raise Unreadable(f"a tower of more than {MAX_CARETS} exponents")
    depth = braces = 0
    for match in re.finditer(r"\\.|[({\[\])}]", text, re.DOTALL):
        mark = match.group()
        if mark in "({[":
            depth += 1
        elif mark in ")}]":
            depth -= 1
        braces += (mark == "{") - (mark == "}")
        if depth > MAX_DEPTH:
            raise Unreadable(f"brackets nested more than {MAX_DEPTH} deep")
        if braces < 0:
            break
    if braces:
        raise Unreadable("unbalanced braces")


def read(text: str, max_chars: int, letter_units: bool = False, loose_words: bool = False) -> Form:
    """One answer as a `Form`.

    `letter_units` takes a single last letter for a unit ("5 m"), right only where the gold answer has no
    letters; `loose_words` takes any run of letters for a word, right only where the gold answer is words.
    """
    check_limits(text, max_chars)
    text = _tidy(text)
    if not text:
        raise Unreadable("empty")
    words = _words(text, loose_words)
    if words:
        return Form(text, " ".join(words), words=words)
    if len(re.findall(r"(?<![A-Za-z\\])[A-Za-z]{4,}", text)) > MAX_PROSE or re.search(r"(?<!\\)\b[A-Za-z]{40}", text):
        raise Unreadable("prose")
    if len(re.findall(r"\\[A-Za-z]+|\d+|\S", text)) > MAX_TOKENS:
        raise Unreadable(f"an expression of more than {MAX_TOKENS} tokens")
    base = _BASE.fullmatch(text)
    if base:
        number, digits, name = base.groups()
        return Form(number, number, base=digits or _BASES.get(name, name))
    core, unit = _split_unit(text, letter_units)
    number = _COMMA_NUMBER.fullmatch(core)
    if number:
        core = number.group(1) + number.group(2).replace(",", "") + number.group(3)
    mixed = _MIXED.fullmatch(core)
    if mixed:
        core = rf"{mixed.group(1)}\frac{{{mixed.group(2)}}}{{{mixed.group(3)}}}"
    if re.search(r"\d ++(?:\d|\.\d)", core):
        raise Unreadable("numbers side by side")
    return Form(core, re.sub(r"\s+", "", core), unit)


def _tidy(text: str) -> str:
    """One spelling for spaces, dollars, fractions, thousands, repeating decimals and powers of ten."""
    text = re.sub(r"\s+", " ", text.translate(_TABLE))
    text = re.sub(r"\\(?:displaystyle|textstyle|left|right|[bB]igg?[lr]?)(?![A-Za-z])", "", text)
    text = re.sub(r"\\[()]|\\\[|(?<!\\)\\\]", " ", text) if text.lstrip().startswith(("\\(", "\\[")) else text
    text = re.sub(r"(?<!\\)\$", "", text)
    text = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match.group()), text)
    text = re.sub(r"(?<!\\)\\(?:[,;:!> ]|q?quad(?![A-Za-z])|enspace(?![A-Za-z]))", " ", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\sqrt\s*(\d+)", r"\\sqrt{\1}", text)
    text = re.sub(r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}", text)
    text = re.sub(r"\\langle(?![A-Za-z])", "(", re.sub(r"\\rangle(?![A-Za-z])", ")", text))
    text = re.sub(rf"\s?(?:{_TEXT}\{{\s*(?:percent|pct)\s*\}}|\b(?:percent|pct)\b)", r"\\%", text)
    text = re.sub(r"\binfinity\b", r"\\infty", text).replace(r"\varnothing", r"\emptyset").replace("{:}", ":")
    text = re.sub(r"([_^])\s?(\d)(?!\d)", r"\1{\2}", text)
    text = re.sub(r"\b([ap])\.\s?m\b\.?", r"\1m", text)
    text = _REPEATING.sub(_fraction_of_repeating, text)
    text = _SCIENTIFIC.sub(r"\1\\times 10^{\2}", text)
    text = _drop_doubled(re.sub(r"\s+", " ", text).strip())
    builder = _SET_BUILDER.fullmatch(text)
    if builder and builder.group(1) in builder.group(2):
        text = builder.group(2).strip()
    return re.sub(r"(?:(?<=[^.\s])\.|[,;:])\s*$", "", text).strip()


def _drop_doubled(text: str) -> str:
    """((x)) becomes (x), {{x}} becomes {x} and a pair of braces around everything goes: the parser is slow on them."""
    partner: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[(){}]", text):
        if match.group() in "({":
            stack.append(match.start())
        elif match.group() in ")}" and stack and text[stack[-1]] + match.group() in ("()", "{}"):
            partner[stack.pop()] = match.start()
    drop = {i for i, j in partner.items() if i - 1 in partner and partner[i - 1] == j + 1 and text[i - 1] == text[i]}
    if text.startswith("{") and partner.get(0) == len(text) - 1:
        drop.add(0)
    drop |= {partner[i] for i in drop}
    return "".join(char for i, char in enumerate(text) if i not in drop).strip() if drop else text


def _fraction_of_repeating(match: re.Match[str]) -> str:
    whole, fixed, repeated = match.groups()
    numerator = int(whole + fixed + repeated) - int(whole + fixed or "0")
    return rf"\frac{{{numerator}}}{{{10 ** len(fixed) * (10 ** len(repeated) - 1)}}}"


def _words(text: str, loose: bool) -> tuple[str, ...]:
    r"""Lower-case words or phrases in sorted order where the whole answer is words, "\text{Red} and blue"; else ()."""
    wrapped = bool(re.match(_TEXT + r"\{", text))
    plain = re.sub(_TEXT, " ", text).replace("{", " ").replace("}", " ")
    plain = re.sub(r"\\?[\"'`]|\\_", "", plain)
    if not re.fullmatch(r"[A-Za-z ,;.-]+", plain):
        return ()
    parts = [" ".join(part.replace(".", " ").split()) for part in re.split(r"[,;]|\band\b|\bor\b", plain.lower())]
    parts = sorted(part for part in parts if re.search("[a-z]", part))
    letters = [len(word) for part in parts for word in part.split()]
    if not parts or (len(parts) == 1 and letters == [1]):
        return ()  # a single letter is a variable or a choice
    wordy = min(letters) >= 2 and (max(letters) >= 4 or set(parts) <= _SHORT_WORDS)
    return tuple(parts) if loose or wordy or (wrapped and max(letters) > 1) else ()


def _split_unit(text: str, letter_units: bool) -> tuple[str, tuple[str, ...]]:
    """(what stands before the unit, the known unit). A tail is a unit only after a digit or a pi."""
    currency = re.match(r"(-?)\s?(?:\\\$|([£€]))\s?(?=[\d.\\-])", text)
    if currency:
        return currency.group(1) + text[currency.end() :], ("euro" if currency.group(2) == "€" else "dollar",)
    degrees = re.fullmatch(r"(-?[\d.]+)\s?\^\s?\{?\s?\\circ\s?\}?", text)
    if degrees:
        return degrees.group(1), ("degree",)
    tail = _TEXT_TAIL.search(text)
    wrapped = tail is not None
    tail = tail or _WORD_TAIL.search(text)
    if tail:
        core = text[: tail.start()].strip()
        names = re.findall(r"[a-z]+", tail.group(1).lower())
        known = all(n in _UNITS or n in _MODIFIERS for n in names) and (wrapped or len(tail.group(1)) > 1)
        wordy = wrapped and not _NOT_UNITS.intersection(names)
        allowed = (known or wordy) and re.fullmatch(r"[A-Za-z .\-/']*", tail.group(1))
        if allowed and re.search(r"\d|\\pi", core):
            nouns = [n for n in names if n not in _MODIFIERS]
            return core, tuple(_UNITS[n] for n in nouns) if all(n in _UNITS for n in nouns) else ()
    if letter_units and _LETTER_TAIL.search(text) and text[-1].lower() in _UNITS:
        return text[:-1].strip(), (_UNITS[text[-1].lower()],)
    return text, ()
