"""The off-policy in-context agent: heads' losses by hand, targets of every discount, units, exploring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from classic_metarl.black_box.amago import AMAGOConfig, AMAGOPolicy, AMAGOTrainer, head_losses
from mrt.control.envs import make_tasks
from mrt.control.exploring import Exploring
from mrt.errors import ConfigError
from mrt.trials import Trials
from tests.support.policies import at, make_inputs, randomised

pytestmark = pytest.mark.training

GAMMAS = [0.0, 0.8]
POLICY = {"memory": "gru", "hidden_size": 4, "head_size": 6, "critics": 3, "horizons": 3}


def build(folder: Path, policy: dict[str, Any] | None = None, **changed: Any) -> AMAGOTrainer:
    """A trainer in double precision for three actions, whose targets are other networks."""
    tasks = make_tasks("bernoulli-bandit", arms=3, pulls=4)
    options = {"max_steps": 2, "use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no"}
    options |= {"gammas": GAMMAS, "gamma": 0.95, **changed}
    torch.manual_seed(0)
    model = AMAGOPolicy.for_spec(tasks.env.spec, **{**POLICY, **(policy or {})})
    trainer = AMAGOTrainer(model, AMAGOConfig(output_dir=str(folder), **options), tasks)
    randomised(trainer.policy.double(), seed=1)
    return trainer


def played(rows: int = 3, steps: int = 6) -> Trials:
    """Two episodes a trial with their closing rows."""
    inputs = {name: value.double() for name, value in make_inputs(rows, steps).items()}
    inputs = {**inputs, "observation": inputs["observation"][..., :1], "action": make_inputs(rows, steps)["action"]}
    mask = torch.tensor([[1, 1, 0, 1, 1, 0]] * rows).bool()
    drawn = torch.Generator().manual_seed(5)
    actions = torch.randint(3, (rows, steps), generator=drawn)
    rewards = torch.randn(rows, steps, generator=drawn, dtype=torch.float64) * mask
    episode = torch.tensor([[0, 0, 0, 1, 1, 1]] * rows)
    return Trials(actions, rewards, mask, episode, torch.arange(rows), inputs=inputs)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_the_losses_of_the_heads_are_those_by_hand(tmp_path: Path) -> None:
    """Error of every critic, the policy's value under the lowest, and cloning of what beats the policy alone."""
    policy = build(tmp_path).policy
    features, goal = torch.randn(20, 4, dtype=torch.float64), torch.randn(20, 3, dtype=torch.float64)
    actions = torch.randint(3, (20,))
    critic, online, cloning = head_losses(policy, features, actions, goal)
    with torch.no_grad():
        q = policy.critics(features).numpy()  # (N, critics, G, A)
        pi = softmax(policy.logits(policy.actor, features).numpy())
    errors, gains, cloned, share = [], [], [], []
    for n, a in enumerate(actions.tolist()):
        for g in range(3):
            errors += [(q[n, i, g, a] - goal[n, g].item()) ** 2 for i in range(3)]
            gains.append(min((pi[n, g] * q[n, i, g]).sum() for i in range(3)))
            mean = q[n, :, g].mean(0)
            better = mean[a] > (pi[n, g] * mean).sum()
            cloned.append(better * np.log(pi[n, g, a]))
            share.append(better)
    assert critic.item() == pytest.approx(np.mean(errors), abs=1e-10)
    assert online.item() == pytest.approx(-np.mean(gains), abs=1e-10)
    assert cloning.item() == pytest.approx(-np.mean(cloned), abs=1e-10)
    assert 0.2 < np.mean(share) < 0.8, "the filter lets some through"


def test_the_actors_losses_move_neither_critics_nor_through_them(tmp_path: Path) -> None:
    policy = build(tmp_path).policy
    features = torch.randn(20, 4, dtype=torch.float64, requires_grad=True)
    actions, goal = torch.randint(3, (20,)), torch.zeros(20, 3, dtype=torch.float64)
    critic, online, cloning = head_losses(policy, features, actions, goal)
    with torch.no_grad():
        q = policy.critics(features)
        lowest = (policy.logits(policy.actor, features).softmax(-1)[:, None] * q).sum(-1, keepdim=True).argmin(1, True)
        q = q.gather(1, lowest.expand(-1, 1, -1, 3))[:, 0]
    alone = -(policy.logits(policy.actor, features).softmax(-1) * q).sum(-1).mean()
    (found,), (expected,) = (torch.autograd.grad(x, features, retain_graph=True) for x in (online, alone))
    assert torch.allclose(found, expected, atol=1e-12)
    grads = torch.autograd.grad(
        online + cloning, list(policy.critics.parameters()), retain_graph=True, allow_unused=True
    )
    assert all(grad is None for grad in grads)
    (through,) = torch.autograd.grad(critic, features)
    assert through.abs().max() > 1e-3, "the critics do train what they share with the actor"


def test_targets_of_every_discount(tmp_path: Path) -> None:
    """A recursion in numpy over what the target heads say, in units of their own; all critics make the minimum."""
    trainer, trials = build(tmp_path, target_critics=3), played()
    policy = trainer.policy
    policy.value_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    policy.value_std.copy_(torch.tensor([2.0, 0.5, 3.0]))
    with torch.no_grad():
        features = policy.encoder(trials.inputs)
        q = policy.targets["critics"](features).numpy()
        pi = softmax(policy.logits(policy.targets["actor"], features).numpy())
    mean, std = policy.value_mean.numpy(), policy.value_std.numpy()
    value = (pi[:, :, None] * q).sum(-1).min(2) * std + mean  # (B, T, G)
    found = trainer.targets(trials, features).numpy()
    for g, gamma in enumerate([*GAMMAS, 0.95]):
        for row in range(3):
            ahead = 0.0
            for t in (4, 3, 1, 0):  # acts, from the last one back
                assert found[row, t, g] == pytest.approx(trials.rewards[row, t].item() + np.float32(gamma) * ahead)
                ahead = value[row, t, g]
    assert (found[:, [2, 5]] == 0).all()


def test_units_change_and_predictions_do_not(tmp_path: Path) -> None:
    trainer = build(tmp_path, units=0.25)
    policy, features = trainer.policy, torch.randn(5, 4, dtype=torch.float64)
    heads = (policy.critics, policy.targets["critics"])

    def predictions() -> list[torch.Tensor]:
        units = [x[:, None].double() for x in (policy.value_std, policy.value_mean)]
        return [head(features).detach() * units[0] + units[1] for head in heads]

    before = predictions()
    targets = torch.randn(400, 3, dtype=torch.float64) * torch.tensor([1.0, 10.0, 100.0]) + 5
    trainer.follow_units(targets)
    assert torch.allclose(policy.value_std.double(), targets.std(0, correction=0), rtol=1e-4), "set at once at first"
    trainer.state.global_step = 1
    mean = policy.value_mean.clone()
    trainer.follow_units(targets + 8)
    assert torch.allclose(policy.value_mean - mean, torch.full_like(mean, 2.0), atol=1e-3), "then by a quarter"
    for old, new in zip(before, predictions(), strict=True):
        assert torch.allclose(old, new, atol=1e-4)


def test_rows_explore_with_shares_of_their_own(tmp_path: Path) -> None:
    trainer = build(tmp_path, random_steps=100, epsilon=0.8, epsilon_end=0.2, epsilon_steps=1000)
    shares = []
    for played_steps in (100, 600, 5000):
        trainer.played = played_steps
        agent = trainer.player()
        assert isinstance(agent, Exploring)
        shares.append(agent.epsilon)
    assert shares == pytest.approx([0.8, 0.5, 0.2])
    policy, inputs = trainer.policy, at(make_inputs(20_000, 1), 0)
    inputs = {
        **inputs,
        "observation": torch.zeros(20_000, 1),
        "action": inputs["action"] * 0,
        "done": inputs["done"] * 0,
    }
    inputs["reward"] = inputs["reward"] * 0  # every row sees the same
    logits = policy.step(inputs, policy.init_state(20_000))[0][0]
    agent = Exploring(policy, 0.8)
    state = agent.init_state(20_000)
    assert (state[0].mean() - 0.4).abs() < 0.01
    choice = agent.act(inputs, state)
    density = (1 - state[0][:, 0]) * logits.softmax(-1)[choice.actions] + state[0][:, 0] / 3
    assert torch.allclose(choice.logprobs, density.log(), atol=1e-6)
    often = torch.bincount(choice.actions, minlength=3) / 20_000
    assert torch.allclose(often, (0.6 * logits.softmax(-1) + 0.4 / 3).float(), atol=0.015)
    assert torch.equal(Exploring(policy, 0.0).act(inputs, agent.init_state(20_000), greedy=True).actions,
                       policy.act(inputs, policy.init_state(20_000), greedy=True).actions)  # fmt: skip


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs discrete actions"):
        AMAGOPolicy.for_spec(make_tasks("cue-recall").env.spec)
    with pytest.raises(ConfigError, match="3 horizons and 3 critics"):
        build(tmp_path, gammas=[0.5])
    with pytest.raises(ConfigError, match="target_critics=4"):
        build(tmp_path, target_critics=4)
    with pytest.raises(ConfigError, match="discounts are between 0 and 1"):
        build(tmp_path, gammas=[0.5, 1.5])
    with pytest.raises(ConfigError, match="epsilon_steps=0 must be at least 1"):
        build(tmp_path, epsilon_steps=0)
