"""README's table of gates, from what is stored: `python -m evals.gates --readme` writes it between its marks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from evals.gates.table import Bar, gates

README = Path(__file__).resolve().parents[2] / "README.md"
BEGIN, END = "<!-- gates -->", "<!-- /gates -->"
HEAD = "| gate | system | measure | mean ± SE | seeds | random | optimum | paper | band | minutes a seed |"


def markdown(store: Path) -> str:
    """A line a gate, system and measure with a band, over the seeds 0, 1, ... that are stored without a gap."""
    from evals.gates.__main__ import stored_seeds, table

    lines = [HEAD, "|---" * HEAD.count(" | ") + "|---|"]
    for gate in gates():
        seeds = stored_seeds(store, gate)
        for row in table(gate, store, seeds) if seeds else []:
            name = row["measure"].removesuffix(f"_{gate.variant}") if gate.variant else row["measure"]
            if name in gate.bars:
                title = re.sub(r" \([A-Z][a-z]+[^)]* et al[^)]*\)", "", gate.title).split(";")[0]
                lines.append(_line(f"{gate.number} {title}", row, name, gate.bars[name]))
    return "\n".join(lines)


def _line(title: str, row: dict[str, Any], measure: str, bar: Bar) -> str:
    mean = f"{row['mean']:.4g} ± {row['se']:.2g}"
    cells = [
        title,
        row["system"],
        measure.replace("_", " "),
        f"**{mean}**" if row["passed"] else f"{mean} (missed)",
        len(row["seeds"]),
        *("" if row[key] is None else f"{row[key]:.4g}" for key in ("floor", "ceiling", "paper")),
        _band(bar),
        f"{row['minutes']:.1f}",
    ]
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def _band(bar: Bar) -> str:
    low, high = bar.band
    asked = ["random ± 3 SE"] if bar.chance else []
    if low is not None or high is not None:
        one_side = f"at most {high:g}" if low is None else f"at least {low:g}"
        asked.append(one_side if None in bar.band else f"{low:g} to {high:g}")
    if bar.above is not None and bar.above != low:
        asked.append(f"mean - 2 SE above {bar.above:g}")
    return ", ".join(asked)


def write(store: Path, path: Path = README) -> None:
    """Puts the table between the marks."""
    text = path.read_text(encoding="utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    path.write_text(f"{text[:begin]}\n{markdown(store)}\n{text[end:]}", encoding="utf-8")
