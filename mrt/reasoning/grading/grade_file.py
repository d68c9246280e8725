"""A file of answers and gold answers, graded: verdicts with their reasons, and the golds that cannot be used."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, DataError, nearest
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.verdict import Grade, Verdict, content_of
from mrt.reasoning.problems.rows import Row, read_rows

ROLES = {
    "gold": ("gold", "solution", "target", "gt", "answer"),
    "answer": ("answer", "completion", "response", "text", "prediction", "pred", "output"),
    "other": (),
}
SHOWN = 20  # rows of the table of the unreadable


def grade_file(
    path: str,
    columns: Mapping[str, str] | None = None,
    out: Path | None = None,
    answer_after: str | None = None,
    **options: Any,
) -> dict[str, Any]:
    r"""Grades the column of answers against the column of golds; without one of answers, the golds against themselves.

    Args:
        path: a JSONL, CSV or parquet file.
        columns: {"gold": its column, "answer": its column}; by default the usual names. A column may hold a list, of
            which every item is graded (gold: the first). A text with \boxed{...} or a closed thought is a completion
            and its boxes count; any other is a bare answer. "other" names what another grader said of each answer
            (true or false, a reward, or a verdict); the two are set side by side.
        out: a JSONL file for {"row", "gold", "answer", "verdict", "reward", "detail"}, a line an answer.
        answer_after: the gold answer is what follows the last of these marks in its column ("####" for GSM8K).
        options: of `MathGrader` (seconds, workers, boxes).

    Returns:
        file, rows, answers, verdicts (how many of each), accuracy over what can be scored, unreadable (golds that
        cannot be used: row, gold, detail), columns, and with "other": `beside` {agree, compared, differ: row, gold,
        answer, verdict, other}.

    Raises:
        ConfigError: for columns that are not there.
        DataError: for a file or row that cannot be read.
    """
    rows = list(read_rows(path, _AnyColumn()))
    if not rows:
        raise DataError(f"{path}: no rows; there is nothing to grade")
    found = _columns(path, [row for _, row in rows], dict(columns or {}))
    verdicts: Counter[Verdict] = Counter()
    unreadable: list[dict[str, Any]] = []
    lines: list[dict[str, Any]] = []
    others: list[Any] = []
    with MathGrader(**options) as grader:
        for number, row in rows:
            gold = _gold(path, number, row, found["gold"], answer_after)
            answers = _texts(row.get(found["answer"])) if "answer" in found else [gold]
            grades = [_grade(grader, answer, gold, "answer" in found) for answer in answers]
            broken = _broken(grades, "answer" in found)
            if broken is not None:
                unreadable.append({"row": number, "gold": gold[:200], "detail": broken.detail})
            others += _others(path, number, row.get(found["other"]), len(answers)) if "other" in found else []
            verdicts.update(one.verdict for one in grades)
            lines += [_line(number, gold, answer, one) for answer, one in zip(answers, grades, strict=True)]
    if out is not None:
        _write(out, lines)
    counts = {str(verdict): verdicts[verdict] for verdict in Verdict}
    return {
        **{"file": path, "rows": len(rows), "answers": len(lines), "columns": found, "verdicts": counts},
        **{"accuracy": _accuracy(verdicts), "unreadable": unreadable, "out": str(out) if out else None},
        **({"beside": _beside(lines, others)} if "other" in found else {}),
    }


def _accuracy(verdicts: Mapping[Verdict, int]) -> float | None:
    """Over what can be scored."""
    scored = sum(n for verdict, n in verdicts.items() if Grade(verdict).reward is not None)
    return verdicts[Verdict.CORRECT] / scored if scored else None


def _line(number: int, gold: str, answer: str, grade: Grade) -> dict[str, Any]:
    shown = grade.extracted if grade.extracted is not None else answer[-200:]
    said = {"verdict": str(grade.verdict), "reward": grade.reward, "detail": grade.detail}
    return {"row": number, "gold": gold, "answer": shown, **said}


def _broken(grades: Sequence[Grade], answered: bool) -> Grade | None:
    """The grade that says that a row's gold answer cannot be used, if any; not `answered`: it is against itself."""
    broken = next((one for one in grades if one.verdict is Verdict.ERROR), None)
    return broken if answered or broken is not None or grades[0].verdict is Verdict.CORRECT else grades[0]


def _write(out: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


def grade_table(found: Mapping[str, Any]) -> str:
    """What `mrt grade` prints: verdicts with their shares, then the golds that cannot be used."""
    total = max(found["answers"], 1)
    what = "answers" if "answer" in found["columns"] else "gold answers against themselves"
    lines = [f"{found['file']}: {found['rows']} rows, {found['answers']} {what}"]
    lines += [f"  {name:<10} {count:>7} {count / total:>8.1%}" for name, count in found["verdicts"].items() if count]
    if found["accuracy"] is not None:
        lines.append(f"  accuracy over what can be scored: {found['accuracy']:.4f}")
    unreadable: Sequence[Mapping[str, Any]] = found["unreadable"]
    lines.append(f"gold answers that cannot be used: {len(unreadable)} of {found['rows']} rows")
    lines += [f"  row {item['row']}: {item['gold'][:60]!r}  {item['detail'][:100]}" for item in unreadable[:SHOWN]]
    if "beside" in found:
        beside = found["beside"]
        lines.append(f"verdicts equal to those of the other grader: {beside['agree']} of {beside['compared']}")
        lines += [
            f"  row {item['row']}: {item['answer'][:40]!r} for {item['gold'][:40]!r} is {item['verdict']} here, "
            f"{'right' if item['other'] else 'wrong'} there"
            for item in beside["differ"][:SHOWN]
        ]
    if len(unreadable) > SHOWN:
        lines.append(f"  and {len(unreadable) - SHOWN} more (--json, --out FILE)")
    return "\n".join(lines)


class _AnyColumn(frozenset[str]):
    def __contains__(self, item: object) -> bool:
        return True


def _columns(path: str, rows: Sequence[Row], given: dict[str, str]) -> dict[str, str]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    for role, column in given.items():
        if role not in ROLES:
            raise ConfigError(f"mrt grade: columns has no '{role}': {nearest(role, set(ROLES))}")
        if column not in names:
            raise ConfigError(f"{path} has no column '{column}' (for {role}); {nearest(column, set(names))}")
    gold = given.get("gold") or next((n for n in ROLES["gold"] if n in names and n != given.get("answer")), None)
    if gold is None:
        shown = ", ".join(map(repr, names[:20]))
        raise ConfigError(f"{path} has the columns {shown}: name the gold answers with --columns gold=NAME")
    answer = given.get("answer")
    if answer is None and "gold" not in given:
        answer = next((n for n in ROLES["answer"] if n in names and n != gold), None)
    other = {"other": given["other"]} if "other" in given else {}
    return {"gold": gold, **({"answer": answer} if answer else {}), **other}


def _others(path: str, number: int, value: Any, count: int) -> list[bool]:
    """What another grader said of the answers of a row."""
    items = value if isinstance(value, list) else [value]
    if len(items) != count:
        raise DataError(f"{path}, row {number}: {count} answers, but {len(items)} verdicts of the other grader")
    said = {"correct": True, "true": True, "1": True, "1.0": True}
    return [said.get(item.lower(), False) if isinstance(item, str) else bool(item) for item in items]


def _beside(lines: Sequence[Mapping[str, Any]], others: Sequence[bool]) -> dict[str, Any]:
    pairs = [(line, other) for line, other in zip(lines, others, strict=True) if line["reward"] is not None]
    keys = ("row", "gold", "answer", "verdict")
    differ = [
        {**{key: line[key] for key in keys}, "other": other}
        for line, other in pairs
        if (line["reward"] == 1.0) != other
    ]
    return {"agree": len(pairs) - len(differ), "compared": len(pairs), "differ": differ}


def _texts(value: Any) -> list[str]:
    items = value if isinstance(value, list) else [value]
    return ["" if item is None else item if isinstance(item, str) else str(item) for item in items]


def _gold(path: str, number: int, row: Row, column: str, answer_after: str | None) -> str:
    text = (_texts(row.get(column)) or [""])[0]
    if answer_after is not None:
        _, mark, text = text.rpartition(answer_after)
        if not mark:
            raise DataError(f"{path}, row {number}, column '{column}': nothing follows the mark {answer_after!r}")
    return content_of(text).strip()


def _grade(grader: MathGrader, answer: str, gold: str, completions: bool) -> Grade:
    if not gold:
        return Grade(Verdict.ERROR, answer, "the gold answer is empty")
    if completions and ("\\boxed" in answer or "</think>" in answer):
        return grader.grade(answer, gold)
    return grader.grade_answer(answer, gold)
