"""Soft actor-critic: one update against a twin written out in numpy, what is played when, learning, exact resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mrt.cli.main import main
from mrt.control.agent import Entrant
from mrt.control.distributions import SquashedGaussian
from mrt.control.envs import make_tasks
from mrt.control.interaction import play
from mrt.control.loading import load_control_policy, load_policy
from mrt.control.off_policy import SACConfig, SACPolicy, SACTrainer
from mrt.errors import ConfigError
from mrt.optim.learners import CompositeOptimizer, accumulate_own
from tests.support.compare import assert_same_run, interrupted

pytestmark = pytest.mark.training

QUICK = {
    "per_device_train_batch_size": 10,
    "updates_per_step": 20,
    "random_steps": 400,
    "updates_per_env_step": 0.2,
    "batch_size": 256,
    "gamma": 0.9,
    "tau": 0.02,
    "learning_rate": 3e-3,
}


def build(folder: Path, policy: dict[str, Any] | None = None, **changed: Any) -> SACTrainer:
    torch.manual_seed(changed.get("seed", 0))
    tasks = make_tasks(name="point-robot", episodes=1, show_goal=True)
    options = {"max_steps": 6, "use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no"}
    args = SACConfig(output_dir=str(folder), **{**options, **QUICK, **changed})
    model = SACPolicy.for_spec(tasks.env.spec, **{"hidden_size": 64, "alpha": 0.05, **(policy or {})})
    return SACTrainer(model, args, tasks)


# ---- the twin: every gradient by hand


class Net:
    """Two hidden layers with ReLU in numpy, and the gradient of what comes out with respect to weights and inputs."""

    def __init__(self, module: torch.nn.Sequential) -> None:
        self.weights = [p.detach().numpy().copy() for p in module.parameters()]

    def forward(self, x: np.ndarray) -> np.ndarray:
        w1, b1, w2, b2, w3, b3 = self.weights
        self.x, self.h1 = x, np.maximum(x @ w1.T + b1, 0)
        self.h2 = np.maximum(self.h1 @ w2.T + b2, 0)
        return self.h2 @ w3.T + b3

    def backward(self, up: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
        w1, _, w2, _, w3, _ = self.weights
        d2 = (up @ w3) * (self.h2 > 0)
        d1 = (d2 @ w2) * (self.h1 > 0)
        grads = [d1.T @ self.x, d1.sum(0), d2.T @ self.h1, d2.sum(0), up.T @ self.h2, up.sum(0)]
        return grads, d1 @ w1


def squashed(out: np.ndarray, noise: np.ndarray) -> tuple[np.ndarray, ...]:
    """Action, its log-probability, and what the gradient needs: the standard deviation."""
    mean, log_std = np.split(out, 2, 1)
    assert (np.abs(log_std) < 2).all(), "no bound is met, so the clamp has slope one"
    raw = mean + np.exp(log_std) * noise
    action = np.tanh(raw)
    logprob = (-0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi) - np.log(1 - action**2)).sum(1)
    return action, logprob, np.exp(log_std)


def adam(weight: np.ndarray, grad: np.ndarray, lr: float) -> np.ndarray:
    """The first step: both averages are corrected to the gradient itself."""
    return weight - lr * grad / (np.abs(grad) + 1e-8)


def twin(policy: SACPolicy, batch: dict[str, torch.Tensor], noises: list[np.ndarray], args: Any) -> dict[str, Any]:
    """Gradients {learner: [...]} and the parameters after the update, by the chain rule."""
    b = {name: value.numpy() for name, value in batch.items()}
    n, alpha, size = len(b["reward"]), math.exp(policy.log_temperature.item()), policy.config.action_size
    actor, critics, targets = Net(policy.actor), [Net(c) for c in policy.critics], [Net(t) for t in policy.targets]
    action, logprob, _ = squashed(actor.forward(b["next_observation"]), noises[0])
    after = np.minimum(*(t.forward(np.hstack([b["next_observation"], action]))[:, 0] for t in targets))
    y = b["reward"] + args.gamma * ~b["terminated"] * (after - alpha * logprob)
    critic_grads = []
    for critic in critics:
        q = critic.forward(np.hstack([b["observation"], b["action"]]))[:, 0]
        critic_grads += critic.backward(((q - y) / n)[:, None])[0]
    action, logprob, std = squashed(actor.forward(b["observation"]), noises[1])
    q = np.stack([c.forward(np.hstack([b["observation"], action]))[:, 0] for c in critics])
    lower = q.argmin(0)
    # d loss / d action = -dQ/da / n of the lower critic; the log-probability adds alpha * d(-log(1 - a^2)) / da = 2 a
    slope = np.zeros_like(action)
    for i, critic in enumerate(critics):
        up = np.where(lower == i, -1.0 / n, 0.0)[:, None]
        slope += critic.backward(up)[1][:, -size:]
    raw = slope * (1 - action**2) + alpha / n * 2 * action
    actor_grads = actor.backward(np.hstack([raw, raw * std * noises[1] - alpha / n]))[0]
    goal = -size if args.target_entropy is None else args.target_entropy
    temperature = -alpha * (logprob.mean() + goal)
    flat = [w for c in critics for w in c.weights]
    stepped = [adam(w, g, args.learning_rate) for w, g in zip(flat, critic_grads, strict=True)]
    old = [w for t in targets for w in t.weights]
    return {
        "grads": {"critics": critic_grads, "actor": actor_grads, "temperature": [np.array(temperature)]},
        "critics": stepped,
        "targets": [(1 - args.tau) * o + args.tau * w for o, w in zip(old, stepped, strict=True)],
        "actor": [adam(w, g, args.learning_rate) for w, g in zip(actor.weights, actor_grads, strict=True)],
        "log_temperature": adam(np.array(policy.log_temperature.item()), np.array(temperature), args.learning_rate),
    }


@pytest.mark.parametrize("target_entropy", [None, -0.7])
def test_one_update_equals_its_twin(target_entropy: float | None, tmp_path: Path) -> None:
    trainer = build(tmp_path, {"hidden_size": 8}, target_entropy=target_entropy, learning_rate=1e-3)
    policy = trainer.policy.double()
    with torch.no_grad():  # targets that are not the critics
        for parameter in policy.targets.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    n = 32
    batch: dict[str, torch.Tensor] = {
        "observation": torch.randn(n, 4).double(),
        "next_observation": torch.randn(n, 4).double(),
        "action": torch.rand(n, 2).double() * 2 - 1,
        "reward": torch.randn(n).double(),
        "terminated": torch.rand(n) < 0.3,
    }
    state = torch.get_rng_state()
    noises = [torch.randn(n, 2, dtype=torch.float64).numpy() for _ in range(2)]
    torch.set_rng_state(state)
    expected = twin(policy, batch, noises, trainer.args)
    composite = CompositeOptimizer(trainer.learners())
    losses = trainer.losses(batch)
    accumulate_own(losses, composite.learners, lambda grad: grad)
    composite.due |= set(losses)
    for name, learner in composite.learners.items():
        for parameter, grad in zip(learner.parameters(), expected["grads"][name], strict=True):
            np.testing.assert_allclose(parameter.grad.numpy(), grad, rtol=0, atol=1e-10)
            assert np.abs(grad).max() > 1e-4, "a gradient that says something"
    composite.clip(trainer.args.max_grad_norm)
    composite.step()
    for name in ("critics", "actor", "targets"):
        for parameter, value in zip(getattr(policy, name).parameters(), expected[name], strict=True):
            np.testing.assert_allclose(parameter.detach().numpy(), value, rtol=0, atol=1e-10)
    assert abs(policy.log_temperature.item() - expected["log_temperature"]) < 1e-10


def test_whoever_made_the_observation_learns_from_the_critics_alone(tmp_path: Path) -> None:
    trainer = build(tmp_path, {"hidden_size": 8})
    batch = {name: torch.randn(5, 4) for name in ("observation", "next_observation")}
    batch["observation"].requires_grad_()
    batch |= {"action": torch.zeros(5, 2), "reward": torch.zeros(5), "terminated": torch.zeros(5, dtype=torch.bool)}
    losses = trainer.losses(batch)
    (slope,) = torch.autograd.grad(losses["critics"], batch["observation"], retain_graph=True)
    assert slope.abs().max() > 0
    for name in ("actor", "temperature"):
        assert torch.autograd.grad(losses[name], batch["observation"], retain_graph=True, allow_unused=True) == (None,)


def test_the_squashed_gaussian_is_a_density() -> None:
    """Against the change of variables by hand, and it integrates to one."""
    logits = torch.tensor([0.4, -0.3], dtype=torch.float64).expand(200_000, 2)
    actions, logprobs = SquashedGaussian().draw(logits, torch.Generator().manual_seed(0))
    raw = torch.atanh(actions[:, 0])
    normal = torch.distributions.Normal(0.4, math.exp(-0.3))
    by_hand = normal.log_prob(raw) - torch.log(1 - actions[:, 0].square())
    assert (logprobs - by_hand).abs().max() < 1e-6
    inside = actions[:, 0].abs() < 0.9  # E[1 / density] is the length of where the draws lie
    assert abs(float((torch.exp(-logprobs) * inside).mean()) - 1.8) < 0.02
    assert float(SquashedGaussian().mode(logits)[0, 0]) == pytest.approx(math.tanh(0.4))
    far, sure = SquashedGaussian().draw(torch.tensor([[40.0, 0.0]]))
    assert far.abs().max() <= 1
    assert torch.isfinite(sure).all()


# ---- the loop


def test_what_is_played_when(tmp_path: Path) -> None:
    """400 steps of random play are worth no update, the 200 of the next round 40."""
    trainer = build(tmp_path, max_steps=3)
    trainer.train()
    assert trainer.played == 800, "60 updates: two rounds after random play"
    assert trainer.due == pytest.approx(20)
    assert len(trainer.replay) == 40
    rows = trainer.replay.rows(200, torch.Generator().manual_seed(0))
    assert len(rows.task.unique()) == 40, "every round has tasks of its own"
    assert (rows.actions[rows.mask].abs() <= 1).all()
    assert trainer.cost.total["env_steps"] == 800


def test_a_set_of_tasks_is_played_again_and_again(tmp_path: Path) -> None:
    trainer = build(tmp_path, max_steps=2, num_tasks=15, per_device_train_batch_size=5, updates_per_step=1)
    trainer.train()
    assert set(trainer.replay.rows(300).task.tolist()) <= set(range(15))


def test_a_resumed_run_equals_one_left_alone(tmp_path: Path) -> None:
    def options(name: str) -> dict[str, Any]:
        return {
            "folder": tmp_path / name,
            "save_strategy": "steps",
            "save_steps": 2,
            "auto_resume": True,
            "max_steps": 7,
        }

    alone = build(**options("alone"), capacity=600, batch_size=32)
    alone.train()
    resumed = interrupted(lambda: build(**options("resumed"), capacity=600, batch_size=32), [3, 5])
    assert_same_run(alone, resumed)
    left, right = (t.replay.steps(300, torch.Generator().manual_seed(0)) for t in (alone, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert (alone.played, alone.due) == (resumed.played, resumed.due)


def test_it_learns_the_point_robot(tmp_path: Path) -> None:
    """Random play returns -20.9, the optimum is -5.19; in 3,400 steps and 600 updates most of it is learned."""
    trainer = build(tmp_path, max_steps=30, logging_steps=30)
    trainer.train()
    env, held_out = trainer.tasks.env, trainer.tasks.batch(1234, range(500))
    greedy = play(env, Entrant(trainer.policy, greedy=True), held_out, seed=1).mean()
    drawn = play(env, Entrant(trainer.policy, seed=3), held_out, seed=1).mean()
    assert trainer.played == 3400
    assert greedy > -8, greedy
    assert greedy > drawn > -14, "the greedy policy is better than the one that explores"


def test_a_policy_comes_back_from_disk(tmp_path: Path) -> None:
    policy = build(tmp_path).policy
    policy.save_pretrained(tmp_path / "model")
    back = load_control_policy(tmp_path, SACPolicy)
    assert all(torch.equal(v, back.state_dict()[name]) for name, v in policy.state_dict().items())
    trainer = SACTrainer(back, SACConfig(output_dir=str(tmp_path), max_steps=1, use_cpu=True), build(tmp_path).tasks)
    assert not any(p.requires_grad for p in trainer.policy.targets.parameters())
    with pytest.raises(ConfigError, match="a model of type 'mrt-sac', not 'mrt-policy'"):
        load_control_policy(tmp_path)


def test_a_recipe_trains_and_what_it_left_acts_in_three_lines(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["args.max_steps=2", "args.use_cpu=true", f"output_dir={run}"]
    assert main(["train", "control/sac-point-robot", *options]) == 0
    policy = load_policy(run)
    state = policy.reset()
    action, state = policy.act([0.1, 0.2, 0.3, 0.4], state)
    expected = torch.tanh(SACPolicy.from_pretrained(run / "model").actor(torch.tensor([[0.1, 0.2, 0.3, 0.4]])))
    assert action == pytest.approx(expected[0, :2].tolist(), abs=1e-6)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="5 discrete"):
        SACPolicy.for_spec(make_tasks(name="bernoulli-bandit", arms=5, pulls=10).env.spec)
    with pytest.raises(ConfigError, match="no option \\['memory'\\]"):
        build(tmp_path, {"memory": "gru"})
    for wrong in ({"batch_size": 0}, {"tau": 0.0}, {"updates_per_env_step": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            build(tmp_path, **wrong)
