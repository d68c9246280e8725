"""Gradient steps as an `Adaptation`: phi = theta - alpha grad L(theta; D), for all tasks of a meta-batch at once.

Letters: M tasks, n examples. A `Tree` holds tensors by name; a per-task tree has (M,) before every shape. The inner
gradient is taken by `torch.func`, so that whatever differentiates the result (autograd, another transform) goes through
it; where tasks are folded it is autograd's own, which costs half as much and which transforms do not see.

Three ways over the tasks compute the same numbers. `vmap` maps the loss of one task. `fold` gives the loss all tasks as
one batch and wants a loss (M,) of each: fewer and larger operations, and the way for modules that vmap has no rule for
(GRU, LSTM, fused attention). `loop` is the plain Python loop, for comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_map

from mrt.adaptation import Adaptation, Cadence, Differentiability
from mrt.errors import ConfigError, nearest

Tree = dict[str, Tensor]
Loss = Callable[[Tree, Any], Tensor]  # (parameters, data) -> loss: a scalar of one task, or (M,) where tasks are folded
Over = Literal["vmap", "fold", "loop"]
Order = Literal["second", "first"]
WAYS = ("vmap", "fold", "loop")


@dataclass(frozen=True)
class Theta:
    """What is meta-learned: initial `parameters`, and step sizes `rates` where these are learned too.

    `rates` holds one tree for each inner step (the last serves all later ones), of shapes that broadcast to those of
    the parameters; () stands for the constant rate of the adaptation.
    """

    parameters: Tree
    rates: Sequence[Tree] = ()


class Initial(nn.Module):
    """theta as a module: `net`, whose parameters adaptation starts from, and learned step sizes.

    Args:
        rates: learned step sizes, one tree for each inner step; () for none.

    Raises:
        ConfigError: for a network that `check_adaptable` refuses.
    """

    def __init__(self, net: nn.Module, rates: Sequence[Tree] = ()) -> None:
        super().__init__()
        check_adaptable(net)
        self.net = net
        named = [{name.replace(".", "/"): nn.Parameter(rate) for name, rate in tree.items()} for tree in rates]
        self.rates = nn.ModuleList(nn.ParameterDict(tree) for tree in named)

    @property
    def theta(self) -> Theta:
        """What is meta-learned, as the inner loop takes it."""
        trees = cast(Iterable[nn.ParameterDict], self.rates)
        rates = [{name.replace("/", "."): rate for name, rate in tree.items()} for tree in trees]
        return Theta(parameters_of(self.net), rates)


@dataclass(frozen=True)
class GradientSteps(Adaptation):
    """`steps` gradient steps on the data of one call: the inner loop of MAML (Finn et al. 2017, 1703.03400).

    A parameter of theta that is frozen (`requires_grad=False`) does not adapt either, `adapt_frozen` aside.

    Args:
        loss: of one task (`vmap`, `loop`), or of each of the M tasks (`fold`).
        rate: alpha, where theta brings no learned rates.
        order: `first` treats inner gradients as constants (FOMAML, Reptile).
        adapted: prefixes of the parameters that move (ANIL); () moves all.
        adapt_frozen: prefixes of the parameters that adapt although they do not train: a fixed prior (MAESN).
        clip: inner gradients are clamped to [-clip, clip] entry by entry (MIL).

    Raises:
        ConfigError: at construction, for an unknown way over the tasks or order, or no step at all; at `adapt`, when
            `adapted` names no parameter, or only frozen ones.
    """

    loss: Loss
    rate: float = 0.01
    steps: int = 1
    order: Order = "second"
    over: Over = "vmap"
    adapted: tuple[str, ...] = ()
    adapt_frozen: tuple[str, ...] = ()
    clip: float | None = None
    cadence: Cadence = "k-shot"

    def __post_init__(self) -> None:
        for name, value, valid in (("over", self.over, WAYS), ("order", self.order, ("second", "first"))):
            if value not in valid:
                raise ConfigError(f"{name}={value!r} is unknown; {nearest(str(value), valid)}")
        if self.steps < 1:
            raise ConfigError(f"steps={self.steps}: adaptation needs at least one gradient step")

    @property
    def differentiability(self) -> Differentiability:
        """What an outer loss may expect."""
        return "second-order" if self.order == "second" else "first-order"

    def init(self, theta: Theta) -> Tree:
        """phi_0: every task starts at theta."""
        return dict(theta.parameters)

    def adapt(self, theta: Theta, phi: Tree, data: Any) -> Tree:
        """phi (M, ...) after `steps` steps on `data`, a tree of tensors (M, ...); phi may still be shared by all."""
        tasks = task_count(data)
        phi = {n: v if v.ndim > theta.parameters[n].ndim else v.expand(tasks, *v.shape) for n, v in phi.items()}
        if self.over == "fold":
            return self._descend(theta, phi, data)
        if self.over == "vmap":
            return vmap(lambda one, its: self._descend(theta, one, its))(phi, data)
        each = [self._descend(theta, take(phi, i), take(data, i)) for i in range(tasks)]
        return {name: torch.stack([one[name] for one in each]) for name in phi}

    def trajectory(self, theta: Theta, stages: Sequence[Any]) -> list[Tree]:
        """phi_0, then phi after each stage's data: what an adaptation curve is drawn from."""
        phis = [self.init(theta)]
        for data in stages:
            phis.append(self.adapt(theta, phis[-1], data))
        return phis

    def gradient(self, phi: Tree, data: Any, frozen: Collection[str] = ()) -> Tree:
        """grad L of the parameters that move. The sum over folded tasks keeps them apart: each has its own weights."""
        moving = self.moving(phi, frozen)
        rest = {name: value for name, value in phi.items() if name not in moving}

        def loss(these: Tree) -> Tensor:
            return self.loss({**rest, **these}, data).sum()

        if self.over == "fold":
            return self._by_autograd(loss, moving)
        if self.order == "second":
            return grad(loss)(moving)
        with torch.no_grad():  # `grad` ignores a no_grad around it, which keeps the result a constant all the same
            return grad(loss)({name: value.detach() for name, value in moving.items()})

    def _by_autograd(self, loss: Callable[[Tree], Tensor], moving: Tree) -> Tree:
        """grad of `loss` without the layer that a transform puts around every operation."""
        second = self.order == "second" and torch.is_grad_enabled()
        with torch.enable_grad():
            at = {n: v if second and v.requires_grad else v.detach().requires_grad_() for n, v in moving.items()}
            slopes = torch.autograd.grad(
                loss(at), [*at.values()], create_graph=second, allow_unused=True, materialize_grads=True
            )
        return dict(zip(at, slopes, strict=True))

    def moving(self, phi: Mapping[str, Tensor], frozen: Collection[str] = ()) -> Tree:
        """The parameters that adapt: those of `adapted`, without the names in `frozen`."""
        chosen = {name: value for name, value in phi.items() if name.startswith(self.adapted or "")}
        if not chosen:
            raise ConfigError(f"adapted={self.adapted} names no parameter; {nearest(self.adapted[0], set(phi))}")
        free = {name: value for name, value in chosen.items() if name not in frozen}
        if not free:
            raise ConfigError(f"nothing adapts: {', '.join(chosen)} are frozen (requires_grad=False). Unfreeze some")
        return free

    def _descend(self, theta: Theta, phi: Tree, data: Any) -> Tree:
        frozen = {name for name in frozen_in(theta) if not name.startswith(self.adapt_frozen)}
        for step in range(self.steps):
            rates = theta.rates[min(step, len(theta.rates) - 1)] if theta.rates else None
            phi = dict(phi)
            for name, slope in self.gradient(phi, data, frozen).items():
                slope = slope if self.clip is None else slope.clamp(-self.clip, self.clip)
                if rates is None:
                    phi[name] = torch.sub(phi[name], slope, alpha=self.rate)
                else:
                    phi[name] = phi[name] - rates[name] * slope
        return phi


def parameters_of(module: nn.Module) -> Tree:
    """The module's own parameters by name: not copies, so that gradients reach them."""
    return dict(module.named_parameters())


def frozen_in(theta: Theta) -> set[str]:
    """Names of theta's parameters that do not train. Plain tensors, which stand for parameters, all do."""
    named = theta.parameters.items()
    return {name for name, value in named if isinstance(value, nn.Parameter) and not value.requires_grad}


def check_adaptable(net: nn.Module) -> None:
    """Asks whether a few gradient steps on one task are a function of its parameters and data alone.

    Raises:
        ConfigError: for layers with running statistics, which would mix the tasks and tell queries of one task about
            another, and for dropout, which would draw other units in every inner step.
    """
    for name, layer in net.named_modules():
        kind = type(layer).__name__
        if getattr(layer, "track_running_stats", False):
            raise ConfigError(
                f"{name or 'the network'} ({kind}) keeps running statistics, which all tasks of an inner loop share. "
                f"Use {kind}(..., track_running_stats=False), or GroupNorm or LayerNorm"
            )
        rate = layer.p if isinstance(layer, _DropoutNd) else getattr(layer, "dropout", 0.0)
        if isinstance(rate, float | int) and rate > 0:
            raise ConfigError(
                f"{name or 'the network'} ({kind}) drops units with probability {rate}, others in every inner step. "
                "Leave dropout out of a network that adapts by gradients"
            )


def apply(module: nn.Module) -> Callable[..., Any]:
    """f(parameters, *inputs) = module(*inputs) with these parameters in place of its own."""
    return lambda parameters, *inputs: functional_call(module, parameters, inputs)


def rates_like(parameters: Mapping[str, Tensor], start: float, each: Literal["entry", "tensor"] = "entry") -> Tree:
    """A learned step size for every entry (Meta-SGD) or every tensor of `parameters`, all at `start`."""
    shaped = {name: value if each == "entry" else value.new_zeros(()) for name, value in parameters.items()}
    return {name: torch.full_like(value, start, requires_grad=False) for name, value in shaped.items()}


def task_count(data: Any) -> int:
    """M, the leading size that all tensors of a tree share.

    Raises:
        ConfigError: when they differ; the message lists them.
    """
    sizes = {leaf.shape[0] for leaf in tree_flatten(data)[0]}
    if len(sizes) != 1:
        raise ConfigError(f"tasks are counted by the leading size of all their tensors, these have {sorted(sizes)}")
    return int(sizes.pop())


def take(data: Any, task: int) -> Any:
    """The tensors of one task."""
    return tree_map(lambda value: value[task], data)


def fold(data: Any) -> Any:
    """(M, n, ...) -> (M n, ...): tasks become rows, for modules whose weights they share."""
    return tree_map(lambda value: value.flatten(0, 1), data)


def unfold(data: Any, tasks: int) -> Any:
    """(M n, ...) -> (M, n, ...): back from `fold`."""
    return tree_map(lambda value: value.unflatten(0, (tasks, -1)), data)
