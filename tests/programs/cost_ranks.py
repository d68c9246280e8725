"""Two processes whose traces cost differently: `max_cost`, the linear schedule and what is logged are those of both.

    torchrun --nproc_per_node 2 -m tests.programs.cost_ranks    (with ACCELERATE_USE_CPU=true)

Prints JSON on the main process: a list with an object for every process.
"""

from __future__ import annotations

import json
import random
import tempfile
from typing import Any

import torch
from accelerate.utils import gather_object
from datasets import Dataset
from transformers import TrainerCallback

from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.traces.trial import Trial, read_trial
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.samplers import SampleRequest
from mrt.reasoning.training.trainer import MRTTrainer

TOKENIZER = build_tokenizer()
MAX_COST = 3000


def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(set(ids)) / len(ids) for ids in completion_ids]


class Watch(TrainerCallback):
    """Learning rates and weights of every step, as this process has them."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.sums: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.rates.append(kwargs["optimizer"].param_groups[0]["lr"])
        self.sums.append(float(sum(p.double().sum() for p in kwargs["model"].parameters())))


class Unequal:
    """Long traces on the first process, short ones on the second."""

    def __init__(self, trainer: MRTTrainer) -> None:
        self.trainer, self.episodes = trainer, list[int]()

    def sample(self, engine: Any, request: SampleRequest) -> list[Trial]:
        rollout, rank = self.trainer.rollout, self.trainer.args.process_index
        assert rollout is not None
        rng, trials = random.Random(f"{rank}:{request.step}"), []
        for _ in request.prompts:
            length = rng.randrange(4, 8) if rank else rng.randrange(12, 20)
            trials.append(read_trial([rng.randrange(9, 200) for _ in range(length)], rollout.fmt, rollout.segment))
        self.episodes += [len(trial.ends) for trial in trials]
        return trials


def main() -> None:
    args = MRTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=4, num_generations=4, max_completion_length=20,
        max_steps=50, learning_rate=0.1, optim="sgd", use_cpu=True, save_strategy="no", report_to=[], top_k=0, seed=3,
        credit="progress", alpha=1.0, alpha_end=0.0, probe="gold", segmenter="blocks", segmenter_options={"size": 4},
        held_out_prover="none", lr_scheduler_type="linear", max_cost=MAX_COST,
    )  # fmt: skip
    columns = {
        "prompt": [[{"role": "user", "content": f"{i} 5->{i + 5}"}] for i in range(8)],
        "solutions": [[f"{i}+5"] for i in range(8)],
    }
    trainer = MRTTrainer(
        model=build_model(TOKENIZER, hidden=32, layers=1, heads=2, seed=1), reward_funcs=reward, args=args,
        train_dataset=Dataset.from_dict(columns), processing_class=TOKENIZER,
    )  # fmt: skip
    watch, sampler = Watch(), Unequal(trainer)
    trainer.add_callback(watch)
    assert trainer.rollout is not None
    trainer.rollout.sampler = sampler
    trainer.train()
    found = {
        "steps": trainer.state.global_step,
        "rates": watch.rates,
        "sums": watch.sums,
        "cost": trainer.cost(),
        "episodes": sampler.episodes,
        "logged": [row for row in trainer.state.log_history if "loss" in row],
    }
    everywhere = gather_object([found])
    if trainer.args.process_index == 0:
        print(json.dumps(everywhere), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
