"""Two processes of ProMP on two dependent arms: `torchrun --nproc_per_node 2 -m tests.programs.meta_rl_ddp OUTPUT_DIR`.

Every process plays other tasks; each prints the digest of its policy and the mean of its rewards.
"""

from __future__ import annotations

import sys

import torch

from classic_metarl.gradient.promp import ProMPConfig, ProMPTrainer
from classic_metarl.problems.paired import paired_tasks
from tests.support.bandit import digest_of


def main(output_dir: str) -> None:
    args = ProMPConfig(
        output_dir=output_dir,
        per_device_train_batch_size=4,
        episodes=5,
        hidden=[8],
        max_steps=6,
        epochs=2,
        learning_rate=1e-2,
        curve_tasks=4,
        curve_steps=1,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )
    trainer = ProMPTrainer.of(paired_tasks(name="dependent-bandit", kind="easy", pulls=3), args)
    trainer.train()
    batch = trainer.collection.batch
    assert batch is not None
    state = digest_of(trainer.learner.state_dict())
    print("policy", args.process_index, state, batch.trials.task.tolist(), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
