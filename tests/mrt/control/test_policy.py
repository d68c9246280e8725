"""`ControlPolicy` and its distributions: what is seen, what is said, and numbers by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mrt.control.distributions import LOG_STD, Categorical, Gaussian
from mrt.control.encoder import ALL_INPUTS, INPUTS
from mrt.control.envs import Spec
from mrt.control.policy import ControlPolicy, PolicyConfig
from mrt.errors import ConfigError
from tests.support.policies import at, make_inputs, make_policy, stepped


def test_categorical_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [0.0, 0.0]])
    each = Categorical()
    assert torch.allclose(each.logprob(logits, torch.tensor([1, 0])).exp(), torch.tensor([0.75, 0.5]))
    assert torch.allclose(each.logprob(logits, torch.tensor([-1, 0])).exp()[0], torch.tensor(0.25)), "-1 reads as 0"
    assert torch.allclose(each.entropy(logits)[1], torch.tensor(math.log(2)))
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert torch.allclose(each.kl(logits, torch.zeros(2, 2)), torch.tensor([expected, 0.0]), atol=1e-6)
    assert each.mode(logits).tolist() == [1, 0]


def test_gaussian_by_hand() -> None:
    each, logits = Gaussian(), torch.tensor([[0.5, -0.5, math.log(2.0), 0.0]])
    reference = torch.distributions.Normal(torch.tensor([[0.5, -0.5]]), torch.tensor([[2.0, 1.0]]))
    actions = torch.tensor([[1.0, 0.25]])
    assert torch.allclose(each.logprob(logits, actions), reference.log_prob(actions).sum(-1))
    assert torch.allclose(each.entropy(logits), reference.entropy().sum(-1))
    other = torch.distributions.Normal(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.5]]))
    logits_of_other = torch.tensor([[0.0, 1.0, 0.0, math.log(0.5)]])
    assert torch.allclose(each.kl(logits, logits_of_other), torch.distributions.kl_divergence(reference, other).sum(-1))
    assert torch.equal(each.mode(logits), torch.tensor([[0.5, -0.5]]))
    wide = torch.tensor([[0.0, 99.0]])
    assert torch.allclose(each.entropy(wide), torch.tensor([LOG_STD[1] + 0.5 * math.log(2 * math.pi * math.e)]))


@pytest.mark.parametrize("continuous", [False, True])
def test_samples_follow_their_probabilities(continuous: bool) -> None:
    made, rows = torch.Generator().manual_seed(5), 40000
    if continuous:
        drawn = Gaussian().sample(torch.tensor([[0.5, -1.0]]).expand(rows, 2), made)[:, 0]
        error = math.exp(-1) / math.sqrt(rows)
        assert abs(drawn.mean() - 0.5) < 4 * error
        assert abs(drawn.std() - math.exp(-1)) < 4 * error
    else:
        chances = torch.tensor([0.5, 0.3, 0.2])
        drawn = Categorical().sample(chances.log().expand(rows, 3), made)
        shares = torch.bincount(drawn, minlength=3) / rows
        assert bool(((shares - chances).abs() < 4 * (chances * (1 - chances) / rows).sqrt()).all())


@pytest.mark.parametrize("left_out", ALL_INPUTS)
def test_what_is_not_seen_does_not_matter(left_out: str) -> None:
    see = [name for name in ALL_INPUTS if name != left_out]
    policy, inputs = make_policy("none", see=see), make_inputs()
    other = dict(inputs)
    if left_out != "time":
        other[left_out] = make_inputs(seed=11)[left_out]
        with torch.no_grad():
            assert torch.equal(policy(other).logits, policy(inputs).logits)
            everything = make_policy("none")
            assert not torch.equal(everything(other).logits, everything(inputs).logits)
    else:
        flat = {name: value[:, :1].expand_as(value) for name, value in inputs.items()}
        with torch.no_grad():
            logits, timed = policy(flat).logits, make_policy("none")(flat).logits
        spread = [(each - each[:, :1]).abs().max().item() for each in (logits, timed)]
        assert spread[0] < 1e-5, "without the time equal steps are equal, but for the rounding of a matrix product"
        assert spread[1] > 1e-3


def test_the_time_is_a_fraction_of_the_trial() -> None:
    policy = ControlPolicy.for_spec(Spec(1, episode_steps=10, episodes=4, actions=2), see=["time"], memory="none")
    assert policy.config.horizon == 40
    policy.memory.layer = nn.Identity()
    policy.embed = nn.Identity()
    policy.actor = policy.critic = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        policy.critic.weight.fill_(40.0)
    inputs = make_inputs(rows=1, steps=3)
    expected = [40 * math.tanh(t / 40) for t in range(3)]
    with torch.no_grad():
        assert torch.allclose(policy(inputs).values[0], torch.tensor(expected))
    assert torch.allclose(stepped(policy, inputs).values[0], torch.tensor(expected))


def test_a_first_policy_prefers_nothing() -> None:
    torch.manual_seed(0)
    spec = Spec(2, 5, 1, actions=4)
    heads = ControlPolicy.for_spec(spec)(make_inputs())
    assert Categorical().entropy(heads.logits).min() > 0.999 * math.log(4)
    still = ControlPolicy.for_spec(Spec(2, 5, 1, action_size=2))(make_inputs(continuous=True))
    mean, log_std = still.logits.chunk(2, -1)
    assert mean.abs().max() < 0.05
    assert (log_std + 1).abs().max() < 0.05


@pytest.mark.parametrize("separate", [False, True])
def test_a_critic_of_its_own_leaves_the_actor_alone(separate: bool) -> None:
    policy, inputs = make_policy("gru", separate_critic=separate), make_inputs()
    parameters = list(policy.memory.parameters())
    grads = torch.autograd.grad(policy(inputs).values.sum(), parameters, allow_unused=True)
    assert all((grad is None) == separate for grad in grads)


def test_new_units_leave_values_as_they_are() -> None:
    policy, inputs = make_policy("gru"), make_inputs()
    with torch.no_grad():
        before = policy(inputs)
        policy.rescale_values(torch.tensor(30.0), torch.tensor(7.0))
        policy.rescale_values(torch.tensor(-2.0), torch.tensor(0.5))
        after = policy(inputs)
    assert torch.allclose(after.values, before.values, atol=1e-4)
    assert torch.equal(after.logits, before.logits)
    raw = (after.values + 2.0) / 0.5
    with torch.no_grad():
        x = policy.embed(policy._inputs(inputs, torch.arange(15).expand(4, 15)))
        head = policy.critic(policy.memory(x, inputs))[..., 0]
    assert torch.allclose(raw, head, atol=1e-4)


def test_a_frozen_critic_keeps_its_units() -> None:
    policy, inputs = make_policy("gru"), make_inputs()
    policy.critic.requires_grad_(False)
    with torch.no_grad():
        before = policy(inputs).values
        policy.rescale_values(torch.tensor(30.0), torch.tensor(7.0))
        assert torch.equal(policy(inputs).values, before)
    assert policy.value_std == 1


def test_options_are_checked() -> None:
    spec = Spec(2, 5, 1, actions=2)
    with pytest.raises(ConfigError, match="policy has no option 'hiden_size'"):
        ControlPolicy.for_spec(spec, hiden_size=3)
    with pytest.raises(ConfigError, match="embed='conv' is neither linear nor mlp"):
        ControlPolicy(PolicyConfig(actions=2, embed="conv"))
    assert ControlPolicy.for_spec(spec).config.see == list(INPUTS)
    deep = make_policy("gru", embed="mlp")
    inputs = make_inputs()
    with torch.no_grad():
        assert torch.allclose(deep(inputs).logits, stepped(deep, inputs).logits, atol=1e-5)
        assert deep.step(at(inputs, 0), deep.init_state(4))[0].logits.shape == (4, 3)
