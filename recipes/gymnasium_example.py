"""Any Gymnasium environment as a task distribution: pendulums of unknown gravity, learned over trials of two episodes.

    python recipes/gymnasium_example.py           (pip install 'mrt-rl[control]', or -e '.[control]' in a checkout)

The first lines are all that a new environment needs: which parameters vary, and between what. Rollouts, credits,
trainer and evaluation are the same as everywhere; docs/environments.md has more.
"""

import argparse
from pathlib import Path
from typing import Any

from mrt.control.envs import make_tasks
from mrt.control.evaluation.run import evaluate_policy
from mrt.control.policy import ControlPolicy
from mrt.control.trainer import ControlConfig, ControlTrainer

PENDULUMS: dict[str, Any] = {"gymnasium": "Pendulum-v1", "vary": {"g": [2, 18]}, "episodes": 2, "episode_steps": 50}


def main() -> None:
    """Trains for some updates and says what was learned."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("runs/gymnasium"))
    ns = parser.parse_args()
    tasks, held_out = (make_tasks(split=split, **PENDULUMS) for split in ("train", "test"))
    policy = ControlPolicy.for_spec(tasks.env.spec, memory="gru", hidden_size=32)
    args = ControlConfig(
        output_dir=str(ns.out),
        max_steps=ns.steps,
        per_device_train_batch_size=16,
        epochs=4,
        learning_rate=1e-3,
        bounds=False,  # nobody knows the optimum of these pendulums
        save_strategy="no",
        report_to=[],
        logging_steps=20,
    )
    ControlTrainer(policy, args, tasks).train()
    found = evaluate_policy(policy, held_out, count=32, chunk=32)
    for name, player in found["players"].items():
        print(name, {key: round(value["mean"], 1) for key, value in player["measures"].items()})


if __name__ == "__main__":
    main()
