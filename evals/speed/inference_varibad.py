"""What VariBAD costs beside the published repository.

    python -m evals.speed.inference_varibad            a table
    python -m evals.speed.inference_varibad --json     the same as one object

varibad_over_published   Environment steps a second of VariBAD in the whole loop of `VariBADTrainer` on GridNavi, by its
                         recipe (playing, the policy's updates and those of encoder and decoder, guard, logs), over
                         those of the authors' code on a machine of this kind, its accident mended (as published: 937).
                         One thread. The ratio by the CPU's clock stands beside: other programs do not count in it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from classic_metarl.inference.varibad import VariBADTrainer
from evals.speed.common import parser, say, show
from mrt.runs.recipe import load_recipe

PUBLISHED = 1276  # environment steps a second of the authors' code, mended, one thread
RECIPE = "inference/varibad-grid-navi"
QUIET = ("use_cpu=true", "disable_tqdm=true", "report_to=none", "save_strategy=no", "write_trials=false")


class Marks(TrainerCallback):
    """Both clocks at the end of every step of the outer loop, which is a collection and all its updates."""

    def __init__(self) -> None:
        self.clocks: dict[str, list[float]] = {"wall": [], "cpu": []}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One more."""
        self.clocks["wall"].append(time.perf_counter())
        self.clocks["cpu"].append(time.process_time())


def measure_varibad(steps: int = 12, trials: int | None = None) -> dict[str, Any]:
    """`varibad_over_published`: the median over `steps` steps of the outer loop, the first aside.

    Args:
        trials: of a collection; those of the recipe when left out.
    """
    marks, few = Marks(), () if trials is None else (f"per_device_train_batch_size={trials}",)
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(RECIPE, [*QUIET, f"max_steps={steps}", *few])
        trainer = VariBADTrainer.from_recipe(recipe, Path(folder))
        trainer.add_callback(marks)
        trainer.train()
        frames = trainer.cost.total["env_steps"] / steps
    speed = {}
    for name, clock in marks.clocks.items():
        took = sorted(later - earlier for earlier, later in pairwise(clock))
        speed[name] = frames / took[len(took) // 2]
        say(f"varibad 1/1: {speed[name]:.0f} environment steps a second ({name})")
    ratios = {"ratio": speed["wall"] / PUBLISHED, "ratio_by_cpu": speed["cpu"] / PUBLISHED}
    return {**ratios, "target_at_least": 10, "frames_per_second": speed, "published_per_second": PUBLISHED}


def table(results: Mapping[str, Any]) -> str:
    """What was measured."""
    one = results["varibad_over_published"]
    speeds = ", ".join(f"{speed:.0f}/s ({clock})" for clock, speed in one["frames_per_second"].items())
    return (
        f"varibad_over_published {one['ratio']:.2f} (target at least {one['target_at_least']}), "
        f"{one['ratio_by_cpu']:.2f} by the CPU's clock\n  {speeds} over {one['published_per_second']}/s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    ns = parser("evals.speed.inference_varibad", __doc__ or "").parse_args(argv)
    torch.set_num_threads(1)
    show({"varibad_over_published": measure_varibad(3, 8) if ns.smoke else measure_varibad()}, ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
