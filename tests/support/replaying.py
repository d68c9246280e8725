"""The bandit, learnt from trials that were played before: the toy on which a replay's saves are proven.

    python -m tests.support.replaying OUTPUT_DIR [name=value ...]

It goes on from the newest whole checkpoint, and prints a digest.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mrt.replay import Replay
from mrt.tasks import Task
from mrt.trials import Trials
from tests.support import bandit


class ReplayTrainer(bandit.BanditTrainer):
    """Stores what it plays and learns from old and new alike; the replay holds some five collections."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.replay = Replay(capacity_steps=3300)
        self.register_state("replay", self.replay)

    def collect(self, tasks: Sequence[Task]) -> Trials:
        self.replay.add(super().collect(tasks))
        return self.replay.rows(len(tasks) * bandit.TRIALS)


def build(output_dir: Path, **changed: Any) -> Any:
    """A trainer of the toy with small, quick settings."""
    return bandit.build(output_dir, ReplayTrainer, **changed)


def digest(trainer: Any) -> str:
    """sha256 over weights, optimiser, schedule, and what the replay would draw next."""
    rows = trainer.replay.rows(500, torch.Generator().manual_seed(0))
    return bandit.digest_of(
        [bandit.digest(trainer), rows.actions, rows.rewards, rows.inputs["history"], len(trainer.replay)]
    )


if __name__ == "__main__":
    output_dir, *options = sys.argv[1:]
    trainer = build(Path(output_dir), **{n: int(v) for n, _, v in (option.partition("=") for option in options)})
    print("ready", flush=True)
    trainer.train()
    print("digest", digest(trainer), flush=True)
