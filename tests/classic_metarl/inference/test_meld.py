"""MELD: the ELBO beside the exact filter, which gradient reaches what, acting as learned, pictures, exact resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

from classic_metarl.inference.meld import MELDPolicy, led_here
from classic_metarl.problems.linear_gaussian import LinearGaussian, kalman
from classic_metarl.trainers.latent_states import LatentStates, gaussian
from mrt.control.agent import RandomAgent
from mrt.control.envs.base import EnvTasks
from mrt.control.latents import Latent
from mrt.control.loading import load_control_policy
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.optim.learners import accumulate_own
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.trials import Trials
from tests.support.compare import assert_same_run, interrupted
from tests.support.policies import randomised

pytestmark = pytest.mark.training

QUICK = ["args.use_cpu=true", "args.disable_tqdm=true", "args.report_to=none", "args.logging_steps=1",
         "args.per_device_train_batch_size=4", "args.random_steps=24", "args.batch_size=5", "args.updates_per_step=2",
         "args.max_steps=3", "policy.hidden_size=8", "policy.model_size=8", "policy.first=2",
         "policy.second=3"]  # fmt: skip
LINEAR = ("inference/meld-linear-gaussian", "tasks.steps=3", "tasks.episodes=2")
PICTURES = ("inference/meld-pictures", "tasks.options={episodes: 2, steps: 2}")
SMALL = {"hidden_size": 8, "model_size": 8, "first": 2, "second": 3}


def build(name: str, folder: Path, *changed: str) -> Any:
    recipe = load_recipe(name, [*QUICK, "args.save_strategy=no", *changed])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def played(env: LinearGaussian, rows: int, seed: int = 0) -> Trials:
    return rollout(env, RandomAgent(env.spec, seed), EnvTasks(env).batch(seed, range(rows)), seed=seed)


def filtered(env: LinearGaussian, trials: Trials) -> Any:
    return kalman(env, *(trials.inputs[name] for name in ("observation", "action", "reward")))


# ---- the exact filter


def linear_map(env: LinearGaussian, steps: int) -> Tensor:
    """(2 steps + 1, 2 + 4 steps...) what o_0, o_1, r_0, o_2, r_1, ... and then g are of independent N(0, 1) numbers."""
    count = 2 + (steps + 1) + 2 * steps
    noise = iter(torch.eye(count, dtype=torch.float64))
    s, g = next(noise), next(noise)
    seen = [s + env.blur * next(noise)]
    for _ in range(steps):
        s = env.decay * s + env.drift * next(noise)
        seen += [s + env.blur * next(noise), g - s + env.luck * next(noise)]
    return torch.stack([*seen, g])


def test_the_filter_is_the_posterior_of_the_joint_gaussian() -> None:
    """All that is seen and g are one Gaussian vector: its density and conditional mean, without any recursion."""
    env, steps = LinearGaussian(steps=4), 4
    trials = played(env, 6)
    found, joint = filtered(env, trials), linear_map(env, steps)
    law, pushed = joint @ joint.T, torch.zeros(6, 2 * steps + 1, dtype=torch.float64)
    place = torch.zeros(6, dtype=torch.float64)
    for t in range(1, steps + 1):
        place = env.decay * place + env.push * trials.inputs["action"][:, t, 0].double()
        pushed[:, 2 * t - 1], pushed[:, 2 * t] = place, -place
    seen = torch.zeros_like(pushed)
    seen[:, 0] = trials.inputs["observation"][:, 0, 0]
    for t in range(1, steps + 1):
        seen[:, 2 * t - 1] = trials.inputs["observation"][:, t, 0]
        seen[:, 2 * t] = trials.inputs["reward"][:, t]
    expected = MultivariateNormal(pushed, law[:-1, :-1]).log_prob(seen)
    torch.testing.assert_close(found.loglik.sum(1), expected)
    goal = (seen - pushed) @ torch.linalg.solve(law[:-1, :-1], law[:-1, -1])
    torch.testing.assert_close(found.mean[:, -1, 1], goal)
    left = law[-1, -1] - law[-1, :-1] @ torch.linalg.solve(law[:-1, :-1], law[:-1, -1])
    torch.testing.assert_close(found.covariance[-1, 1, 1], left)


def test_the_environment_follows_the_law_that_is_filtered() -> None:
    env, rows = LinearGaussian(steps=5), 4000
    trials = played(env, rows)
    found = filtered(env, trials)
    law = linear_map(env, 5)[:-1]
    entropy = 0.5 * torch.logdet(2 * math.pi * math.e * law @ law.T)
    total = found.loglik.sum(1)
    assert float(total.mean() + entropy) == pytest.approx(0.0, abs=4 * float(total.std()) / rows**0.5)
    away = found.mean[:, :, 1] - EnvTasks(env).batch(0, range(rows))["goal"].double()[:, None]
    torch.testing.assert_close(away.square().mean(0), found.covariance[:, 1, 1], rtol=0.1, atol=0.0)


# ---- the ELBO


class Kalman(LatentStates):
    """A latent state model that is the exact filter: z2 is its mean and the time, z1 the whitened innovation."""

    def __init__(self, env: LinearGaussian, steps: int, decoder: float = 0.01) -> None:
        nn.Module.__init__(self)
        self.second_size, self.decoder = 3, decoder
        self.reward_log_std = self.observation_log_std = torch.tensor(math.log(decoder)).double()
        self.fixed = torch.diag(torch.tensor([env.decay, 1.0])).double()
        self.push = torch.tensor([env.push, 0.0]).double()
        see = torch.tensor([[1.0, 0.0], [-1.0, 1.0]]).double()
        spread = torch.diag(torch.tensor([env.blur**2, env.luck**2])).double()
        cov, self.see = torch.eye(2).double(), see
        spaces: list[Tensor] = []
        scales: list[Tensor] = []
        gains: list[Tensor] = []
        for t in range(steps + 1):
            c, noise = see.clone(), spread.clone()
            if t:
                cov = self.fixed @ cov @ self.fixed.T + torch.diag(torch.tensor([env.drift**2, 0.0])).double()
            else:
                c[1], noise[1, 1] = 0.0, 1.0  # no reward: a number that says nothing
            innovation = c @ cov @ c.T + noise
            gain = cov @ c.T @ torch.linalg.inv(innovation)
            values, space = torch.linalg.eigh(innovation - decoder**2 * torch.eye(2).double())
            spaces.append(space)
            scales.append(values.sqrt())
            gains.append(gain)
            cov = (torch.eye(2).double() - gain @ c) @ cov
        self.spaces, self.scales, self.gains = (torch.stack(x) for x in (spaces, scales, gains))

    def encode(self, observation: Tensor) -> Tensor:
        return observation

    def ahead(self, z2: Tensor, moved: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The mean before the step, what it says is seen, and the time."""
        mean = z2[..., :2] @ self.fixed.T + moved[..., :1] * self.push
        return mean, mean @ self.see.T, z2[..., 2].round().long()

    def innovation(self, z1: Tensor, t: Tensor) -> Tensor:
        return (self.spaces[t] @ (self.scales[t] * z1)[..., None])[..., 0]

    def prior(self, z2: Tensor, moved: Tensor) -> Latent:
        return Latent.unit(z2[..., :2])

    def posterior(self, read: Tensor, z2: Tensor, moved: Tensor) -> Latent:
        _, said, t = self.ahead(z2, moved)
        away, scale = read - said, self.scales[t]
        away = torch.where((t == 0)[:, None] & torch.tensor([False, True]), 0.0, away)
        white = (self.spaces[t].mT @ away[..., None])[..., 0]
        precision = 1 + scale.square() / self.decoder**2
        first = (t == 0)[:, None] & torch.tensor([True, False])  # the direction of the number that says nothing
        found = Latent(scale * white / self.decoder**2 / precision, -precision.log())
        return Latent(*(torch.where(first, 0.0, part) for part in found))

    def follow(self, z1: Tensor, z2: Tensor, moved: Tensor) -> Latent:
        mean, _, t = self.ahead(z2, moved)
        mean = mean + (self.gains[t] @ self.innovation(z1, t)[..., None])[..., 0]
        mean = torch.cat([mean, (t[:, None] + 1).double()], -1)
        return Latent(mean, torch.full_like(mean, -40.0))

    def both(self, z: Tensor) -> Tensor:
        z1, t = z[..., :2], z[..., 4].round().long() - 1
        away = self.innovation(z1, t)
        before = z[..., 2:4] - (self.gains[t] @ away[..., None])[..., 0]
        return before @ self.see.T + away

    def decode(self, z: Tensor) -> Tensor:
        return self.both(z)[..., :1]

    def earn(self, z: Tensor) -> Tensor:
        return self.both(z)[..., 1:]


def test_the_elbo_of_the_exact_filter_is_its_log_likelihood() -> None:
    """Every term of the bound, along whole trials: with a model that is right within two hundredths of a nat a step.
    And it is a bound: a posterior that ignores what is seen loses, and one that is a little off does.
    """
    env = LinearGaussian(steps=6)
    trials = played(env, 6000)
    inputs = {name: value.double() for name, value in trials.inputs.items()}
    exact, acted = filtered(env, trials), led_here(trials)
    model: Any = Kalman(env, 6)
    torch.manual_seed(0)

    def bound() -> tuple[Tensor, Any]:
        states = model(inputs, acted)
        terms = model.terms(states, inputs, acted)
        return terms["observation"] + terms["reward"] - terms["kl"], states

    elbo, states = bound()
    gap = exact.loglik - elbo
    assert float(gap.mean().abs()) < 0.02  # a draw leaves 0.005
    assert float(gap.mean(0).abs().max()) < 0.06
    torch.testing.assert_close(states.second.mean[..., :2], exact.mean, atol=0.05, rtol=0.0)
    right = model.posterior
    model.posterior = lambda read, z2, moved: model.prior(z2, moved)
    assert float((exact.loglik - bound()[0]).mean()) > 1.0
    model.posterior = lambda read, z2, moved: right(read + 0.05, z2, moved)
    assert float((exact.loglik - bound()[0]).mean()) > 0.05


def test_densities_are_whole() -> None:
    x, mean, log_std = torch.randn(5), torch.randn(5), torch.tensor(-0.7)
    torch.testing.assert_close(gaussian(x, mean, log_std), Normal(mean, log_std.exp()).log_prob(x))


# ---- learning


def filled(name: str, folder: Path, *changed: str) -> tuple[Any, dict[str, Any]]:
    trainer = build(name, folder, *changed)
    batch = trainer.next_batch(range(4))
    randomised(trainer.policy, seed=1)
    return trainer, batch


def reached(loss: Tensor, part: nn.Module) -> bool:
    parameters = [p for p in part.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return any(grad is not None and float(grad.abs().max()) > 0 for grad in grads)


@pytest.mark.parametrize("task", [LINEAR, PICTURES], ids=["vectors", "pictures"])
def test_only_the_elbo_moves_the_model_and_it_moves_nothing_else(task: tuple[str, ...], tmp_path: Path) -> None:
    trainer, batch = filled(task[0], tmp_path, *task[1:])
    losses, policy, learners = trainer.losses(batch), trainer.policy, trainer.learners()
    assert {name for name, loss in losses.items() if reached(loss, policy.states)} == {"model"}
    assert not reached(losses["model"], policy.actor)
    assert not reached(losses["model"], policy.critics)
    accumulate_own(losses, learners, lambda grad: grad)
    still = [name for name, p in policy.states.named_parameters() if p.grad is None]
    assert not still, "every part of the model learns"
    owned = {id(p) for learner in learners.values() for p in learner.parameters()}
    assert owned == {id(p) for p in policy.parameters()} - {id(p) for p in policy.targets.parameters()}


def test_a_value_goes_over_the_end_of_an_episode_and_stops_at_that_of_the_trial(tmp_path: Path) -> None:
    trainer, batch = filled(*LINEAR[:1], tmp_path, *LINEAR[1:])
    handed: list[dict[str, Tensor]] = []
    trainer.sac_losses = lambda policy, own: handed.append(own) or {}
    torch.manual_seed(3)
    trainer.losses(batch)
    torch.manual_seed(3)
    trials = batch["trials"]
    _, belief = trainer.elbo(trials)
    own, at = handed[0], trials.mask.nonzero().tolist()
    assert len(at) == len(own["reward"]) == 5 * 6
    for i, (b, t) in enumerate(at):
        torch.testing.assert_close(own["observation"][i], belief[b, t])
        last = i + 1 == len(at) or at[i + 1][0] != b
        assert bool(own["terminated"][i]) == last
        if not last:
            torch.testing.assert_close(own["next_observation"][i], belief[b, at[i + 1][1]])


@torch.no_grad()
def test_the_agent_filters_as_the_model_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step in use, at once in training, over the ends of episodes; draws are replaced by means."""
    monkeypatch.setattr(Latent, "sample", lambda self, generator=None: self.mean)
    env = LinearGaussian(steps=3, episodes=2)
    policy = randomised(MELDPolicy.for_spec(env.spec, **SMALL))
    trials = rollout(env, policy, EnvTasks(env).batch(0, range(10)), seed=1, greedy=True)
    belief = policy.states(trials.inputs, led_here(trials)).belief
    expected = policy.distribution.mode(policy.actor(belief))
    torch.testing.assert_close(trials.actions[trials.mask], expected[trials.mask], atol=1e-5, rtol=1e-4)
    assert len(trials.actions[trials.mask].unique()) > 30


@pytest.mark.parametrize("task", [LINEAR, PICTURES], ids=["vectors", "pictures"])
def test_a_resumed_run_equals_one_left_alone(task: tuple[str, ...], tmp_path: Path) -> None:
    changed = ["args.save_strategy=steps", "args.save_steps=2", "args.auto_resume=true", "args.max_steps=4", *task[1:]]
    alone = build(task[0], tmp_path / "alone", *changed)
    alone.train()
    assert_same_run(alone, interrupted(lambda: build(task[0], tmp_path / "parts", *changed), [3]))


def test_a_policy_comes_back_from_disk(tmp_path: Path) -> None:
    for std in (0.0, 0.25):
        policy = MELDPolicy.for_spec(LinearGaussian().spec, observation_std=std, **SMALL)
        policy.save_pretrained(tmp_path)
        back = load_control_policy(tmp_path, MELDPolicy)
        assert all(torch.equal(v, back.state_dict()[name]) for name, v in policy.state_dict().items())
        assert (back.states.observation_log_std.requires_grad) == (std == 0)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="side=32: pictures have side x side = 1 numbers"):
        build(LINEAR[0], tmp_path, "policy.side=32")
    with pytest.raises(ConfigError, match=r"model_rate=0.* above 0"):
        build(LINEAR[0], tmp_path, "args.model_rate=0")
