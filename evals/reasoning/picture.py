"""README's picture, out of stored results: J after each episode, and accuracy at token budgets, per arm of the study.

    python -m evals.reasoning.picture                 writes docs/images/j-over-episodes.svg
    python -m evals.reasoning.picture --out F.svg

Lines are means over the seeds of the family `habits` for which every arm is stored; bands go from the lowest seed to
the highest. A trace that has ended keeps its last J. The file holds a digest of its numbers, by which a test knows an
outdated picture; with one version of matplotlib it is the same byte for byte.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from evals.reasoning.countdown_study import STORE

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "j-over-episodes.svg"
FAMILY = "habits"
ARMS = {  # name of the arm: label, colour (Okabe and Ito's palette), marker
    "mrt_pooled": ("MRT", "#d55e00", "o"),
    "grpo": ("GRPO", "#0072b2", "s"),
    "warmstart": ("warm start", "#707070", "^"),
}
CURVES = {  # key of the results: title, label of the horizontal axis
    "j_after_episode": ("J: chance of a right answer\nif thinking stops after episode j", "episode j"),
    "accuracy_at_budget": ("accuracy when made to answer\nat a token budget", "thinking tokens"),
}


def read_curves(store: Path = STORE / FAMILY) -> dict[str, Any]:
    """{arm: {curve: {"x": K numbers, "seeds": one list of K means a seed}}}, of the seeds that all arms have."""
    found: dict[str, Any] = {}
    seeds = [path for path in sorted(store.glob("seed*")) if all((path / f"{arm}.json").is_file() for arm in ARMS)]
    for arm in ARMS:
        results = [json.loads((path / f"{arm}.json").read_text(encoding="utf-8"))["results"] for path in seeds]
        places = {
            "j_after_episode": [point["episode"] for point in results[0]["j_after_episode"]],
            "accuracy_at_budget": results[0]["budgets"],
        }
        found[arm] = {
            key: {"x": places[key], "seeds": sorted([point["mean"] for point in one[key]] for one in results)}
            for key in CURVES
        }
    return found


def digest(curves: Mapping[str, Any]) -> str:
    """16 hex digits that say of which numbers a picture was drawn."""
    return hashlib.sha256(json.dumps(curves, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def styled() -> Iterator[Any]:
    """`pyplot` in the style of the pictures; equal numbers give equal files."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    style: Any = {"svg.hashsalt": "mrt", "svg.fonttype": "path", "font.size": 9, "axes.titlesize": 9, "axes.grid": True}
    quiet: Any = {
        "grid.color": "#e4e4e4",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style | quiet):
        yield pyplot


def draw(curves: Mapping[str, Any], out: Path) -> None:
    """Writes the picture as an SVG file with its digest as the identifier."""
    with styled() as pyplot:
        figure, axes = pyplot.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
        for axis, (key, (title, label)) in zip(axes, CURVES.items(), strict=True):
            for arm, (name, colour, marker) in ARMS.items():
                places, seeds = curves[arm][key]["x"], curves[arm][key]["seeds"]
                columns = list(zip(*seeds, strict=True))
                mean = [sum(column) / len(column) for column in columns]
                axis.plot(places, mean, color=colour, marker=marker, markersize=4, linewidth=1.6, label=name)
                low, high = [min(column) for column in columns], [max(column) for column in columns]
                axis.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
            axis.set(title=title, xlabel=label, ylim=(0, None))
        axes[0].legend(loc="lower right")
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Date": None, "Identifier": digest(curves)})
        pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the picture and says where it is."""
    parser = argparse.ArgumentParser(prog="python -m evals.reasoning.picture", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--out", type=Path, default=PICTURE, metavar="FILE", help="default: docs/images of the checkout"
    )
    out = parser.parse_args(argv).out
    draw(read_curves(), out)
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
