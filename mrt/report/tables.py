"""Evaluations as a table in a terminal: a line per model, each number with its 95 % interval."""

from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = {  # key of results.json -> title, format of one number
    "accuracy": ("accuracy", "{:.3f}"),
    "tokens": ("thinking tokens", "{:.1f}"),
    "normalised_regret": ("normalised regret", "{:.3f}"),
}
RATIO = "tokens_at_equal_accuracy"


def estimate(value: Any, form: str) -> str:
    """`{"mean", "low", "high"}` as `mean [low, high]`, a bare number alone, a dash for what was not measured."""
    if isinstance(value, Mapping):
        mean, low, high = (estimate(value.get(key), form) for key in ("mean", "low", "high"))
        return mean if "–" in (mean, low, high) else f"{mean} [{low}, {high}]"
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return "–"
    return form.format(value)


def result_table(
    results: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]] = (), baseline: str = ""
) -> str:
    """The table over the contents of results.json files, in the order given.

    With comparisons `{"a", "b", ...}` whose `b` is the baseline there are a column of tokens at equal accuracy (the
    baseline's over the model's, above 1 saves tokens) and a line of paired differences for each.
    """
    against = {item["a"]: item for item in comparisons if item.get("b") == baseline}
    rows = [["model", *(title for title, _ in COLUMNS.values())]]
    for result in results:
        rows.append(
            [str(result.get("name", "")), *(estimate(result.get(key), form) for key, (_, form) in COLUMNS.items())]
        )
    if against:
        rows[0].append(f"tokens at equal accuracy, {baseline} : model")
        for row in rows[1:]:
            row.append(estimate(against.get(row[0], {}).get(RATIO), "{:.2f}"))
    for name, item in against.items():
        cells = [estimate(item.get(key), form.replace("{:", "{:+")) for key, (_, form) in COLUMNS.items()]
        rows.append([f"{name} - {baseline}", *cells, ""])
    return format_table(rows)


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Columns side by side, the first row underlined."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
