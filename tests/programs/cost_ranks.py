"""Two processes whose traces cost differently: `max_cost`, the linear schedule and what is logged are those of both;
and a file that asks to stop, which only the main process sees, stops both.

    torchrun --nproc_per_node 2 -m tests.programs.cost_ranks    (with ACCELERATE_USE_CPU=true)

Prints JSON on the main process: a list with an object for every process.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
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
from mrt.training.stopping import StopFile

TOKENIZER = build_tokenizer()
MAX_COST = 3000


def reward(completion_ids: list[list[int]], log_metric: Any = None, **_: Any) -> list[float]:
    if log_metric is not None:
        log_metric("odd", sum(i % 2 for ids in completion_ids for i in ids) / sum(map(len, completion_ids)))
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


class Asks(TrainerCallback):
    """The main process finds the file from the third update on."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2 and args.process_index == 0:
            self.path.touch()


def build(**changed: Any) -> tuple[MRTTrainer, Unequal]:
    """A trainer that gives its processes traces of different lengths, and its sampler."""
    args = MRTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=4, num_generations=4, max_completion_length=20,
        max_steps=50, learning_rate=0.1, optim="sgd", use_cpu=True, save_strategy="no", report_to=[], top_k=0, seed=3,
        credit="progress", alpha=1.0, alpha_end=0.0, probe="gold", segmenter="blocks", segmenter_options={"size": 4},
        held_out_prover="none", lr_scheduler_type="linear", **changed,
    )  # fmt: skip
    columns = {
        "prompt": [[{"role": "user", "content": f"{i} 5->{i + 5}"}] for i in range(8)],
        "solutions": [[f"{i}+5"] for i in range(8)],
    }
    trainer = MRTTrainer(
        model=build_model(TOKENIZER, hidden=32, layers=1, heads=2, seed=1), reward_funcs=reward, args=args,
        train_dataset=Dataset.from_dict(columns), processing_class=TOKENIZER,
    )  # fmt: skip
    sampler = Unequal(trainer)
    assert trainer.rollout is not None
    trainer.rollout.sampler = sampler
    return trainer, sampler


def stopped() -> tuple[int, bool]:
    """The updates of a run that was asked to stop, and whether it knows so, on this process."""
    trainer, _ = build()
    stop = StopFile(Path(tempfile.mkdtemp()) / f"stop-{trainer.args.process_index}")
    for one in (Asks(stop.path), stop):
        trainer.add_callback(one)
    trainer.train()
    return trainer.state.global_step, stop.seen


def main() -> None:
    trainer, sampler = build(max_cost=MAX_COST)
    watch = Watch()
    trainer.add_callback(watch)
    trainer.train()
    found = {
        "steps": trainer.state.global_step,
        "rates": watch.rates,
        "sums": watch.sums,
        "cost": trainer.cost(),
        "episodes": sampler.episodes,
        "stopped": stopped(),
        "logged": [row for row in trainer.state.log_history if "loss" in row],
    }
    everywhere = gather_object([found])
    if trainer.args.process_index == 0:
        print(json.dumps(everywhere), flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
