"""RDPG and RSVG(0): gradients from their equations by finite differences, targets stepped through, who follows whom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.black_box.memory_control import (
    MemoryControlConfig,
    MemoryControlPolicy,
    RDPGTrainer,
    RSVGTrainer,
)
from mrt.control.envs import make_tasks
from mrt.errors import ConfigError
from mrt.optim.learners import CompositeOptimizer, accumulate_own
from mrt.trials import Trials
from tests.support.policies import at, make_inputs, randomised

pytestmark = pytest.mark.training

GAMMA, EPS = 0.8, 1e-5
KINDS = [RDPGTrainer, RSVGTrainer]


def build(folder: Path, kind: Any = RDPGTrainer, **changed: Any) -> Any:
    """A trainer whose weights say something and whose targets are other networks, in double precision."""
    tasks = make_tasks("cue-recall", delay=3)
    options = {"max_steps": 2, "use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no"}
    args = MemoryControlConfig(output_dir=str(folder), gamma=GAMMA, **{**options, **changed})
    torch.manual_seed(0)
    model = MemoryControlPolicy.for_spec(tasks.env.spec, hidden_size=4, stochastic=kind.stochastic)
    trainer = kind(model, args, tasks)
    randomised(trainer.policy.double(), seed=1)
    return trainer


def played(rows: int = 2, steps: int = 6) -> Trials:
    """Trials with two episodes; the second row is one act shorter."""
    inputs = {name: value.double() for name, value in make_inputs(rows, steps, continuous=True).items()}
    inputs["action"] = inputs["action"][..., :1]
    mask = torch.tensor([[1, 1, 0, 1, 1, 0], [1, 1, 0, 1, 0, 0]]).bool()
    episode = torch.tensor([[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, -1]])
    drawn = torch.Generator().manual_seed(5)
    actions = torch.rand(rows, steps, 1, generator=drawn, dtype=torch.float64) * 2 - 1
    rewards = torch.randn(rows, steps, generator=drawn, dtype=torch.float64) * mask
    return Trials(actions, rewards, mask, episode, torch.arange(rows), inputs=inputs)


@torch.no_grad()
def history(encoder: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Features (B, T, H) step by step."""
    state, found = encoder.init_state(len(inputs["done"])), []
    for t in range(inputs["done"].shape[1]):
        features, state = encoder.step(at(inputs, t), state)
        found.append(features)
    return torch.stack(found, 1)


@torch.no_grad()
def by_equation(trainer: Any, trials: Trials, noise: Tensor | None, picked: list[tuple[str, int]]) -> list[float]:
    """sum_t dQ(h_t, a)/da dmu(h_t)/dtheta over the number of acts, both factors by differences, for these entries."""
    policy, inputs = trainer.policy, dict(trials.inputs)
    features = history(policy.critic.encoder, inputs)

    def action() -> Tensor:
        logits = policy.actor.logits(history(policy.actor.encoder, inputs))
        mean, log_std = logits.chunk(2, -1)
        return torch.tanh(mean if noise is None else mean + log_std.clamp(-5, 2).exp() * noise)

    a = action()
    up, down = (policy.critic.values(features, a + sign * EPS) for sign in (1, -1))
    slope = (up - down) / (2 * EPS)
    parameters, found = dict(policy.actor.named_parameters()), []
    for name, index in picked:
        entry = parameters[name].view(-1)
        before = entry[index].item()
        moved = []
        for sign in (1, -1):
            entry[index] = before + sign * EPS
            moved.append(action())
        entry[index] = before
        change = ((moved[0] - moved[1]) / (2 * EPS))[..., 0]
        found.append(float((slope * change)[trials.mask].sum() / trials.mask.sum()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_actors_gradient_is_that_of_the_equation(kind: Any, tmp_path: Path) -> None:
    trainer, trials = build(tmp_path, kind), played()
    composite = CompositeOptimizer(trainer.learners())
    torch.manual_seed(7)
    noise = None
    if kind.stochastic:  # the targets draw first
        torch.randn(trials.actions.shape, dtype=torch.float64)
        noise = torch.randn(trials.actions.shape, dtype=torch.float64)
        torch.manual_seed(7)
    accumulate_own(trainer.losses(trials), composite.learners, lambda grad: grad)
    names = dict(trainer.policy.actor.named_parameters())
    picked = [(name, index) for name, p in names.items() for index in {0, p.numel() // 2, p.numel() - 1}]
    expected = by_equation(trainer, trials, noise, picked)
    for (name, index), value in zip(picked, expected, strict=True):
        assert -names[name].grad.view(-1)[index].item() == pytest.approx(value, abs=1e-8), (name, index)
    assert max(abs(value) for value in expected) > 1e-2, "gradients that say something"
    recurrent = [value for (name, _), value in zip(picked, expected, strict=True) if "weight_hh" in name]
    assert max(abs(value) for value in recurrent) > 1e-4, "through time too"


@pytest.mark.parametrize("kind", KINDS)
def test_targets_come_from_the_targets_own_memory(kind: Any, tmp_path: Path) -> None:
    """Actor and critic of the targets are stepped through the trials; what is learned now does not enter."""
    trainer, trials = build(tmp_path, kind), played()
    ahead = trainer.policy.targets
    torch.manual_seed(3)
    found = trainer.targets(trials)
    torch.manual_seed(3)
    with torch.no_grad():
        logits = ahead["actor"].logits(history(ahead["actor"].encoder, dict(trials.inputs)))
        action = trainer.policy.learned(logits)
        after = ahead["critic"].values(history(ahead["critic"].encoder, dict(trials.inputs)), action)
    expected = trials.rewards.clone()
    for row, pairs in enumerate(([(0, 1), (1, 3), (3, 4)], [(0, 1), (1, 3)])):
        for here, then in pairs:
            expected[row, here] += GAMMA * after[row, then]
    assert torch.allclose(found, expected, atol=1e-12)
    randomised(trainer.policy.actor, seed=8)
    randomised(trainer.policy.critic, seed=9)
    torch.manual_seed(3)
    assert torch.equal(trainer.targets(trials), found)
    changed = {name: value.clone() for name, value in trials.inputs.items()}
    changed["observation"][:, 0] += 1
    torch.manual_seed(3)
    moved = trainer.targets(Trials(**{**vars(trials), "inputs": changed}))
    assert (moved != found)[:, 1].all(), "the first step reaches every target through the memory"


def test_each_target_follows_its_own_network(tmp_path: Path) -> None:
    trainer = build(tmp_path, tau=0.25)
    policy, composite = trainer.policy, CompositeOptimizer(trainer.learners())
    old = {name: [p.clone() for p in policy.targets[name].parameters()] for name in ("actor", "critic")}
    accumulate_own(trainer.losses(played()), composite.learners, lambda grad: grad)
    composite.due |= {"critic"}
    composite.step()
    assert all(torch.equal(a, b) for a, b in zip(old["actor"], policy.targets["actor"].parameters(), strict=True))
    for before, after, now in zip(
        old["critic"], policy.targets["critic"].parameters(), policy.critic.parameters(), strict=True
    ):
        assert torch.allclose(after, 0.75 * before + 0.25 * now, atol=1e-12)


def test_the_noise_of_rdpg_is_its_own_and_that_of_rsvg_is_learned(tmp_path: Path) -> None:
    for kind, width in ((RDPGTrainer, 1), (RSVGTrainer, 2)):
        policy = build(tmp_path, kind).policy
        assert policy.actor.head[-1].out_features == width
        inputs = {name: value[:, 0].double() for name, value in make_inputs(64, 1, continuous=True).items()}
        inputs["action"] = inputs["action"][..., :1]
        greedy = policy.act(inputs, policy.init_state(64), greedy=True)
        drawn = policy.act(inputs, policy.init_state(64))
        logits = policy.actor.logits(policy.actor.encoder.step(inputs, policy.init_state(64))[0])
        assert torch.allclose(greedy.actions, torch.tanh(logits[:, :1]))
        assert not torch.equal(drawn.actions, greedy.actions)
        if kind is RDPGTrainer:
            spread = (torch.atanh(drawn.actions) - logits[:, :1]).std().detach()
            assert 0.2 < float(spread) < 0.4


def test_mistakes_are_told(tmp_path: Path) -> None:
    spec = make_tasks("cue-recall").env.spec
    with pytest.raises(ConfigError, match="5 discrete"):
        MemoryControlPolicy.for_spec(make_tasks("bernoulli-bandit", arms=5).env.spec)
    with pytest.raises(ConfigError, match="no option 'layers'"):
        MemoryControlPolicy.for_spec(spec, layers=2)
    with pytest.raises(ConfigError, match="separate_critic is an option of"):
        MemoryControlPolicy.for_spec(spec, separate_critic=True)
    with pytest.raises(ConfigError, match=r"noise=0.0 must be above 0"):
        MemoryControlPolicy.for_spec(spec, noise=0.0)
    args = MemoryControlConfig(output_dir=str(tmp_path), max_steps=1, use_cpu=True)
    with pytest.raises(ConfigError, match="RSVGTrainer needs a policy with stochastic: true"):
        RSVGTrainer(MemoryControlPolicy.for_spec(spec), args, make_tasks("cue-recall"))
