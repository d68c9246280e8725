r"""How a written answer is read: which kind it is, its unit, its base, and the LaTeX that is left for math-verify.

The rules exist because math-verify's own units and separators let wrong answers pass: it reads `1 2` as 3, drops the
base of `1011_2`, takes the last letter of `\pi r^2 h` for a unit, and calls `yes` and `sey` equal.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product

from mrt.reasoning.grading import kinds, lexicon
from mrt.reasoning.grading.kinds import Form
from mrt.reasoning.grading.math_text import MAX_TOKENS, TEXT, Unreadable, check_limits, tidy
from mrt.reasoning.grading.unit_tail import Tail, split_tail
from mrt.reasoning.grading.units import NO_UNIT, Unit, scale_between, unit_of

MAX_WORDS = 400  # in an answer with words
MAX_LENGTH = 6000  # characters once spelled; what follows is not linear in them
MAX_QUANTITY = 300  # characters of a quantity in two units
MAX_SIGNS = 4  # of plus-minus in one answer; each doubles what is compared

_COMMA_NUMBER = re.compile(r"(.*?)(?<![\d.,])(\d{1,3}(?:,\d{3})+)((?:\.\d+)?)")
_MIXED_NUMBER = re.compile(r"(-?\d{1,30}) (\d{1,30})\s?/\s?(\d{1,30})")
_NAMED_BASE = rf"\(?(?:{TEXT}\{{)?\s*\(?base\b[ -]?\}}?\s*(\d{{1,2}}|[a-z]+)\)?\s*\}}?\)?"
_BASE = re.compile(
    rf"\(?(-?\d[0-9A-Fa-f]*|[A-F\d]{{2,}}(?=\)?\s?_\s?\{{?16))\)?\s?(?:_\s?(?:\{{?(\d{{1,2}}|[a-z]{{3,}})\}}?)|{_NAMED_BASE})"
)
_LEAD_IN = re.compile(
    rf"(?:{TEXT}\{{)?\s*(?:{'|'.join(lexicon.LEAD_INS)})(?:\s*\}})?(?=[\s\\$(\[:=\d-])\s*[:=]?\s*(?=\S)", re.IGNORECASE
)
_CURRENCY = re.compile(r"([-+]?)\s?(?:\\\$|([£€¥₹]))\s?([-+]?)(?=[\d.\\])")
_SIGNS = {"£": "gbp", "€": "euro", "¥": "yen", "₹": "rupee"}
_TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
_DEGREES = re.compile(r"(\d+(?:\.\d+)?)\s*\^\s?\{?\s?\\circ(?![A-Za-z])\s?\}?")
_OPERATOR_END = re.compile(r"(?:[-+*/=<>^_]|\\(?:cdot|times|le|ge|ne|cup|cap|in|pm|frac|sqrt))$")
_INTERVAL = r"[\[(][^\[\]()]*(?:\([^()]*\)[^\[\]()]*)*,.*[\])]"


def read(text: str, max_chars: int, letter_units: bool = False, loose_words: bool = False) -> Form:
    """One answer as a `Form`.

    `letter_units` takes a last letter or an unknown word for a unit ("5 m", "5 pages"), right only where the gold
    answer has no letters; `loose_words` takes any run of letters for a word, right only where the gold answer is words.

    Raises:
        Unreadable: for an answer beyond the limits, or one that cannot be read in a single way.
    """
    check_limits(text, max_chars)
    text = tidy(text)
    if re.search(r"(?<!\\)\b[A-Za-z]{40}", text) or text.count(" ") > 2 * MAX_WORDS or len(text) > MAX_LENGTH:
        raise Unreadable("prose")
    if len(re.findall(r"\\[A-Za-z]+|\d+|\S", re.sub(r"[A-Za-z]{4,}", "", text))) > MAX_TOKENS:
        raise Unreadable(f"an expression of more than {MAX_TOKENS} tokens")
    text = _one_of_two(_without_lead_in(text))
    if not text:
        raise Unreadable("empty")
    for recognise in (kinds.choice, kinds.clock, kinds.ratio):
        form = recognise(text)
        if form is not None:
            return form
    form = kinds.words(text, loose_words)
    if form is not None:
        return form
    base = _BASE.fullmatch(re.sub(rf"{TEXT}\{{\s*([\dA-F]+)\s*\}}(?=\s*_)", r"\1", text))
    if base:
        name = base.group(2) or base.group(3)
        return Form(base.group(1), base=lexicon.BASES.get(name, name))
    built = kinds.congruence(text) or kinds.set_builder(text)
    if isinstance(built, Form):
        return built
    return _quantity(built or text, letter_units)


def _without_lead_in(text: str) -> str:
    """The answer without "the answer is", a leading sign of approximation or an equals sign at its start."""
    for _ in range(3):
        text = re.sub(r"^(?:\\approx(?![A-Za-z])|[:=])\s*", "", text)
        match = _LEAD_IN.match(text)
        if match is None or not re.search(r"\w", text[match.end() :]):
            break
        rest = text[match.end() :]
        text = rest.replace("}", "", 1) if rest.count("}") > rest.count("{") else rest
    return text


def _one_of_two(text: str) -> str:
    """The second spelling of "x<1 : (-infinity, 1)", the first of two intervals set equal, the inside of [x=1, y=2]."""
    if not text.endswith((")", "]", "}", "\\emptyset")) and ":" not in text:
        return text
    both = re.fullmatch(rf"(?:.*(?:<|>|\\le|\\ge).*?|[A-Za-z .]*)\s*:\s*({_INTERVAL}|\\emptyset|\\mathbb\{{R\}})", text)
    if both:
        return both.group(1)
    named = re.fullmatch(r"[^=:]*:[^=]*=\s*([^=:]+(?::[^=:]+)+)", text)
    if named:
        return named.group(1)
    equal = re.fullmatch(rf"({_INTERVAL})\s*=\s*{_INTERVAL}", text)
    if equal and text.count("=") == 1 and re.search(r"\d|\\infty", equal.group(1)):
        return equal.group(1)
    assigned = re.fullmatch(r"\[\s*(\w+\s*=[^\[\]]*)\]", text)
    return assigned.group(1) if assigned else text


def split_list(text: str) -> list[str]:
    """The items of a list: cut at commas, semicolons, "and" and "or" that stand in no bracket."""
    items, depth, start = [], 0, 0
    for match in re.finditer(
        rf"{TEXT}\{{\s*,?\s*(?:and|or)\s*\}}|\\.|[(){{}}\[\],;]|(?<![\\A-Za-z])(?:and|or)(?![A-Za-z])", text
    ):
        mark = match.group()
        if mark in "({[" or mark == "\\{":
            depth += 1
        elif mark in ")}]" or mark == "\\}":
            depth -= 1
        elif (depth == 0 and mark[0] != "\\") or (mark[0] == "\\" and len(mark) > 2 and depth == 0):
            items.append(text[start : match.start()].strip())
            start = match.end()
    items.append(text[start:].strip())
    return [item for item in items if item]


def _quantity(text: str, letter_units: bool) -> Form:
    """A number, an expression or a list, its unit taken off; a mixture where words are left."""
    items = split_list(text)
    if len(items) > 1 and not _COMMA_NUMBER.fullmatch(text):
        form = _list(items, text, letter_units)
    else:
        form = _single(text, letter_units)
    core = re.sub(rf"{TEXT}\{{\s*([A-Za-z\d.,+-]|[\d.,/\s+-]+)\s*\}}", r"{\1}", form.core)  # a letter, a number
    core = _signs(core)
    if kinds.has_words(core):
        return kinds.mixture(core if form.core == text else text)
    core = kinds.unwrapped_words(core)
    number = _COMMA_NUMBER.fullmatch(core)
    if number and not re.search(r"[\d,;(]", number.group(1)):
        core = number.group(1) + number.group(2).replace(",", "") + number.group(3)
    mixed = _MIXED_NUMBER.fullmatch(core)
    if mixed:
        core = rf"{mixed.group(1)}\frac{{{mixed.group(2)}}}{{{mixed.group(3)}}}"
    if re.search(r"\d ++(?:\d|\.\d)", core):
        raise Unreadable("numbers side by side")
    if _OPERATOR_END.search(core):
        raise Unreadable("it ends in an operator")
    return replace(form, core=core)


def _list(items: list[str], text: str, letter_units: bool) -> Form:
    """A list whose items may carry units; they are taken off where all that are known agree."""
    forms = [_single(item, letter_units) for item in items]
    units = [form.unit for form in forms if form.unit.known and form.unit]
    if any(form.percent for form in forms) or not any(
        form.core != item for form, item in zip(forms, items, strict=True)
    ):
        return Form(text)
    if any(scale_between(units[0], unit) != "" for unit in units):
        summed = _single(" ".join(items), letter_units)  # 5 dollars and 3 cents
        return summed if "+" in summed.core and len(items) == len(units) else Form(text)
    return Form(", ".join(form.core for form in forms), unit=units[0] if units else NO_UNIT)


def _single(text: str, letter_units: bool) -> Form:
    currency = _CURRENCY.match(text)
    if currency:
        name = _SIGNS.get(currency.group(2) or "", "dollar")
        rest = text[currency.end() :]
        tail = split_tail(rest, False, letter_units)
        core = tail.core + tail.factor if tail else rest
        return Form(currency.group(1) + currency.group(3) + core, unit=unit_of(name) or Unit())
    percent = re.fullmatch(r"(.*\d.*?)\s*\\%", text) if text.endswith("%") else None
    if percent and "\\%" not in percent.group(1) and "=" not in percent.group(1):
        return Form(percent.group(1).strip(), percent=True)
    tail = split_tail(text, letter_units, letter_units)
    if tail is None or _TRIGONOMETRIC.search(tail.core):
        return Form(_in_radians(text))
    if text[len(tail.core) :].strip() in lexicon.BARE_UNITS | lexicon.BARE_UNITS_SPACED and _letters(tail.core):
        return Form(text)
    core, unit = _added_up(tail, letter_units)
    percent = re.fullmatch(r"(.*\d.*?)\s*\\%", core) if core.endswith("%") else None
    core = f"({core}){tail.factor}" if tail.factor else core
    return Form(percent.group(1) if percent else core, unit=unit, percent=percent is not None)


def _in_radians(text: str) -> str:
    r"""\sin 30^\circ as the sine of 30 pi / 180: a degree under a function is no unit of the answer."""
    if "\\circ" not in text or not _TRIGONOMETRIC.search(text):
        return text
    return _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text)


def _letters(core: str) -> bool:
    return re.search("[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", core)) is not None


def _added_up(tail: Tail, letter_units: bool) -> tuple[str, Unit]:
    """5 feet 4 inches as 5 + 4/12 feet: (the sum, its unit)."""
    match = re.fullmatch(
        rf"(.*[^\d\s.,(+\-*/=]\s*?)(?:,|and|{TEXT}\{{\s*and\s*\}})?\s*(\d+(?:\.\d+)?)", tail.core[-MAX_QUANTITY:]
    )
    match = match if len(tail.core) < MAX_QUANTITY else None
    before = split_tail(match.group(1).strip(), letter_units, False) if match and tail.unit.known else None
    if match is None or before is None or not re.fullmatch(r"[\d.,\\ a-z{}/-]+", before.core) or not before.unit.known:
        return tail.core, tail.unit
    scale = scale_between(before.unit, tail.unit)
    if scale is None or before.factor or tail.factor:
        return tail.core, tail.unit
    larger, unit = _added_up(before, letter_units)
    scale = scale_between(unit, tail.unit)
    return rf"{larger} + ({match.group(2)}) {scale}", unit


def _signs(core: str) -> str:
    r"""Every \pm written out, item by item: \frac{-3 \pm \sqrt5}{2} is the list of both; \mp takes the other sign."""
    if "\\pm" not in core and "\\mp" not in core:
        return core
    core = core if "\\pm" in core else core.replace("\\mp", "\\pm")
    inner = re.fullmatch(r"\\\{((?:(?!\\\{).)*)\\\}", core)
    items = split_list(inner.group(1) if inner else core)
    found: list[str] = []
    for item in items:
        count = len(re.findall(r"\\pm(?![A-Za-z])", item))
        if count > MAX_SIGNS or (not count and "\\mp" in item):
            return core
        for signs in product("+-", repeat=count):
            left = iter(signs)
            spelled = re.sub(r"\\pm(?![A-Za-z])", lambda _, left=left: next(left), item)  # type: ignore[misc]
            other = "-" if signs[:1] == ("+",) else "+"
            spelled = re.sub(r"\\mp(?![A-Za-z])", lambda _, other=other: other, spelled)  # type: ignore[misc]
            found.append(re.sub(r"(^|[=(,{<>]|\\n?e)\s*\+\s*", r"\1 ", spelled).strip())
    if len(found) > 2**MAX_SIGNS:
        return core
    joined = ", ".join(found)
    return rf"\{{{joined}\}}" if inner else joined
