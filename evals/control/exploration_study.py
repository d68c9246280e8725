"""Systems that explore on purpose, on the environments of the study of progress credit and over the same steps.

    python -m evals.control.exploration_study                 runs what is not stored yet, then prints the table
    python -m evals.control.exploration_study --cached        prints what is stored, the arms of that study among it
    python -m evals.control.exploration_study --env semicircle --arms metacure --seeds 1 --minutes 60

    pearl       posterior sampling                                                   semicircle
    metacure    a separate explorer, paid for information                            semicircle
    dream       exploration and execution learned apart; told the task in training   bus, map
    import      the same learned end to end, by one policy with and without the task bus

Each takes its recipe of `recipes/inference/`, with as many episodes as the environment of the study has and the reward
that is paid there, nothing denser. SAC systems need continuous actions, DREAM and IMPORT discrete ones and a free
episode: the other cells are empty. Results go beside those of `evals.control.progress_study`, one file a seed and arm.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from evals.control.progress_figures import summarise, table
from evals.control.progress_study import PLAIN, QUIET, RUNNING, SEEDS, SETTINGS, STORE, Job, Setting, run
from mrt.errors import MRTError
from mrt.runs.rundir import write_json


class System(NamedTuple):
    """A recipe and what is laid over it; steps of its outer loop between two measurements."""

    recipe: str
    overrides: tuple[str, ...]
    every: int


SPARSE = ("tasks.episodes=3", "args.critic_reward=paid")
LEARNS = ("args.updates_per_env_step=0.02", "args.epsilon_steps=300000")
SYSTEMS: dict[str, dict[str, System]] = {
    "semicircle": {
        "pearl": System("inference/pearl-sparse", SPARSE, 250),
        "metacure": System("inference/metacure-sparse", (*SPARSE, "policy.explore_episodes=2"), 250),
    },
    "bus": {
        "dream": System("inference/dream-bus", LEARNS, 25),
        "import": System("inference/import-bus", LEARNS, 25),
    },
    "map": {"dream": System("inference/dream-map", LEARNS, 25)},
}


@dataclass(frozen=True)
class Cell(Job):
    """One run of a system."""

    @property
    def system(self) -> System:
        """Its recipe."""
        return SYSTEMS[self.env][self.arm]

    @property
    def setting(self) -> Setting:
        return replace(super().setting, every=self.system.every)

    @property
    def weight(self) -> float | None:
        """No bonus."""
        return None

    def recipe(self) -> tuple[str, list[str]]:
        own = self.system
        return own.recipe, [*RUNNING, *QUIET, *own.overrides, f"seed={self.seed}"]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code (2: a user's mistake)."""
    ns = _parser().parse_args(argv)
    cells = [Cell(env, arm, s) for s in ns.seeds for env in ns.env for arm in SYSTEMS[env] if arm in ns.arms]
    begin = time.monotonic()
    try:
        for cell in [] if ns.cached else [cell for cell in cells if not cell.is_stored(ns.store)]:
            if time.monotonic() - begin > 60 * ns.minutes:
                print("out of time: the same command goes on from here", file=sys.stderr)
                break
            print(f"{cell.env} {cell.name} seed {cell.seed}", file=sys.stderr)
            write_json(cell.path(ns.store), run(cell))
        beside = [Job(env, arm, seed) for seed in ns.seeds for env in ns.env for arm in SETTINGS[env].arms]
        summary = summarise([job.path(ns.store) for job in (*beside, *cells)], SETTINGS, PLAIN)
    except (MRTError, KeyboardInterrupt) as error:
        print(f"exploration_study: {error or 'interrupted; the same command goes on from here'}", file=sys.stderr)
        return 2 if isinstance(error, MRTError) else 130
    print(json.dumps(summary, indent=2) if ns.json else table(summary))
    return 0


def _parser() -> argparse.ArgumentParser:
    names = sorted({arm for systems in SYSTEMS.values() for arm in systems})
    described = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m evals.control.exploration_study", description=described)
    parser.add_argument("--env", nargs="+", choices=sorted(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--arms", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no further run after so many")
    parser.add_argument("--store", type=Path, default=STORE)
    parser.add_argument("--cached", action="store_true", help="print what is stored, run nothing")
    parser.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
