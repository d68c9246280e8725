"""What systems that infer their task cost.

    python -m evals.speed.inference            a table
    python -m evals.speed.inference --json     the same as one object

pearl_over_oyster    Gradient steps a second of PEARL in the whole loop of `PEARLTrainer` (contexts and transitions from
                     the replay, guard, logs), over those that the authors' code took on a machine of this kind:
                     16 tasks, 256 rows of each, networks of 3 x 300, contexts of 64 transitions, an encoder of 3 x 200
                     and a latent of 5.
varibad_over_published   Environment steps a second of VariBAD in the whole loop of `VariBADTrainer` on GridNavi, by its
                     recipe (playing, the policy's updates and those of encoder and decoder, guard, logs), over those of
                     the authors' code on a machine of this kind, its accident mended (as published: 937).

One thread. Ratios by the clock of the CPU stand beside: other programs do not count in them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from classic_metarl.inference.pearl import PEARLConfig, PEARLPolicy, PEARLTrainer
from classic_metarl.inference.varibad import VariBADTrainer
from evals.speed.common import parser, say, show
from mrt.cli.allocator import keep_freed_memory
from mrt.control.envs import make_tasks
from mrt.runs.recipe import load_recipe

OYSTER = 2.33  # gradient steps a second of the published code, one thread
PUBLISHED = 1276  # environment steps a second of VariBAD's authors' code, mended, one thread
RECIPE = "inference/varibad-grid-navi"
QUIET = ("use_cpu=true", "disable_tqdm=true", "report_to=none", "save_strategy=no", "write_trials=false")


@dataclass(frozen=True)
class Sizes:
    """The arithmetic of a gradient step, and how many are timed."""

    tasks: int = 16
    rows: int = 256
    hidden: int = 300
    layers: int = 3
    context: int = 64
    latent: int = 5
    encoder: int = 200
    updates: int = 10  # of one step of the outer loop
    steps: int = 5


SMOKE = Sizes(tasks=3, rows=8, hidden=8, layers=1, context=4, latent=2, encoder=8, updates=2, steps=3)


class Marks(TrainerCallback):
    """Both clocks at the end of every step of the outer loop."""

    def __init__(self) -> None:
        self.clocks: dict[str, list[float]] = {"wall": [], "cpu": []}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One more."""
        self.clocks["wall"].append(time.perf_counter())
        self.clocks["cpu"].append(time.process_time())

    def per_second(self, trainer: Any, of_a_step: Callable[[], float], what: str) -> dict[str, float]:
        """Trains; how many of `what` a second by each clock: the median over steps, the first aside."""
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(self)
        trainer.train()
        found = {}
        for name, clock in self.clocks.items():
            took = sorted(later - earlier for earlier, later in pairwise(clock))
            found[name] = of_a_step() / took[len(took) // 2]
            say(f"{found[name]:.2f} {what} a second ({name})")
        return found


def compared(speed: Mapping[str, float], theirs: float, target: float) -> dict[str, Any]:
    """Ratios by both clocks, and what they are made of."""
    ratios = {"ratio": speed["wall"] / theirs, "ratio_by_cpu": speed["cpu"] / theirs}
    return {**ratios, "target_at_least": target, "per_second": dict(speed), "theirs_per_second": theirs}


def pearl(sizes: Sizes, out: Path) -> PEARLTrainer:
    """A trainer whose replay holds two trials of each task, and which plays no more."""
    tasks = make_tasks(name="point-robot", episodes=3)
    options = {"hidden_size": sizes.hidden, "layers": sizes.layers, "latent": sizes.latent}
    torch.manual_seed(0)
    model = PEARLPolicy.for_spec(tasks.env.spec, encoder_size=sizes.encoder, encoder_layers=3, **options)
    args = PEARLConfig(
        output_dir=str(out), max_steps=sizes.steps, updates_per_step=sizes.updates, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, write_trials=False, per_device_train_batch_size=4 * sizes.tasks,
        train_tasks=sizes.tasks, meta_batch=sizes.tasks, batch_size=sizes.rows, context=sizes.context, random_steps=0,
    )  # fmt: skip
    return PEARLTrainer(model, args, tasks)


def measure_pearl(sizes: Sizes) -> dict[str, Any]:
    """`pearl_over_oyster`."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = pearl(sizes, Path(folder))
        speed = Marks().per_second(trainer, lambda: sizes.updates, "gradient steps of PEARL")
    return compared(speed, OYSTER, 1.5)


def measure_varibad(steps: int = 12, trials: int | None = None) -> dict[str, Any]:
    """`varibad_over_published`, over `steps` steps of the outer loop, each a collection and all its updates.

    Args:
        trials: of a collection; those of the recipe when left out.
    """
    few = () if trials is None else (f"per_device_train_batch_size={trials}",)
    with tempfile.TemporaryDirectory() as folder:
        recipe = load_recipe(RECIPE, [*QUIET, f"max_steps={steps}", *few])
        trainer = VariBADTrainer.from_recipe(recipe, Path(folder))
        frames = lambda: trainer.cost.total["env_steps"] / steps  # noqa: E731
        speed = Marks().per_second(trainer, frames, "environment steps of VariBAD")
    return compared(speed, PUBLISHED, 10)


def table(results: Mapping[str, Any]) -> str:
    """What was measured."""
    return "\n".join(
        f"{name} {one['ratio']:.2f} (target at least {one['target_at_least']}), {one['ratio_by_cpu']:.2f} by the CPU's "
        f"clock: {one['per_second']['wall']:.2f}/s over {one['theirs_per_second']}/s"
        for name, one in results.items()
        if name.endswith(("_over_oyster", "_over_published"))
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    ns = parser("evals.speed.inference", __doc__ or "").parse_args(argv)
    torch.set_num_threads(1)
    if argv is None:
        keep_freed_memory()  # as `mrt train` does
    found = {
        "pearl_over_oyster": measure_pearl(SMOKE if ns.smoke else Sizes()),
        "varibad_over_published": measure_varibad(3, 8) if ns.smoke else measure_varibad(),
    }
    show(found, ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
