"""The picture of `episodes_study`, out of stored results: what MRT gains over GRPO against the number of episodes.

    python -m evals.reasoning.episodes_picture                 writes docs/images/gain-over-episodes.svg
    python -m evals.reasoning.episodes_picture --out F.svg

Left: GRPO's tokens over MRT's at equal accuracy, against K, with its 95 % interval and one dot a seed. Right: accuracy
at token budgets for the largest K, means over seeds, bands from the lowest seed to the highest. The file holds a digest
of its numbers, by which a test knows an outdated picture.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evals.reasoning.episodes_study import DIAL, OURS, STORE, Study
from evals.reasoning.picture import digest, styled
from evals.reasoning.study import BASELINE, WARM_START, N
from evals.reasoning.study_figures import read_stored
from mrt.errors import ConfigError
from mrt.metrics.regret import tokens_at_equal_accuracy_interval

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "images" / "gain-over-episodes.svg"
LINES = {  # arm: label, colour (Okabe and Ito's palette), marker
    OURS: ("MRT", "#d55e00", "o"),
    BASELINE: ("GRPO", "#0072b2", "s"),
    WARM_START: ("warm start", "#707070", "^"),
}


def read_gain(store: Path = STORE, seeds: Sequence[int] = Study.seeds) -> dict[str, Any]:
    """{"gain": one {k, mean, low, high, seeds} a K, "budgets", "curves": {arm: one accuracy curve a seed}}.

    Raises:
        ConfigError: where an arm is not stored for every seed.
    """
    gain, found = [], {}
    for k in DIAL:
        study = Study(f"k{k}", store=store)
        found = read_stored(study, seeds, list(LINES))
        if set(found) != set(LINES):
            raise ConfigError(f"{store / study.family} does not hold every arm for seeds {list(seeds)}: run the study")
        budgets = [int(b) for b in study.settings.budgets.split(",")]
        theirs, ours = (np.array([one["correct"] for one in found[arm]]) / N for arm in (BASELINE, OURS))
        pairs = [(theirs, ours), *((theirs[i : i + 1], ours[i : i + 1]) for i in range(len(seeds)))]
        all_seeds, *each = [tokens_at_equal_accuracy_interval(*pair, budgets) for pair in pairs]
        line = {"k": k, "mean": all_seeds.mean, "low": all_seeds.low, "high": all_seeds.high}
        gain.append(
            {name: round(value, 4) for name, value in line.items()} | {"seeds": [round(x.mean, 4) for x in each]}
        )
    curves = {arm: (np.array([one["correct"] for one in found[arm]]).mean(1) / N).round(4).tolist() for arm in LINES}
    return {"gain": gain, "budgets": budgets, "curves": curves}


def draw(numbers: Mapping[str, Any], out: Path) -> None:
    """Writes the picture as an SVG file with the digest of its numbers as the identifier."""
    with styled() as pyplot:
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(7.2, 2.9), layout="constrained")
        places = [line["k"] for line in numbers["gain"]]
        means = [line["mean"] for line in numbers["gain"]]
        errors = [[abs(line[end] - line["mean"]) for line in numbers["gain"]] for end in ("low", "high")]
        left.axhline(1, color="#0072b2", linewidth=1)
        left.errorbar(places, means, yerr=errors, color="#d55e00", marker="o", markersize=5, linewidth=1.6, capsize=3)
        for line in numbers["gain"]:
            left.plot([line["k"] * 1.04] * len(line["seeds"]), line["seeds"], ".", color="#d55e00", markersize=4)
        left.set_xscale("log", base=2)
        left.set_xticks(places, [str(k) for k in places])
        left.set(
            title="tokens that GRPO needs,\nover MRT's, at equal accuracy", xlabel="useful episodes K", ylim=(0, None)
        )
        for arm, (name, colour, marker) in LINES.items():
            curves = np.array(numbers["curves"][arm])
            right.plot(numbers["budgets"], curves.mean(0), color=colour, marker=marker, markersize=4, label=name)
            right.fill_between(numbers["budgets"], curves.min(0), curves.max(0), color=colour, alpha=0.13, linewidth=0)
        right.set(title=f"accuracy when made to answer,\nK = {places[-1]}", xlabel="thinking tokens", ylim=(0, None))
        right.legend(loc="upper left")
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Date": None, "Identifier": digest(numbers)})
        pyplot.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Draws the picture and says where it is."""
    described = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m evals.reasoning.episodes_picture", description=described)
    parser.add_argument("--out", type=Path, default=PICTURE, metavar="FILE")
    out = parser.parse_args(argv).out
    draw(read_gain(), out)
    print(out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
