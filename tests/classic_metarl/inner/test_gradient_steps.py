"""The functional core: one computation three ways, and derivatives of every order against finite differences."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from classic_metarl.inner.gradient_steps import (
    GradientSteps,
    Initial,
    Theta,
    apply,
    fold,
    parameters_of,
    rates_like,
    take,
    task_count,
    unfold,
)
from classic_metarl.inner.task_networks import MLP
from mrt.errors import ConfigError

M, N = 4, 5


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def problem() -> tuple[MLP, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    net = MLP([2, 3, 1], "tanh").double()
    support, query = ((torch.randn(M, N, 2).double(), torch.randn(M, N, 1).double()) for _ in range(2))
    return net, support, query


def steps_of(net: MLP, over: str = "fold", **options: Any) -> GradientSteps:
    call = net.of_tasks if over == "fold" else apply(net)
    return GradientSteps(
        lambda phi, data: (call(phi, data[0]) - data[1]).square().mean((-1, -2)), over=over, rate=0.3, **options
    )


def outer(steps: GradientSteps, net: MLP, theta: Theta, support: Any, query: Any) -> Tensor:
    phi = steps.adapt(theta, steps.init(theta), support)
    return (net.of_tasks(phi, query[0]) - query[1]).square().mean()


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("adapted", [(), ("layers.1.",)])
def test_three_ways_over_the_tasks_agree(order: str, adapted: tuple[str, ...]) -> None:
    net, support, query = problem()
    results = {}
    for over in ("loop", "vmap", "fold"):
        theta = Theta(parameters_of(net))
        loss = outer(steps_of(net, over, steps=2, order=order, adapted=adapted), net, theta, support, query)
        results[over] = [loss, *torch.autograd.grad(loss, list(net.parameters()))]
    for over in ("vmap", "fold"):
        assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(results["loop"], results[over], strict=True))


def test_one_step_by_hand() -> None:
    """L = (w x - y)^2: w' = w - a 2x (w x - y), dL'/dw = 2 x' (w' x' - y') (1 - 2 a x^2), the last factor gone in first
    order.
    """
    net = nn.Linear(1, 1, bias=False).double()
    net.weight.data.fill_(2.0)
    data = (torch.tensor([[[3.0]]]).double(), torch.tensor([[[1.0]]]).double())
    slopes = {}
    for order in ("second", "first"):
        steps = GradientSteps(lambda p, d: (apply(net)(p, d[0]) - d[1]).square().mean(), rate=0.1, order=order)
        theta = Theta(parameters_of(net))
        phi = steps.adapt(theta, steps.init(theta), data)
        assert phi["weight"].item() == pytest.approx(2 - 0.1 * 2 * 3 * 5)
        slopes[order] = torch.autograd.grad((phi["weight"] * 2 - 4).square().sum(), net.weight)[0].item()
    first = 2 * 2 * (-1.0 * 2 - 4)
    assert slopes["first"] == pytest.approx(first)
    assert slopes["second"] == pytest.approx(first * (1 - 2 * 0.1 * 9))


@pytest.mark.parametrize("over", ["vmap", "fold"])
def test_derivatives_of_first_and_second_order_match_finite_differences(over: str) -> None:
    """gradcheck and gradgradcheck difference the meta-objective itself, through two inner steps and learned rates."""
    net, support, query = problem()
    names = list(parameters_of(net))
    rates = rates_like(parameters_of(net), 0.2)
    steps = steps_of(net, over, steps=2)

    def objective(*values: Tensor) -> Tensor:
        theta = Theta(dict(zip(names, values, strict=False)), [dict(zip(names, values[len(names) :], strict=True))])
        return outer(steps, net, theta, support, query)

    at = [v.detach().clone().requires_grad_() for v in (*net.parameters(), *rates.values())]
    assert torch.autograd.gradcheck(objective, at)
    assert torch.autograd.gradgradcheck(objective, at)


def test_the_second_inner_step_has_its_own_rate() -> None:
    net, support, _ = problem()
    theta = parameters_of(net)
    large, small = (rates_like(theta, rate, "tensor") for rate in (0.5, 0.1))
    one, two = steps_of(net, steps=1), steps_of(net, steps=3)
    phi = one.adapt(Theta(theta, [large]), one.init(Theta(theta)), support)
    for _ in range(2):
        phi = one.adapt(Theta(theta, [small]), phi, support)
    together = two.adapt(Theta(theta, [large, small]), two.init(Theta(theta)), support)
    assert all(torch.allclose(phi[name], together[name]) for name in phi)


def test_only_what_is_named_moves_and_the_clip_holds() -> None:
    net, support, _ = problem()
    theta = Theta(parameters_of(net))
    phi = steps_of(net, adapted=("layers.1.",), clip=0.01).adapt(theta, parameters_of(net), support)
    assert torch.equal(phi["layers.0.weight"], net.layers[0].weight.expand(M, 3, 2))
    moved = (phi["layers.1.weight"] - net.layers[1].weight).abs()
    assert moved.max().item() == pytest.approx(0.3 * 0.01)
    with pytest.raises(ConfigError, match=r"adapted=\('layer.1.',\) names no parameter; did you mean 'layers"):
        steps_of(net, adapted=("layer.1.",)).adapt(theta, parameters_of(net), support)


@pytest.mark.parametrize("over", ["vmap", "fold", "loop"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_what_is_frozen_does_not_adapt(over: str, order: str) -> None:
    net, support, query = problem()
    net.layers[0].requires_grad_(False)
    steps, theta = steps_of(net, over, steps=2, order=order), Theta(parameters_of(net))
    phi = steps.adapt(theta, steps.init(theta), support)
    assert torch.equal(phi["layers.0.weight"], net.layers[0].weight.expand(M, 3, 2))
    assert not torch.allclose(phi["layers.1.weight"], net.layers[1].weight.expand(M, 1, 3))
    named = steps_of(net, over, steps=2, order=order, adapted=("layers.1.",))
    again = named.adapt(theta, named.init(theta), support)
    assert all(torch.allclose(phi[name], again[name]) for name in phi)
    outer(steps, net, theta, support, query).backward()
    assert net.layers[0].weight.grad is None
    prior = steps_of(net, over, steps=2, order=order, adapt_frozen=("layers.0.weight",))
    after = prior.adapt(theta, prior.init(theta), support)
    assert not torch.allclose(after["layers.0.weight"], net.layers[0].weight.expand(M, 3, 2))
    assert torch.equal(after["layers.0.bias"], net.layers[0].bias.expand(M, 3))
    with pytest.raises(ConfigError, match=r"nothing adapts: layers.0.weight, layers.0.bias are frozen"):
        steps_of(net, over, adapted=("layers.0.",)).adapt(theta, steps.init(theta), support)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.BatchNorm1d(3), r"1 \(BatchNorm1d\) keeps running statistics.*track_running_stats=False"),
        (nn.SyncBatchNorm(3), "keeps running statistics"),
        (nn.Dropout(0.1), r"1 \(Dropout\) drops units with probability 0.1"),
        (nn.AlphaDropout(0.2), "drops units"),
        (nn.GRU(3, 3, 2, dropout=0.3), r"GRU\) drops units with probability 0.3"),
    ],
)
def test_layers_that_no_inner_loop_can_hold(layer: nn.Module, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Initial(nn.Sequential(nn.Linear(2, 3), layer))


def test_batch_statistics_without_a_memory_adapt() -> None:
    """The statistics of the support set alone: vmap gives each task what it gets alone."""
    norm = nn.BatchNorm1d(3, track_running_stats=False)
    net = nn.Sequential(nn.Linear(2, 3), norm, nn.Dropout(0.0), nn.Linear(3, 1)).double()
    _, support, _ = problem()
    theta = Initial(net).theta
    found = []
    for over in ("vmap", "loop"):
        steps = GradientSteps(
            lambda phi, data: (apply(net)(phi, data[0]) - data[1]).square().mean(), over=over, rate=0.3
        )
        found.append(steps.adapt(theta, steps.init(theta), support))
    assert all(torch.allclose(found[0][name], found[1][name]) for name in found[0])


def test_first_order_leaves_no_graph_behind_and_works_without_gradients() -> None:
    net, support, _ = problem()
    steps, theta = steps_of(net, order="first"), Theta({n: p.detach() for n, p in net.named_parameters()})
    assert not steps.adapt(theta, steps.init(theta), support)["layers.0.weight"].requires_grad
    with torch.no_grad():
        quiet = steps.adapt(theta, steps.init(theta), support)
    loud = steps.adapt(theta, steps.init(theta), support)
    assert torch.allclose(quiet["layers.0.weight"], loud["layers.0.weight"], atol=1e-6)
    assert (steps.differentiability, steps_of(net).differentiability) == ("first-order", "second-order")


def test_a_recurrent_body_is_folded_where_vmap_has_no_rule() -> None:
    """The body is shared by the tasks, so they become rows of one batch; the head adapts per task."""
    body, head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 1)
    x, y = torch.randn(M, N, 6, 2), torch.randn(M, N, 1)

    def features(x: Tensor) -> Tensor:
        return unfold(body(fold(x))[1][0], M)

    def loss(phi: dict[str, Tensor], data: tuple[Tensor, Tensor]) -> Tensor:
        return (torch.baddbmm(phi["bias"][:, None], data[0], phi["weight"].mT) - data[1]).square().mean((1, 2))

    steps, theta = GradientSteps(loss, rate=0.1, over="fold"), Theta(parameters_of(head))
    phi = steps.adapt(theta, steps.init(theta), (features(x), y))
    loss(phi, (features(x), y)).sum().backward()
    assert body.weight_ih_l0.grad.abs().sum() > 0
    for task in range(M):
        alone = (head(body(x[task])[1][0]) - y[task]).square().mean()
        slope = torch.autograd.grad(alone, head.weight)[0]
        assert torch.allclose(phi["weight"][task], head.weight - 0.1 * slope, atol=1e-6)
    with pytest.raises(RuntimeError):  # the reason why
        torch.vmap(lambda x: torch.func.functional_call(body, parameters_of(body), (x,))[1])(x)


def test_it_is_an_adaptation() -> None:
    """phi goes on from phi, and a new trial starts from theta again."""
    net, support, query = problem()
    steps, theta = steps_of(net), Theta(parameters_of(net))
    first = steps.adapt(theta, steps.init(theta), support)
    second = steps.adapt(theta, first, query)
    assert not torch.equal(first["layers.0.bias"], second["layers.0.bias"])
    assert torch.equal(steps.init(theta)["layers.0.bias"], net.layers[0].bias)


def test_trees_of_tasks() -> None:
    data = (torch.arange(6).view(3, 2), {"a": torch.zeros(3, 1)})
    assert task_count(data) == 3
    assert take(data, 1)[0].tolist() == [2, 3]
    with pytest.raises(ConfigError, match=r"these have \[2, 3\]"):
        task_count((torch.zeros(2), torch.zeros(3)))
    assert torch.equal(unfold(fold(data), 3)[0], data[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"over": "vmpa"}, "did you mean 'vmap'"),
        ({"order": "third"}, "order='third' is unknown"),
        ({"steps": 0}, "at least one gradient step"),
    ],
)
def test_mistakes_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GradientSteps(lambda phi, data: phi["w"], **options)
