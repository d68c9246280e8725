"""L1 / LCPO: the prompt names a number of tokens, and the reward pays for keeping to it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError, nearest
from mrt.reasoning.baselines.shaping import RIGHT, Columns, ShapingTrainer
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.config import MRTConfig

MODES = ("exact", "max")
COLUMN = "target_tokens"


@dataclass
class L1Config(MRTConfig):
    """`MRTConfig`, and how lengths are asked for and paid."""

    length_mode: str = field(default="exact", metadata={"help": "exact: as many tokens | max: at most as many"})
    length_low: int = field(default=100, metadata={"help": "fewest tokens that a prompt asks for"})
    length_high: int = field(default=4000, metadata={"help": "most tokens that a prompt asks for"})
    length_alpha: float = field(default=0.0003, metadata={"help": "what a token off the target costs"})
    length_delta: float = field(default=0.5, metadata={"help": "max: what a right answer of the target's length earns"})
    length_prompt: str = field(
        default=" Think for {tokens} tokens.", metadata={"help": "what follows a problem, with {tokens}"}
    )

    def __post_init__(self) -> None:
        if self.length_mode not in MODES:
            raise ConfigError(f"length_mode={self.length_mode!r} is unknown; {nearest(self.length_mode, MODES)}")
        if not 0 < self.length_low <= self.length_high:
            raise ConfigError(f"length_low={self.length_low} and length_high={self.length_high} are no range above 0")
        if "{tokens}" not in self.length_prompt:
            raise ConfigError(f"length_prompt={self.length_prompt!r} must hold {{tokens}}")
        super().__post_init__()


class L1Trainer(ShapingTrainer):
    """LCPO (Aggarwal and Welleck 2025, 2503.04697), n* the tokens that the prompt asks for, n those of the thought.

    exact  r = 1[right] - alpha |n - n*|
    max    r = 1[right] clip(alpha (n* - n) + delta, 0, 1)

    n* is drawn once a problem, evenly from `length_low` to `length_high`. The paper counts the whole output.
    """

    args: L1Config

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: L1Config | None = None,
        train_dataset: Any = None,
        **kwargs: Any,
    ) -> None:
        args = args or L1Config()
        if kwargs.get("eval_dataset") is not None:
            kwargs["eval_dataset"] = with_targets(kwargs["eval_dataset"], args)
        super().__init__(model, reward_funcs, args, with_targets(train_dataset, args), **kwargs)

    @classmethod
    def args_class(cls) -> type:
        return L1Config

    def shape(self, rewards: Tensor, trials: Sequence[Trial], columns: Columns) -> Tensor:
        lengths = torch.tensor([float(len(trial.thought)) for trial in trials])
        targets = torch.tensor([float(target) for target in columns[COLUMN]])
        self.log_metric("length/off_target", float((lengths - targets).abs().mean()))
        return length_reward(rewards, lengths, targets, self.args)


def length_reward(rewards: Tensor, lengths: Tensor, targets: Tensor, args: L1Config) -> Tensor:
    """(B,) the reward of LCPO; NaN where the answer could not be scored."""
    right = torch.where(rewards.isnan(), rewards, (rewards > RIGHT).float())
    if args.length_mode == "exact":
        return right - args.length_alpha * (lengths - targets).abs()
    return right * (args.length_alpha * (targets - lengths) + args.length_delta).clamp(0, 1)


def with_targets(dataset: Any, args: L1Config) -> Any:
    """The dataset with a column of target lengths, which the prompts ask for."""

    def asked(row: Mapping[str, Any]) -> dict[str, Any]:
        digest = hashlib.sha256(f"{args.seed}:{row.get('key') or row['prompt']}".encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        tokens = args.length_low + int(share * (args.length_high - args.length_low + 1))
        tail = args.length_prompt.replace("{tokens}", str(tokens))
        prompt = row["prompt"]
        if isinstance(prompt, str):
            return {"prompt": prompt + tail, COLUMN: tokens}
        last = {**prompt[-1], "content": prompt[-1]["content"] + tail}
        return {"prompt": [*prompt[:-1], last], COLUMN: tokens}

    return dataset.map(asked)
