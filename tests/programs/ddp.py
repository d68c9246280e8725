"""Two processes of the bandit: `torchrun --nproc_per_node 2 -m tests.programs.ddp OUTPUT_DIR [name=value ...]`.

`two=1` trains two learners, `stop=K` interrupts after step K, `bad=K` makes the loss of the second process NaN in step
K; the rest are arguments. Every process prints its digest.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from mrt.training.collection import Batch
from tests.support.bandit import BanditTrainer, TwoLearners, build, digest
from tests.support.compare import StopAt


class OneBadRank(BanditTrainer):
    bad_step = -1

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        losses = super().losses(batch)
        if self.state.global_step == self.bad_step and self.args.process_index == 1:
            losses["policy"] = losses["policy"] * torch.nan
        return losses


def main(output_dir: str, *options: str) -> None:
    changed = {name: int(value) for name, _, value in (option.partition("=") for option in options)}
    two, stop, OneBadRank.bad_step = changed.pop("two", 0), changed.pop("stop", 0), changed.pop("bad", -1)
    # accelerate would start no second process on the CPU by itself; `use_cpu` with torchrun does.
    trainer = build(Path(output_dir), TwoLearners if two else OneBadRank, **changed)
    if stop:
        trainer.add_callback(StopAt(stop))
    try:
        trainer.train()
    except KeyboardInterrupt:
        print("stopped", flush=True)
    else:
        print("digest", trainer.args.process_index, digest(trainer), trainer._guard().skipped, flush=True)
    torch.distributed.barrier()  # a process that leaves first can make the other abort
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
