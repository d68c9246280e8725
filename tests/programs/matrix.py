"""How tests of learning come out on other processors and other seeds: run it whenever such a test changes.

python tests/programs/matrix.py [TESTS ...] [-m slow]    what follows goes to pytest; without it, all tests of learning

A test of learning takes the fixture `learning` of conftest.py. Every one is run as if the processor had SSE alone, as
if it had AVX2, and with all that it has, with three seeds each. ATEN_CPU_CAPABILITY governs PyTorch's own kernels;
MKL_ENABLE_INSTRUCTIONS matrix products, ONEDNN_MAX_CPU_ISA convolutions and products in bfloat16: neither of these
follows the first.

A line for each figure: its nine values, their mean and standard deviation, the bounds that the test asks, and how many
deviations the nearer bound is from the mean ("room"). Exit code 1 if a value is outside its bounds or a test fails
otherwise. Bounds want a room of 3 or more; where there is less, make the learner stronger, not the bound weaker.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PROCESSORS: dict[str, dict[str, str]] = {
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "own": {},
}
SEEDS = (0, 1000, 2000)  # added to the seed that a test trains with
CELLS = [(processor, seed) for processor in PROCESSORS for seed in SEEDS]


def users(folder: Path) -> list[str]:
    """The test files that take the fixture."""
    return [str(path) for path in sorted(folder.rglob("test_*.py")) if "learning: " in path.read_text()]


def run(cell: tuple[str, int], arguments: list[str]) -> tuple[list[dict[str, Any]], bool]:
    """The figures of a cell, and whether all its tests ran to their end."""
    processor, seed = cell
    with tempfile.TemporaryDirectory() as folder:
        figures = Path(folder) / "figures.jsonl"
        settings = {"MRT_TEST_SEED": str(seed), "MRT_TEST_FIGURES": str(figures)}
        command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--show-capture=no", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | PROCESSORS[processor] | settings, capture_output=True, text=True
        )
        if done.returncode:
            print(f"{processor} {seed}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}", flush=True)
        rows = figures.read_text().splitlines() if figures.is_file() else []
        return [json.loads(row) for row in rows], done.returncode == 0


def line(rows: list[dict[str, Any]]) -> tuple[str, bool]:
    """A figure's line, and whether it is between its bounds in every cell. Bounds may move with the cell."""
    values = [row["value"] for row in rows]
    middle, spread = mean(values), stdev(values) if len(values) > 1 else 0.0
    above, below = max(row["above"] for row in rows), min(row["below"] for row in rows)
    room = min(middle - above, below - middle) / max(spread, 1e-12)
    held = len(rows) == len(CELLS) and all(row["above"] < row["value"] < row["below"] for row in rows)
    each = " ".join(f"{value:8.4g}" for value in values)
    told = f"{each} | {middle:.4g} +- {spread:.2g}  in ({above:.4g}, {below:.4g})  room {min(room, 99):.1f}"
    return told + ("" if held else "   MISSED" if len(rows) == len(CELLS) else "   INCOMPLETE"), held


def main(arguments: list[str]) -> int:
    """Runs the cells one by one, then prints the table."""
    chosen = arguments if any("test" in part for part in arguments) else [*users(ROOT / "tests"), *arguments]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    held = True
    for cell in CELLS:
        rows, ended = run(cell, chosen)
        held = held and ended
        for row in rows:
            found.setdefault((row["test"], row["figure"]), []).append(row)
        print(f"{cell[0]} {cell[1]}: {len(rows)} figures", file=sys.stderr, flush=True)
    print("cells:", ", ".join(f"{processor} {seed}" for processor, seed in CELLS))
    test = ""
    for (name, figure), rows in found.items():
        if name != test:
            print(f"\n{name}")
            test = name
        told, inside = line(rows)
        held = held and inside
        print(f"  {figure:34s} {told}")
    return 0 if held and found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
