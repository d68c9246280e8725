"""What systems that infer their task cost.

    python -m evals.speed.inference            a table
    python -m evals.speed.inference --json     the same as one object

pearl_over_oyster    Gradient steps a second of PEARL in the whole loop of `PEARLTrainer` (contexts and transitions from
                     the replay, guard, logs), over those that the authors' code took on a machine of this kind:
                     16 tasks, 256 rows of each, networks of 3 x 300, contexts of 64 transitions, an encoder of 3 x 200
                     and a latent of 5. One thread. Steps by the clock of the CPU stand beside: other programs do not
                     count in them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from classic_metarl.inference.pearl import PEARLConfig, PEARLPolicy, PEARLTrainer
from evals.speed.common import parser, say, show
from mrt.control.envs import make_tasks

OYSTER = 2.33  # gradient steps a second of the published code, one thread


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
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """One more."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


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
    """`pearl_over_oyster`: the median over steps of the outer loop, the first aside."""
    marks = Marks()
    with tempfile.TemporaryDirectory() as folder:
        trainer = pearl(sizes, Path(folder))
        trainer.add_callback(marks)
        trainer.train()
    per_second = {}
    for name, clock in (("wall", marks.wall), ("cpu", marks.cpu)):
        took = sorted(later - earlier for earlier, later in pairwise(clock))
        per_second[name] = sizes.updates / took[len(took) // 2]
        say(f"pearl 1/1: {per_second[name]:.2f} gradient steps a second ({name})")
    ratios = {"ratio": per_second["wall"] / OYSTER, "ratio_by_cpu": per_second["cpu"] / OYSTER}
    return {**ratios, "target_at_least": 1.5, "steps_per_second": per_second, "oyster_per_second": OYSTER}


def table(results: Mapping[str, Any]) -> str:
    """What was measured."""
    one = results["pearl_over_oyster"]
    speeds = ", ".join(f"{speed:.2f}/s ({clock})" for clock, speed in one["steps_per_second"].items())
    return (
        f"pearl_over_oyster {one['ratio']:.2f} (target at least {one['target_at_least']}), "
        f"{one['ratio_by_cpu']:.2f} by the CPU's clock\n  {speeds} over {one['oyster_per_second']}/s"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    ns = parser("evals.speed.inference", __doc__ or "").parse_args(argv)
    torch.set_num_threads(1)
    show({"pearl_over_oyster": measure_pearl(SMOKE if ns.smoke else Sizes())}, ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
