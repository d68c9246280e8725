"""A trainer that trains nothing: what recipes and commands need of one, without torch."""

import json
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from mrt.runs.recipe import Recipe


class Strategy(Enum):
    NO = "no"
    STEPS = "steps"


@dataclass
class FakeArgs:
    output_dir: str = ""
    seed: int = 0
    learning_rate: float = 1e-3
    max_steps: int = 3
    bf16: bool = False
    run_name: str | None = None
    save_strategy: Strategy | str = "no"
    report_to: str | list[str] | None = None
    model_init_kwargs: dict[str, Any] | str | None = None
    betas: list[float] | None = None
    loss: Literal["grpo", "dapo"] = "grpo"
    hub_token: str | None = None
    eos_token: str | None = None

    def __post_init__(self) -> None:
        if self.max_steps < 0:
            raise ValueError("max_steps cannot be negative")


class FakeTrainer:
    """`run_name` says how it ends: well, `crash`, `interrupt`, or `sleep` after its first checkpoint."""

    def __init__(self, recipe: Recipe, output_dir: Path) -> None:
        self.recipe, self.output_dir = recipe, output_dir
        self.args = recipe.build_args(FakeArgs, output_dir)
        self.state = SimpleNamespace(global_step=0)

    @classmethod
    def args_class(cls) -> type:
        return FakeArgs

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> "FakeTrainer":
        return cls(recipe, output_dir)

    def train(self, resume_from_checkpoint: str | None = None) -> Any:
        print("trainers print to stdout")
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with (self.output_dir / "metrics.jsonl").open("a") as file:
            for step in range(1, self.args.max_steps + 1):
                file.write(json.dumps({"step": step, "reward": step / 10}) + "\n")
        if self.args.run_name == "crash":
            raise RuntimeError("the work failed")
        if self.args.run_name == "interrupt":
            raise KeyboardInterrupt
        if self.args.run_name == "sleep":
            time.sleep(60)
        self.state.global_step = self.args.max_steps
        return SimpleNamespace(metrics={"train_loss": float("nan"), "resumed_from": resume_from_checkpoint})

    def save_model(self, output_dir: str) -> None:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        (Path(output_dir) / "weights").write_text(self.recipe.trainer)


class NoTrainer:
    """Lacks what a recipe asks for."""
