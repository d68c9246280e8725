"""Policies with weights that say something, and inputs to feed them: what the tests of policies and rollouts share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mrt.control.policy import ControlPolicy, Heads, PolicyConfig

MEMORIES: dict[str, dict[str, Any]] = {
    "gru": {"layers": 2},
    "lstm": {},
    "transformer": {"layers": 2, "heads": 2},
    "none": {},
    "snail": {"steps": 6, "filters": 4, "keys": 5, "values": 3, "blocks": 2},
    "long-window": {"window": 4, "layers": 2, "heads": 2},
    "short-window": {"window": 4, "layers": 2, "heads": 2},
    "episodic-lstm": {"slots": 2},
}
CLASSES = {
    "snail": "classic_metarl.black_box.snail:SNAIL",
    "long-window": "classic_metarl.black_box.windows:LongWindow",
    "short-window": "classic_metarl.black_box.windows:ShortWindow",
    "episodic-lstm": "classic_metarl.black_box.episodic_lstm:EpisodicLSTM",
}
SEES = ["observation", "action", "reward", "done", "time"]


def randomised(policy: Any, seed: int = 0) -> Any:
    """Weights of the size of trained ones: initial heads say next to nothing, and biases are mostly 0."""
    made = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            scale = parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
            parameter.copy_(torch.randn(parameter.shape, generator=made) * scale + (parameter.ndim == 1) * 0.5)
    return policy


def named(memory: str) -> str:
    """The memory as a recipe names it."""
    return CLASSES.get(memory, memory)


def make_policy(memory: str = "gru", continuous: bool = False, **options: Any) -> ControlPolicy:
    """A policy with random weights that reads two numbers a step, and has three actions or two dimensions."""
    torch.manual_seed(1)
    shape = {"observation": 2, "action_size": 2} if continuous else {"observation": 2, "actions": 3}
    settings = {"hidden_size": 8, "memory_options": MEMORIES.get(memory, {}), "see": SEES, **options}
    return randomised(ControlPolicy(PolicyConfig(**shape, memory=named(memory), **settings)).eval())


def make_inputs(rows: int = 4, steps: int = 15, continuous: bool = False, seed: int = 3) -> dict[str, Tensor]:
    """What a policy sees of `rows` trials whose episodes end here and there."""
    made = torch.Generator().manual_seed(seed)
    discrete = torch.randint(-1, 3, (rows, steps), generator=made)
    return {
        "observation": torch.randn(rows, steps, 2, generator=made),
        "action": torch.randn(rows, steps, 2, generator=made) if continuous else discrete,
        "reward": torch.randn(rows, steps, generator=made),
        "done": (torch.rand(rows, steps, generator=made) < 0.3).float(),
    }


def at(inputs: dict[str, Tensor], t: int) -> dict[str, Tensor]:
    """What is seen at step t."""
    return {name: value[:, t] for name, value in inputs.items()}


@torch.no_grad()
def stepped(policy: Any, inputs: dict[str, Tensor], state: Any = None, start: int = 0, end: int = 0) -> Heads:
    """Heads (B, T, ...) of steps start..end-1 taken one by one from `state` (a new one when left out)."""
    state = policy.init_state(len(inputs["done"])) if state is None else state
    heads = []
    for t in range(start, end or inputs["done"].shape[1]):
        head, state = policy.step(at(inputs, t), state)
        heads.append(head)
    return Heads(torch.stack([head.logits for head in heads], 1), torch.stack([head.values for head in heads], 1))
