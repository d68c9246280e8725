"""Two read answers against each other: what the kinds decide by themselves, and what math-verify is asked."""

from __future__ import annotations

import re
from typing import NamedTuple

from mrt.reasoning.grading import lexicon
from mrt.reasoning.grading.form import split_list
from mrt.reasoning.grading.kinds import Form, Kind, same_clock
from mrt.reasoning.grading.units import scale_between

MAX_PARTS = 40  # pieces of mathematics among words; more are compared as they are written


class Question(NamedTuple):
    """One comparison for a math worker, in the order of `MathWorker.ask`."""

    gold: str
    answer: str
    same: bool
    percent: str = ""
    written: bool = False


def compare(gold: Form, answer: Form) -> str | list[Question]:
    """ "" where they are equal, the reason where they are not, or the comparisons that all have to hold."""
    if gold.kind is Kind.WORDS:
        return "" if answer.words == gold.words and answer.kind is Kind.WORDS else "other words"
    if gold.kind is Kind.CHOICE and answer.kind is Kind.CHOICE:
        return "" if gold.words == answer.words else "another choice"
    if Kind.CLOCK in (gold.kind, answer.kind):
        return _clock(gold, answer)
    if Kind.MIXED in (gold.kind, answer.kind):
        return _mixed(gold, answer)
    if Kind.RATIO in (gold.kind, answer.kind) and len(gold.parts or "--") != len(answer.parts or "--"):
        return "ratios of different length"
    if len(gold.parts) > 2:
        return [Question(_terms(gold), _terms(answer), gold.key == answer.key)]
    if answer.kind is Kind.WORDS and len("".join(answer.words)) > 3:  # shorter ones may be products of variables
        return "words where the gold answer has none"
    if gold.base and answer.base and gold.base != answer.base:
        return "the base differs"
    scale = scale_between(gold.unit, answer.unit)
    if scale is None:
        return "the unit differs"
    core = _scaled(answer.core, scale) if scale else answer.core
    percent = {(True, True): "both", (True, False): "gold", (False, True): "answer"}.get(
        (gold.percent, answer.percent), ""
    )
    same = not scale and gold.key == answer.key and gold.percent == answer.percent
    return [Question(gold.core, core, same, percent, well_formed(gold.core))]


def well_formed(core: str) -> bool:
    """Whether LaTeX that math-verify cannot parse may be compared as written: its commands are all known ones."""
    commands = re.findall(r"\\([A-Za-z]+)", core)
    return len(core) < 2000 and set(commands) <= lexicon.KNOWN_COMMANDS and re.search(r"[A-Za-z\d]", core) is not None


def _terms(form: Form) -> str:
    return "(" + ",".join(rf"\frac{{{term}}}{{{form.parts[0]}}}" for term in form.parts) + ")"


def _clock(gold: Form, answer: Form) -> str:
    if gold.kind is answer.kind:
        return "" if same_clock(gold, answer) else "another time"
    clock, other = (gold, answer) if gold.kind is Kind.CLOCK else (answer, gold)
    spelled = [str(int(part)) for part in other.parts if part.isdigit()]
    alike = other.kind is Kind.RATIO and spelled == list(clock.words[: len(other.parts)]) and not clock.words[3]
    return "" if alike else "a time and what is none"


def _mixed(gold: Form, answer: Form) -> str | list[Question]:
    if gold.kind is not answer.kind:
        whose = "gold" if gold.kind is Kind.MIXED else "given"
        return f"words beside the mathematics of the {whose} answer"
    if gold.words != answer.words or len(gold.parts) != len(answer.parts):
        return "other words beside the mathematics"
    pairs = [("".join(a.split()), "".join(b.split())) for a, b in zip(gold.parts, answer.parts, strict=True)]
    different = [Question(a, b, False, written=True) for a, b in pairs if a != b]
    return different if len(different) <= MAX_PARTS else "too much mathematics that differs among the words"


def _scaled(core: str, scale: str) -> str:
    """The answer in the unit of the gold one, item by item."""

    def one(item: str) -> str:
        name, equals, value = item.rpartition("=")
        return f"{name}{equals} ({value}) {scale}"

    return ", ".join(one(item) for item in split_list(core))
