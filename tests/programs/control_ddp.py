"""Two processes of control on a hallway: `torchrun --nproc_per_node 2 -m tests.programs.control_ddp OUTPUT_DIR`.

Every process plays other trials; each prints the digest of its policy and the units of its critic, and what it logged.
"""

from __future__ import annotations

import json
import sys

import torch

from mrt.control.envs import make_tasks
from mrt.control.policy import ControlPolicy
from mrt.control.trainer import ControlConfig, ControlTrainer
from tests.support.bandit import digest_of


def main(output_dir: str) -> None:
    tasks = make_tasks("hallway", half=2, cost=0.1, episodes=2)
    torch.manual_seed(0)
    policy = ControlPolicy.for_spec(tasks.env.spec, hidden_size=8)
    args = ControlConfig(
        output_dir=output_dir,
        per_device_train_batch_size=6,
        max_steps=6,
        epochs=2,
        learning_rate=1e-2,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = ControlTrainer(policy, args, tasks)
    trainer.train()
    units = [float(trainer.policy.value_mean), float(trainer.policy.value_std)]
    batch = trainer.collection.batch
    assert batch is not None
    weights = batch.weights[batch.trials.mask]
    state = digest_of(trainer.policy.state_dict())
    line = f"\npolicy {args.process_index} {state} {units} {float(weights.sum())} {len(weights)}\n"
    logged = [row for row in trainer.state.log_history if "loss" in row]
    line += f"\nlogged {args.process_index} {json.dumps(logged)}\n"
    print(line, end="", flush=True)  # in one write: the other process prints too
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
