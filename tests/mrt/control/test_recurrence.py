"""The GRU of the CPU beside `torch.nn.GRU`: outputs, first and second derivatives, and single steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mrt.control.memories import GRU
from mrt.control.recurrence import gru

pytestmark = pytest.mark.training

ROWS, STEPS, WIDTH, SIZE = 6, 5, 3, 4


@pytest.fixture(params=[1, 2])
def cell(request: pytest.FixtureRequest) -> nn.GRU:
    torch.manual_seed(0)
    return nn.GRU(SIZE, SIZE, num_layers=request.param, batch_first=True).double()


@pytest.fixture
def embed() -> nn.Linear:
    torch.manual_seed(1)
    return nn.Linear(WIDTH, SIZE).double()


def inputs() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(ROWS, STEPS, WIDTH, dtype=torch.float64, requires_grad=True)


def test_outputs_and_gradients_are_those_of_torch(cell: nn.GRU, embed: nn.Linear) -> None:
    x, weight = inputs(), torch.randn(ROWS, STEPS, SIZE, dtype=torch.float64)
    wanted = [x, *cell.parameters(), *embed.parameters()]
    found = {}
    for name, out in (("torch", cell(embed(x))[0]), ("own", gru(cell, x, embed))):
        found[name] = [out, *torch.autograd.grad((out * weight).sum(), wanted)]
    for theirs, own in zip(found["torch"], found["own"], strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-10, atol=1e-12)


def test_derivatives_by_differences(cell: nn.GRU, embed: nn.Linear) -> None:
    """First and second ones in the inputs and in every weight."""
    names = [name for name, _ in cell.named_parameters()]

    def out(x: Tensor, *weights: Tensor) -> Tensor:
        held = nn.GRU(SIZE, SIZE, num_layers=cell.num_layers, batch_first=True).double()
        for name, value in zip(names, weights, strict=True):
            delattr(held, name)
            setattr(held, name, value)
        return gru(held, x, embed)

    everything = (inputs()[:2, :3], *(p.detach().requires_grad_() for p in cell.parameters()))
    assert torch.autograd.gradcheck(out, everything)
    assert torch.autograd.gradgradcheck(out, everything)


@pytest.mark.parametrize("layers", [1, 2])
def test_single_steps_agree_with_whole_trials(layers: int) -> None:
    torch.manual_seed(0)
    memory, embed, x = GRU(SIZE, layers=layers), nn.Linear(WIDTH, SIZE), torch.randn(ROWS, STEPS, WIDTH)
    whole, state, steps = memory.embedded(embed, x, {}), memory.init_state(ROWS), []
    for t in range(STEPS):
        out, state = memory.embedded_step(embed, x[:, t], {}, state)
        steps.append(out)
    torch.testing.assert_close(torch.stack(steps, 1), whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(memory(embed(x), {}), whole, rtol=1e-5, atol=1e-6)
    assert state[0].shape == (ROWS, layers, SIZE)
