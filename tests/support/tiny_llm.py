"""TRL's own trainers behind `TrialMixin`, on a model of a few thousand parameters.

    python -m tests.support.tiny_llm grpo|sft OUTPUT_DIR [name=value ...]

Goes on from the newest whole checkpoint; prints a digest.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.training.mixin import TrialArguments, TrialMixin
from tests.support.bandit import digest


@dataclass
class GRPOArguments(TrialArguments, GRPOConfig):
    pass


@dataclass
class SFTArguments(TrialArguments, SFTConfig):
    pass


class GRPO(TrialMixin, GRPOTrainer):
    """Writes every completion as a trial, so that a resumed run can be compared by what it sampled."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        output = super()._generate_and_score_completions(inputs)
        self.write_trials({"step": self.state.global_step, "ids": ids.tolist()} for ids in output["completion_ids"])
        self.log_metric("toy/rows", len(inputs))
        return output


class SFT(TrialMixin, SFTTrainer):
    pass


def spread_of_ids(completion_ids: list[list[int]], **_: Any) -> list[float]:
    """A reward without meaning that tells completions apart."""
    return [len(set(ids)) / (1 + len(ids)) + (sum(ids) % 7) / 10 for ids in completion_ids]


COMMON: dict[str, Any] = {
    "max_steps": 14,
    "save_steps": 3,
    "learning_rate": 1e-3,
    "logging_steps": 2,
    "use_cpu": True,
    "disable_tqdm": True,
    "auto_resume": True,
}


def grpo(output_dir: Path, trainer: type[GRPO] = GRPO, **changed: Any) -> GRPO:
    """An epoch has 2 generations of 4 updates: resuming crosses generation buffers and epochs."""
    options = {
        "per_device_train_batch_size": 4,
        "num_generations": 4,
        "steps_per_generation": 2,
        "num_iterations": 2,
        "max_completion_length": 6,
        **COMMON,
        **changed,
    }
    adapter = None
    if options.pop("lora", False):
        from peft import LoraConfig

        adapter = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    tokenizer = build_tokenizer()
    model: Any = build_model(tokenizer, hidden=32, layers=1, heads=2)
    if options.get("beta"):  # TRL reloads the reference from where the policy came from
        model.save_pretrained(output_dir / "start")
        model = str(output_dir / "start")
    return trainer(
        model=model,
        reward_funcs=spread_of_ids,
        args=GRPOArguments(output_dir=str(output_dir), **options),
        train_dataset=Dataset.from_list([{"prompt": f"{i},{i + 3}->{2 * i}"} for i in range(4)]),
        processing_class=tokenizer,
        peft_config=adapter,
    )


def sft(output_dir: Path, trainer: type[SFT] = SFT, **changed: Any) -> SFT:
    """An epoch has 5 updates of 2 micro-batches."""
    options = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_length": 32,
        "dataset_num_proc": None,
        **COMMON,
        **changed,
    }
    tokenizer = build_tokenizer()
    rows = [{"prompt": f"{i},{i + 3}->", "completion": f"({i}+{i})={2 * i}"} for i in range(20)]
    return trainer(
        model=build_model(tokenizer, hidden=32, layers=1, heads=2),
        args=SFTArguments(output_dir=str(output_dir), **options),
        train_dataset=Dataset.from_list(rows),
        eval_dataset=Dataset.from_list(rows[:4]) if "eval_strategy" in changed else None,
        processing_class=tokenizer,
    )


BUILD = {"grpo": grpo, "sft": sft}


def main(kind: str, output_dir: str, *options: str) -> None:
    changed = {name: int(value) for name, _, value in (option.partition("=") for option in options)}
    trainer = BUILD[kind](Path(output_dir), **changed)
    print("ready", flush=True)
    trainer.train()
    print("digest", digest(trainer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
