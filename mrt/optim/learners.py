"""Several learners in one model (actor and critic, policy and posterior): one optimiser to the outer loop.

Each has its own optimiser, its own clipping, and steps only in updates in which it is due. To whoever looks from
outside (schedulers, accelerate, checkpoints) they are one optimiser with concatenated parameter groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mrt.errors import ConfigError


@dataclass(frozen=True)
class Learner:
    """One learner: the optimiser of its parameters, and the norm its gradient is clipped to (None: `max_grad_norm`;
    0: not at all).
    """

    optimizer: torch.optim.Optimizer
    max_grad_norm: float | None = None

    def parameters(self) -> Iterator[nn.Parameter]:
        for group in self.optimizer.param_groups:
            yield from group["params"]


class CompositeOptimizer(torch.optim.Optimizer):
    """The optimisers of several learners as one.

    `due` names the learners that the next `step` moves; it is emptied by it.

    Raises:
        ConfigError: at construction, when two learners share a parameter.
    """

    def __init__(self, learners: Mapping[str, Learner]) -> None:
        # No super().__init__: parameter groups and states are those of the parts, looked up when asked for, because
        # loading a state gives every part new ones.
        self.learners = dict(learners)
        self.due: set[str] = set()
        self.defaults: dict[str, Any] = {}
        owner: dict[int, str] = {}
        for name, learner in self.learners.items():
            for parameter in learner.parameters():
                if owner.setdefault(id(parameter), name) != name:
                    raise ConfigError(f"learners '{owner[id(parameter)]}' and '{name}' share a parameter")

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [group for learner in self.learners.values() for group in learner.optimizer.param_groups]

    @property
    def state(self) -> dict[Any, Any]:  # type: ignore[override]
        return {key: value for part in self.learners.values() for key, value in part.optimizer.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every learner that is due."""
        for name in self.learners:
            if name in self.due:
                self.learners[name].optimizer.step()
        self.due.clear()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for learner in self.learners.values():
            learner.optimizer.zero_grad(set_to_none)

    def clip(self, default: float) -> Tensor:
        """Clips each learner by its own norm; returns the norm over all of them before that."""
        norms = []
        for part in self.learners.values():
            limit = default if part.max_grad_norm is None else part.max_grad_norm
            norms.append(nn.utils.clip_grad_norm_(list(part.parameters()), limit or math.inf))
        return torch.stack(norms).square().sum().sqrt()

    def state_dict(self) -> dict[str, Any]:
        return {name: learner.optimizer.state_dict() for name, learner in self.learners.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if state_dict.keys() != self.learners.keys():
            raise ConfigError(f"the state is of the learners {sorted(state_dict)}, these are {sorted(self.learners)}")
        for name, learner in self.learners.items():
            learner.optimizer.load_state_dict(state_dict[name])

    def __repr__(self) -> str:
        return f"CompositeOptimizer({', '.join(f'{k}={type(v.optimizer).__name__}' for k, v in self.learners.items())})"


def accumulate_own(
    losses: Mapping[str, Tensor], learners: Mapping[str, Learner], reduce: Callable[[Tensor], Tensor]
) -> None:
    """Adds to each learner's gradients those of its own loss, and of no other.

    An actor's loss passes through the critic; with one backward pass over the sum it would move the critic too.

    Raises:
        ConfigError: for a loss that belongs to no learner.
    """
    unknown = set(losses) - set(learners)
    if unknown:
        raise ConfigError(f"losses for {sorted(unknown)}, but the learners are {sorted(learners)}")
    last = list(losses)[-1] if losses else ""
    for name, loss in losses.items():
        own = [parameter for parameter in learners[name].parameters() if parameter.requires_grad]
        grads = torch.autograd.grad(loss, own, retain_graph=name != last, allow_unused=True)
        _add(own, grads, reduce)


def _add(own: Iterable[nn.Parameter], grads: Iterable[Tensor | None], reduce: Callable[[Tensor], Tensor]) -> None:
    for parameter, grad in zip(own, grads, strict=True):
        if grad is not None:
            grad = reduce(grad)
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad
