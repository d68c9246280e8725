"""What an off-policy agent that learns in context costs: updates of its learner, and frames of its play.

    python -m evals.speed.off_policy            a table
    python -m evals.speed.off_policy --json     the same as one object

updates_per_second    Updates a second of CPU time: 16 whole trials of 125 rows drawn from the replay, losses of actor
                      and four critics for seven discounts, backward, clipping, Adam, targets. Transformer 2 x 64,
                      heads of 128 units. `ratio` is over the 3.6 of AMAGO's own code.
frames_per_second     Environment steps a second of CPU time while the exploring policy plays such trials (Dark Room
                      9x9, five episodes of 24 steps), 16 and 64 side by side. `ratio` is over AMAGO's 2,714.

AMAGO's figures were measured on this kind of machine once, not beside ours.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from classic_metarl.black_box.amago import AMAGOConfig, AMAGOPolicy, AMAGOTrainer
from evals.speed.common import interleaved, parser, show, summary
from mrt.control.envs import make_tasks
from mrt.control.rollout import rollout
from mrt.optim.learners import CompositeOptimizer, accumulate_own

AMAGO = {"updates_per_second": 3.6, "frames_per_second": 2714.0}
TIMES = 2  # how many times as fast ours has to be


@dataclass(frozen=True)
class Sizes:
    """How long is measured, and on what."""

    rows: int = 16
    steps: int = 24
    episodes: int = 5  # with a closing row each: 125 rows a trial
    hidden: int = 64
    heads: int = 128
    updates: int = 10  # of a repetition
    players: tuple[int, ...] = (16, 64)
    repetitions: int = 3


SMOKE = Sizes(rows=2, steps=2, episodes=2, hidden=8, heads=8, updates=2, players=(2,), repetitions=1)


def make_trainer(folder: Path, sizes: Sizes) -> AMAGOTrainer:
    """The agent, its replay filled by random play."""
    tasks = make_tasks("dark-room", size=9, steps=sizes.steps, episodes=sizes.episodes)
    rows = tasks.env.spec.trial_steps * sizes.rows
    args = AMAGOConfig(
        output_dir=str(folder), max_steps=1, random_steps=4 * rows, batch_size=sizes.rows, save_strategy="no",
        per_device_train_batch_size=sizes.rows, report_to=[], use_cpu=True, write_trials=False,
    )  # fmt: skip
    memory = {"memory": "transformer", "memory_options": {"layers": 2, "heads": 4}}
    options = {"hidden_size": sizes.hidden, "head_size": sizes.heads, "horizons": 1 + len(args.gammas), **memory}
    trainer = AMAGOTrainer(AMAGOPolicy.for_spec(tasks.env.spec, **options), args, tasks)
    trainer.next_batch(range(sizes.rows))
    return trainer


def updater(trainer: AMAGOTrainer, updates: int) -> Callable[[], int]:
    """So many updates, as the outer loop takes them."""
    composite = CompositeOptimizer(trainer.learners())

    def update() -> int:
        for _ in range(updates):
            losses = trainer.losses(trainer.sample())
            accumulate_own(losses, composite.learners, lambda grad: grad)
            composite.due |= set(losses)
            composite.clip(trainer.args.max_grad_norm)
            composite.step()
            composite.zero_grad()
        return updates

    return update


def play(trainer: AMAGOTrainer, players: int, number: int) -> int:
    """One trial of so many players, and its environment steps."""
    params = trainer.tasks.batch(number, range(players))
    return int(rollout(trainer.tasks.env, trainer.player(), params, seed=number).mask.sum())


def measure(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """Both keys."""
    trainer = make_trainer(folder, sizes)
    update = updater(trainer, sizes.updates)
    update()
    names = {"updates": "updates", **{f"{count} players": str(count) for count in sizes.players}}

    def make(name: str, number: int) -> Callable[[], int]:
        return update if name == "updates" else partial(play, trainer, int(names[name]), number)

    timed = interleaved(list(names), make, sizes.repetitions, "off-policy")
    cases: dict[str, dict[str, Any]] = {}
    for name, one in timed.items():
        key = "updates_per_second" if name == "updates" else "frames_per_second"
        rate = one.result / statistics.median(one.cpu)
        found = {"ratio": rate / AMAGO[key], key: rate, "amago": AMAGO[key], "clock": "cpu", "count": one.result}
        label = f"{sizes.rows} rows of {(sizes.steps + 1) * sizes.episodes}" if name == "updates" else name
        cases.setdefault(key, {})[label] = found | {"cpu_seconds": statistics.median(one.cpu), "wall": one.wall}
    return {key: summary(found, at_least=TIMES) for key, found in cases.items()}


def table(results: Mapping[str, Any]) -> str:
    """What was measured."""
    lines = []
    for key in AMAGO:
        lines.append(f"{key}, CPU time; AMAGO {AMAGO[key]:,g}, target at least {TIMES} times that")
        lines += [
            f"  {name}: {case[key]:,.1f} ({case['ratio']:.1f} times)" for name, case in results[key]["cases"].items()
        ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser("evals.speed.off_policy", __doc__ or "")
    options.add_argument("--repetitions", type=int, help=f"instead of {Sizes.repetitions}")
    ns = options.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = SMOKE if ns.smoke else Sizes()
    sizes = replace(sizes, repetitions=ns.repetitions) if ns.repetitions else sizes
    with tempfile.TemporaryDirectory() as folder:
        results = measure(sizes, Path(folder))
    show(results, ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
