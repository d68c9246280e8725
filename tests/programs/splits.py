"""One update of MRT on fixed traces, split over micro-batches and processes: what must not change.

    python -m tests.programs.splits ROWS ACCUMULATION [name=value ...]
    torchrun --nproc_per_node 2 -m tests.programs.splits ROWS ACCUMULATION [name=value ...]

The second with ACCELERATE_USE_CPU=true.

Traces are a function of their prompt, so that every split has the same ones. Prints JSON on the main process: loss,
gradient norm, the weights after one step of SGD, the groups of every process.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset

from mrt.reasoning.engines.attach import own_engine
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.traces.trial import Trial, read_trial
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.samplers import SampleRequest
from mrt.reasoning.training.trainer import MRTTrainer

TOKENIZER = build_tokenizer()
GLOBAL_ROWS, GROUP = 16, 4
SOLUTION = "5+3"


def reward(completions: Any, completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(set(ids)) / len(ids) + 0.1 * (sum(ids) % 5) for ids in completion_ids]


class Fixed(MRTTrainer):
    """Draws every trace from a generator seeded with its prompt and its place in the group."""

    groups: list[str]
    sampled = False  # the traces are those of the model

    def _collect(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
        rollout = self.rollout
        assert rollout is not None
        seen: dict[str, int] = {}

        class Drawn:
            def sample(self, engine: Any, request: SampleRequest) -> list[Trial]:
                trials = []
                for ids in request.prompts:
                    place = seen[str(ids)] = seen.get(str(ids), -1) + 1
                    rng = random.Random(f"{ids}:{place}")
                    drawn = [rng.randrange(9, 200) for _ in range(rng.randrange(6, 20))]
                    trials.append(read_trial(drawn, rollout.fmt, rollout.segment))
                return trials

        if not self.sampled:
            rollout.sampler = Drawn()
        else:  # the longer traces of one process must not wait for the other
            with own_engine(self) as engine:
                steps = 3 + 20 * self.accelerator.process_index
                engine.answers(engine.prefill([[9, 10, 11]]), [Branch(0, 3)], 1, steps, [])
        self.groups = [str(row["key"]) for row in self.rollout_rows]
        return super()._collect(prompts, trainer)


def build(rows: int, accumulation: int, **changed: Any) -> Fixed:
    options = {
        "per_device_train_batch_size": rows, "gradient_accumulation_steps": accumulation,
        "generation_batch_size": GLOBAL_ROWS, "num_generations": GROUP, "max_completion_length": 20, "max_steps": 1,
        "learning_rate": 0.5, "optim": "sgd", "max_grad_norm": 0.0, "use_cpu": True, "save_strategy": "no", "top_k": 0,
        "credit": "progress", "probe": "gold", "segmenter": "blocks", "held_out_prover": "none", "seed": 3, **changed,
    }  # fmt: skip
    args = MRTConfig(output_dir=tempfile.mkdtemp(), **options)
    args.segmenter_options = {"size": 4}
    prompts = [[{"role": "user", "content": f"{i} 5->{i + 5}"}] for i in range(8)]
    columns = {"prompt": prompts, "solutions": [[SOLUTION]] * 8, "key": [f"k{i}" for i in range(8)]}
    return Fixed(
        model=build_model(TOKENIZER, hidden=32, layers=2, heads=2, seed=1), reward_funcs=reward, args=args,
        train_dataset=Dataset.from_dict(columns), processing_class=TOKENIZER,
    )  # fmt: skip


def whole(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of every parameter, gathered where processes share it."""
    return {name: getattr(value, "full_tensor", lambda value=value: value)().detach().clone()
            for name, value in model.named_parameters()}  # fmt: skip


def main(rows: str, accumulation: str, *options: str, gather: Callable[..., Any] = whole) -> None:
    pairs = (option.split("=", 1) for option in options)
    changed: dict[str, Any] = {name: int(value) if value.isdecimal() else value for name, value in pairs}
    Fixed.sampled = bool(changed.pop("sampled", ""))
    trainer = build(int(rows), int(accumulation), **changed)
    start = gather(trainer.model)
    trainer.train()
    moved = torch.cat([(value - start[name]).flatten() for name, value in gather(trainer.model).items()])
    groups: list[Any] = [trainer.groups]
    if trainer.args.world_size > 1:
        from accelerate.utils import gather_object

        groups = gather_object(groups)
    (row,) = [row for row in trainer.state.log_history if "loss" in row]
    if trainer.args.process_index == 0:
        found = {"loss": row["loss"], "moved": moved.tolist(), "groups": groups, "reward": row["reward"]}
        parameters = list(trainer.model.parameters())
        found["sharded"] = any(hasattr(value, "full_tensor") or hasattr(value, "ds_tensor") for value in parameters)
        print(json.dumps(found), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
