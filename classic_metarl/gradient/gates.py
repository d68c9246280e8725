"""What the supervised gradient systems are held to, measured from their recipes.

    python -m classic_metarl.gradient.gates T22 --seed 0 --out evals/results/gates

Each gate trains a packaged recipe with this seed and measures the trained learner on held-out tasks. It writes one JSON
file: gate, system, measure, value, seed, steps, minutes, commit, machine, and every other figure beside them.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from classic_metarl.gradient import measures
from mrt.errors import ConfigError, nearest
from mrt.recipe import import_trainer, load_recipe
from mrt.rundir import commit, write_json

Figures = dict[str, Any]


@dataclass(frozen=True)
class Gate:
    """A target: which recipes are trained, how they are measured, and the band of each figure.

    `measure` gets the trained trainers, one for each entry of `runs`, and returns the figures; the first of `bands` is
    the gate's value.
    """

    runs: Mapping[str, tuple[str, ...]]  # name -> recipe and overrides
    measure: Callable[[Mapping[str, Any]], Figures]
    bands: Mapping[str, tuple[float, float]]
    source: str = ""

    def passed(self, figures: Figures) -> dict[str, bool]:
        """Of every figure with a band, whether it lies inside."""
        return {name: low <= figures[name] <= high for name, (low, high) in self.bands.items()}


def sinusoid_curve(trainer: Any, shots: int, steps: int, **dials: Any) -> Figures:
    """Summaries of the loss after 0..steps gradient steps on 2,000 held-out sinusoids."""
    from classic_metarl.gradient.sinusoid import Sinusoids

    family = Sinusoids(shots=shots, queries=100, **dials)
    return measures.summarise(measures.loss_curve(trainer.model, family, 2000, steps))


def _curve(runs: Mapping[str, Any]) -> Figures:
    """Means after 1, 5, 10 and 0 steps on 5 shots, over the tasks that did not diverge; `curve` has the others."""
    curve = sinusoid_curve(next(iter(runs.values())), 5, 10)
    return {f"mse_{step}": curve["kept"][step] for step in (1, 5, 10, 0)} | {"curve": curve}


def _reptile(runs: Mapping[str, Any]) -> Figures:
    curves = {name: sinusoid_curve(run, 10, 32, phase_high=run.family.phase_high) for name, run in runs.items()}
    ablation = curves["one step"]["mean"][32]
    return {"mse_32": curves["reptile"]["mean"][32], "mse_32_one_step": ablation, "curves": curves}


def _meta_sgd(runs: Mapping[str, Any]) -> Figures:
    curves = {name: sinusoid_curve(run, 5, 1) for name, run in runs.items()}
    ratio = curves["meta_sgd"]["mean"][1] / curves["maml"]["mean"][1]
    return {"ratio": ratio, **{f"mse_1_{name}": curve["mean"][1] for name, curve in curves.items()}}


def _strokes(runs: Mapping[str, Any]) -> Figures:
    """Accuracy on 600 held-out episodes of characters that no split shares, and that of pixels' nearest neighbours."""
    from classic_metarl.gradient.nearest import NearestNeighbour

    test = replace(next(iter(runs.values())).family, split="test")
    learners = {name: run.model for name, run in runs.items()} | {"nearest": NearestNeighbour(test)}
    figures: Figures = {}
    for name, learner in learners.items():
        accuracy = -measures.loss_curve(learner, test, 600, None)[:, -1].double()
        figures[name], figures[f"{name}_error"] = accuracy.mean().item(), (accuracy.std() / len(accuracy) ** 0.5).item()
    return figures | {"above_pixels": figures["maml"] - figures["nearest"]}


GATES: dict[str, Gate] = {
    "T22": Gate(
        {"maml": ("gradient/maml",)},
        _curve,
        {"mse_1": (0.55, 0.79), "mse_5": (0.30, 0.46), "mse_10": (0.27, 0.43), "mse_0": (2.9, 3.1)},
        "Finn et al. 2017: .67/.38/.35 after 1/5/10 steps on 5 shots; 3.006 is the floor before any",
    ),
    "T23": Gate({"fomaml": ("gradient/fomaml",)}, _curve, {"mse_1": (0.65, 1.05)}, "1.0 to 1.6 times MAML's"),
    "T24": Gate(
        {"reptile": ("gradient/reptile",), "one step": ("gradient/reptile", "problems.stages=1")},
        _reptile,
        {"mse_32": (0.0, 0.35), "mse_32_one_step": (2.0, 100.0)},
        "with one step it is joint training, which adapts badly",
    ),
    "T25": Gate(
        {"meta_sgd": ("gradient/meta_sgd",), "maml": ("gradient/maml", "problems.shots=5")},
        _meta_sgd,
        {"ratio": (0.6, 0.9)},
        "Li et al. 2017: .80 with random frequencies",
    ),
    "strokes": Gate(
        {name: (f"gradient/strokes/{name}",) for name in ("maml", "matching", "mann", "tcml", "finetune")},
        _strokes,
        {"maml": (0.8, 1.0), "above_pixels": (0.05, 1.0), "matching": (0.8, 1.0)},
        "drawn here, so no published figures: chance .2, and what a learner has to beat are the pixels' neighbours",
    ),
}


def run_gate(name: str, seed: int, overrides: Sequence[str] = ()) -> Figures:
    """Trains what the gate names and measures it.

    Raises:
        ConfigError: for an unknown gate.
    """
    if name not in GATES:
        raise ConfigError(f"gate {name!r} is unknown; {nearest(name, set(GATES))}")
    gate, start = GATES[name], time.monotonic()
    trained = {}
    with tempfile.TemporaryDirectory() as folder:
        for run, (recipe, *changes) in gate.runs.items():
            fixed = [f"seed={seed}", "args.save_strategy=no", "args.disable_tqdm=true", "args.report_to=none"]
            loaded = load_recipe(recipe, [*changes, *fixed, *overrides])
            trainer: Any = import_trainer(loaded.trainer).from_recipe(loaded, Path(folder) / run.replace(" ", "-"))
            trainer.train()
            trained[run] = trainer
        figures = gate.measure(trained)
    value = next(iter(gate.bands))
    return {
        "gate": name,
        "system": next(iter(gate.runs)),
        "measure": value,
        "value": figures[value],
        "bands": {key: list(band) for key, band in gate.bands.items()},
        "passed": gate.passed(figures),
        "seed": seed,
        "steps": {run: trainer.state.global_step for run, trainer in trained.items()},
        "minutes": round((time.monotonic() - start) / 60, 2),
        "commit": commit(),
        "machine": f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}",
        "source": gate.source,
        "figures": figures,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 when every figure lies in its band."""
    options = argparse.ArgumentParser(prog="python -m classic_metarl.gradient.gates", description=__doc__)
    options.add_argument("gate", choices=list(GATES))
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--out", type=Path, help="folder of the results; nothing is written without it")
    options.add_argument("overrides", nargs="*", help="key=value, for the recipes of the gate")
    ns = options.parse_args(argv)
    result = run_gate(ns.gate, ns.seed, ns.overrides)
    if ns.out:
        write_json(ns.out / f"{result['gate']}-{result['system']}-seed{ns.seed}.json", result)
    shown = {key: round(result["figures"][key], 4) for key in result["bands"]}
    print(f"{ns.gate} seed {ns.seed}: {shown}, {result['minutes']} min, passed {all(result['passed'].values())}")
    return 0 if all(result["passed"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
