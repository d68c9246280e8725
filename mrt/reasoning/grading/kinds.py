r"""The kinds of answer that are not one mathematical expression, each with the function that recognises it.

A function gets a spelled answer (`math_text.tidy`) and returns a `Form`, or None where it is of another kind. The
order in which they are tried stands in `form.read`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from mrt.reasoning.grading import lexicon
from mrt.reasoning.grading.math_text import TEXT
from mrt.reasoning.grading.units import NO_UNIT, Unit


class Kind(StrEnum):
    """What an answer is, and so what it can be equal to."""

    MATH = "mathematics"  # one expression, list, set, interval, equation: math-verify's
    WORDS = "words"  # compared as words, in any order
    CHOICE = "choice"  # letters of a multiple choice
    CLOCK = "time of day"
    RATIO = "ratio"
    MIXED = "words and mathematics"  # the words alike and in order, the mathematics between them equal


@dataclass(frozen=True)
class Form:
    """One answer, read: `core` is LaTeX for math-verify; the rest was taken off it."""

    core: str
    kind: Kind = Kind.MATH
    unit: Unit = NO_UNIT
    base: str = ""
    percent: bool = False
    words: tuple[str, ...] = ()  # of words, choices, clocks; of a mixture with "" where mathematics stands
    parts: tuple[str, ...] = ()  # the mathematics of a mixture, the terms of a ratio

    @property
    def key(self) -> str:
        """Equal keys mean the same spelling."""
        return re.sub(r"\s+", "", self.core)


def unwrapped(text: str) -> str:
    r"""The text without its \text macros and braces."""
    return " ".join(re.sub(TEXT, " ", text).replace("{", " ").replace("}", " ").split())


_LABEL = re.compile(
    rf"(?:{TEXT}\{{\s*)?(\()?([A-J])(?(1)\))\s*(?:\}})?\s*(?:(?<=[)}}])(?=\s|\\|$|[:.])|[:.)](?=\s|\}}))(.*)", re.DOTALL
)
_OTHER_LABEL = re.compile(r"\([A-J]\)|(?<![A-Za-z])[A-J][:)]|\b(?:or|and)\b[^A-Za-z]{0,9}[A-J](?![A-Za-z])")


def choice(text: str) -> Form | None:
    """C, (C), \\textbf{(C)} 12, C: the third; A, B and D."""
    plain = unwrapped(text)
    single = re.fullmatch(r"\(?\s*([A-J])\s*\)?\.?", plain)
    if single:
        return Form(single.group(1), Kind.CHOICE, words=(single.group(1),))
    listed = re.fullmatch(r"\(?[A-J]\)?(?:(?:\s?[,;&]\s?(?:and |or )?|\s(?:and|or)\s)\(?[A-J]\)?)+", plain)
    if listed:
        letters = sorted(set(re.findall(r"(?<![a-z])[A-J](?![a-z])", plain)))
        return Form(text, Kind.CHOICE, words=tuple(letters))
    labelled = _LABEL.fullmatch(text)
    rest = re.sub(r"\}(?=[^{]*$)", "", labelled.group(3), count=1) if labelled and _open(labelled.group(3)) else None
    if labelled and rest is None:
        rest = labelled.group(3)
    if not labelled or rest is None or not re.search(r"\w\w|\d", rest) or _OTHER_LABEL.search(rest):
        return None
    return Form(rest.strip(" :."), Kind.CHOICE, words=(labelled.group(2),))


def _open(text: str) -> bool:
    return text.count("}") > text.count("{")


_CLOCK = re.compile(r"(\d{1,2})(?:\s?:\s?(\d\d)(?:\s?:\s?(\d\d))?)?\s?(am|pm|AM|PM|noon|midnight)?\.?")


def clock(text: str) -> Form | None:
    """12:00, 9:00 am, 5 pm. A ratio whose second term has two digits below 60 is a time as well."""
    match = _CLOCK.fullmatch(unwrapped(text))
    if match is None or not (match.group(2) or match.group(4)):
        return None
    hour, minute, second = (int(part or 0) for part in match.groups()[:3])
    if hour > 24 or minute > 59 or second > 59:
        return None
    mark = lexicon.CLOCK_MARKS.get((match.group(4) or "").lower(), "")
    if mark and hour <= 12:
        hour = hour % 12 + (12 if mark == "pm" else 0)
    return Form(text, Kind.CLOCK, words=(str(hour), str(minute), str(second), mark))


def same_clock(a: Form, b: Form) -> bool:
    """The same time; where one does not say whether it is before noon, either will do."""
    hours, marks = [int(form.words[0]) for form in (a, b)], [form.words[3] for form in (a, b)]
    if a.words[1:3] != b.words[1:3]:
        return False
    return hours[0] == hours[1] or (not all(marks) and any(marks) and max(hours) - 12 == min(hours) <= 12)


def ratio(text: str) -> Form | None:
    r"""3:5, 1:2:3, 5 \text{ to } 3."""
    spelled = re.sub(rf"{TEXT}\{{\s*(to|:)\s*\}}|(?<=[\d}}a-z)]) to (?=[\d\\a-z(])", ":", text)
    terms = [term.strip() for term in spelled.split(":")]
    if len(terms) < 2 or re.search(
        r"[=<>,;|{}]|\\(?:le|ge|ne|to|mid|in|text)(?![A-Za-z])", re.sub(r"\\(?:frac|sqrt|binom)|[{}]", "", spelled)
    ):
        return None
    if any(not term or re.search(r"[A-Za-z]{2,}", re.sub(r"\\[A-Za-z]+", "", term)) for term in terms):
        return None
    core = rf"\frac{{{terms[0]}}}{{{terms[1]}}}" if len(terms) == 2 else spelled
    return Form(core, Kind.RATIO, parts=tuple(terms))


def words(text: str, loose: bool) -> Form | None:
    r"""An answer of words alone, "\text{Red} and blue": lower case, in sorted order.

    `loose` takes any run of letters for a word, right only where the gold answer is words.
    """
    wrapped = bool(re.match(TEXT + r"\{", text))
    plain = re.sub(r"\\?[\"'`’“”!?]|\\_", "", unwrapped(text))
    if not re.fullmatch(r"[^\W\d_](?:[^\W\d_]|[\s,;.()-])*", plain) or "\\" in plain:
        return None
    found = [
        " ".join(re.split(r"[\s.]+", part.strip(" ()."))) for part in re.split(r"[,;]|\band\b|\bor\b", plain.lower())
    ]
    found = sorted(part for part in found if part)
    letters = [len(word) for part in found for word in part.split()]
    if not found or (len(found) == 1 and letters == [1] and plain.isascii()):
        return None  # a single letter is a variable or a choice
    foreign = not plain.isascii()
    wordy = min(letters) >= 2 and (max(letters) >= 4 or set(found) <= lexicon.SHORT_WORDS)
    sentence = max(letters) >= 4 and any(part.split()[0] in lexicon.LITTLE_WORDS | lexicon.STOP_WORDS for part in found)
    if loose or wordy or foreign or sentence or (wrapped and max(letters) > 1):
        return Form(text, Kind.WORDS, words=tuple(found))
    return None


_MODULAR = re.compile(r"(.+?)\\equiv(?![A-Za-z])(.+?)\(?\s*\\(?:pmod|bmod)(?![A-Za-z])\s*\{?\s*([^{}()]+?)\s*\}?\s*\)?")


def congruence(text: str) -> Form | None:
    r"""n \equiv 3 \pmod 5: the left side, the residues modulo the modulus, the modulus."""
    if "\\equiv" not in text:
        return None
    text = re.sub(rf"{TEXT}\{{\s*\(?\s*mod\s*(\w+)\s*\)?\s*\}}", r"\\pmod{\1}", text)
    match = _MODULAR.fullmatch(re.sub(rf"\(?\s*{TEXT}\{{\s*mod\s*\}}|\(\s*mod(?![A-Za-z])", r"\\pmod ", text))
    if match is None:
        return None
    left, residues, modulus = (part.strip() for part in match.groups())
    found = [item.strip() for item in re.split(r",|\bor\b|\band\b", unwrapped(residues)) if item.strip()]
    if modulus.isdigit() and int(modulus):
        found = sorted(
            str(int(r) % int(modulus)) if re.fullmatch(r"-?\s?\d+", r) else r
            for r in (f.replace(" ", "") for f in found)
        )
    return Form(text, Kind.MIXED, words=("", "mod"), parts=(left, *found, modulus))


_BUILDER = re.compile(r"\\\{\s*(.+?)\s*(?:\\mid(?![A-Za-z])|\||:)\s*(.+?)\s*\\\}", re.DOTALL)


def set_builder(text: str) -> str | Form | None:
    r"""\{x | x > 3\} as the condition alone; any other set by its conditions as a mixture."""
    match = _BUILDER.fullmatch(text) if text.startswith("\\{") and text.endswith("\\}") else None
    if match is None or re.search(r"\\[{}]", match.group(1)):
        return None
    left, right = match.groups()
    name = re.fullmatch(r"([a-z])\s?(?:\\in\s?\\mathbb\{R\})?", left)
    conditions = [
        part.strip() for part in re.split(r",|;|\\wedge|\\land|\band\b", unwrapped_words(right)) if part.strip()
    ]
    if name and len(conditions) == 1 and name.group(1) in right and "\\in" not in right:
        return right
    if "\\{" in right or not conditions:
        return None
    return Form(text, Kind.MIXED, words=("set",), parts=(left, *sorted(re.sub(r"\s+", "", c) for c in conditions)))


def unwrapped_words(text: str) -> str:
    r"""\text{ and } as a plain word; other macros stay."""
    return re.sub(rf"{TEXT}\{{\s*(and|or|,)\s*\}}", r" \1 ", text)


_TOKEN = re.compile(
    rf"{TEXT}\{{(?P<text>[^{{}}]*)\}}|\\(?P<command>min|max)(?![A-Za-z])(?!\s*[({{_\\^])|(?P<begin>\\(?:begin|end|mathbb|operatorname)\s*\{{[^{{}}]*\}})"
    r"|(?P<word>(?<![\\A-Za-z_^])[^\W\d_]{2,}(?:['’-][^\W\d_]+)*\.?)"
)


def has_words(text: str) -> bool:
    """Whether words stand in the text beyond what lists are made of."""
    for match in _TOKEN.finditer(text):
        found = match.group("text") if match.group("text") is not None else match.group("word") or ""
        loose = match.group("text") is not None
        for word in re.findall(r"[^\W\d_]+", found):
            date = word[0].isupper() and word.lower() in lexicon.DATE_WORDS
            if word.lower() not in lexicon.LIST_WORDS and (
                date or len(word) >= 4 or (loose and len(word) > 1) or not word.isascii()
            ):
                return True
        if match.group("command"):
            return True
    return False


def mixture(text: str) -> Form:
    r"""\min \text{ at } x=1: the words in order, "" where mathematics stands, and the mathematics."""
    words: list[str] = []
    parts: list[str] = []
    text = re.sub(rf"(?<=\d)\s?{TEXT}\{{\s*(?:st|nd|rd|th)\s*\}}", "", text)

    def mathematics(piece: str) -> None:
        for item in [piece] if re.search(r"[()\[\]]", piece) else re.split(r"[,;]\s", piece):
            item = re.sub(r"^[\s,.;:]+|[\s,.;:]+$|(?<=\d)(?:st|nd|rd|th)(?![A-Za-z])", "", item)
            if re.search(r"\w", item):
                parts.append(item)
                words.append("")

    def prose(piece: str) -> None:
        for found in re.finditer(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[^\s,.;:()!?\"'“”]+", piece):
            word = found.group().lower().replace("’", "'")
            if not re.fullmatch(r"[^\W\d_]+(?:['-][^\W\d_]+)*", word):
                mathematics(found.group())
            elif word not in lexicon.STOP_WORDS and word != "and":
                words.append(word)

    at = 0
    for match in _TOKEN.finditer(text):
        word = match.group("word")
        short = word is not None and len(word.rstrip(".")) < 4 and word.lower().rstrip(".") not in lexicon.LITTLE_WORDS
        among = re.search(r"[\w}]\s$", text[: match.start()]) and re.match(r"\s[A-Za-z\\]", text[match.end() :])
        if match.group("begin") or (short and word.isascii() and not among):
            continue
        mathematics(text[at : match.start()])
        prose(match.group("text") if match.group("text") is not None else match.group("command") or word or "")
        at = match.end()
    mathematics(text[at:])
    return Form(text, Kind.MIXED, words=tuple(words), parts=tuple(parts))
