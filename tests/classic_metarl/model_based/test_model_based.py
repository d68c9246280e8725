"""Models that adapt and planners on them: plans by hand, the system's exact optimum, adaptation, mixtures, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.model_based.model_agent import Transition
from classic_metarl.model_based.mole import MOLe
from classic_metarl.model_based.planning import Planner, evaluate
from classic_metarl.problems.sign_flip import SignFlip
from evals.gates.model_based import excess
from mrt.control.agent import ScriptedAgent
from mrt.control.envs import EnvTasks
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe

pytestmark = pytest.mark.training

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no", "args.max_steps=1")


def trainer_of(name: str, folder: Path, *overrides: str) -> Any:
    recipe = load_recipe(f"model_based/{name}", [*QUICK, *overrides])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


class Knows(ScriptedAgent):
    """u = - b k (x - g) with b known, or another gain."""

    on_cpu = False

    def __init__(self, env: SignFlip, gain: float) -> None:
        self.env, self.gain = env, gain

    def choose(self, observation: Tensor, state: dict[str, Any]) -> Tensor:
        error = observation[:, 0] - observation[:, 1]
        return (-self.env.sign() * self.gain * error).clamp(-1, 1)[:, None]


# ---- the system


def test_the_optimum_is_that_of_the_riccati_equation() -> None:
    """rho = 2: P^2 + P = 2 has P = 1, so that k = 2 / 4; the optimal u has no excess at all, in every single step."""
    env = SignFlip(steps=40, every=10, rho=2.0, sigma=0.2)
    assert env.riccati == pytest.approx(1.0)
    assert env.gain == pytest.approx(0.5)
    params = EnvTasks(env).batch(0, range(300))
    over, idle = excess(rollout(env, Knows(env, env.gain), params, seed=1), env)
    assert over.abs().max().item() < 1e-3
    assert idle.min().item() >= -1e-6
    assert excess(rollout(env, Knows(env, 0.3), params, seed=1), env)[0].mean() > 0.05
    trials = rollout(env, Knows(env, env.gain), params, seed=1)
    cost = -trials.rewards[:, 10:40].mean().item()
    assert cost == pytest.approx(env.riccati * env.sigma**2, rel=0.05)


def test_the_sign_flips_on_time() -> None:
    env = SignFlip(steps=6, every=2, sigma=0.0)
    env.reset({"sign": torch.tensor([1.0, -1.0])})
    moved = torch.stack([env.step(torch.full((2, 1), 0.5)).observation[:, 0] for _ in range(6)], 1).diff(dim=1)
    assert moved[0].tolist() == [0.5, -0.5, -0.5, 0.5, 0.5]
    assert torch.equal(moved[1], -moved[0])


# ---- the planner


def known(sign: float) -> Any:
    return lambda now, actions: torch.cat([now[..., :1] + sign * actions, now[..., 1:]], -1)


def test_sequences_are_valued_by_hand() -> None:
    """x = 1, g = 0, u = -1, 0.5 with b = 1, rho = 1: -(0 + 1) - (0.25 + 0.25)."""
    env = SignFlip()
    actions = torch.tensor([[[[-1.0], [0.5]], [[0.0], [0.0]]]])
    found = evaluate(known(1.0), env.planned_reward, torch.tensor([[1.0, 0.0]]), actions)
    assert found[0].tolist() == [-1.5, -2.0]


@pytest.mark.parametrize(("method", "within"), [("mppi", 0.03), ("shooting", 0.2)])
def test_planners_find_the_optimal_action(method: Any, within: float) -> None:
    env = SignFlip()
    planner = Planner(method=method, candidates=256, horizon=4, rounds=4)
    start = torch.tensor([[0.6, 0.0], [0.0, 0.8], [-0.5, 0.1]])
    torch.manual_seed(0)
    for sign in (1.0, -1.0):
        plans = [planner(known(sign), env.planned_reward, start, torch.zeros(3, 4, 1)) for _ in range(8)]
        wanted = -sign * env.gain * (start[:, 0] - start[:, 1])
        gap = (torch.stack(plans)[:, :, 0, 0] - wanted).square().mean().sqrt()
        assert gap < within


# ---- models


def test_a_component_opens_for_what_none_explains(tmp_path: Path) -> None:
    """A model that predicts w u with w = 0 at first, step size 1/2, steps of u = 1 that move by 1, 1, -1, 1.

    The gradient of (w - y)^2 is 2 (w - y), so that a step of 1/2 lands on y. The first opens a component, the third a
    second one, and the fourth goes back to the first, which still knows it.
    """
    agent = MOLe.for_spec(SignFlip().spec, layers=0, sees=[], predicted=1, scale=0.3, components=3, rate=0.5)
    with torch.no_grad():
        for name, parameter in agent.initial.net.named_parameters():
            parameter.zero_()
            if name.endswith("bias"):
                agent.initial.rates[0][name.replace(".", "/")].zero_()
    memory, planned, told = agent.begin(1), [], []
    for change in (1.0, 1.0, -1.0, 1.0):
        one = torch.ones(1, 1)
        step = Transition(torch.zeros(1, 2), one, change * one, torch.ones(1, dtype=torch.bool))
        memory = agent.learn(memory, step)
        planned.append(memory.now.item())
        told.append(agent.changes(memory)(torch.zeros(1, 1, 2), one[None]).item())
    assert planned == [0, 0, 1, 0]
    assert told == pytest.approx([1.0, 1.0, -1.0, 1.0], abs=1e-3)
    assert memory.counts[0].tolist() == pytest.approx([3.0, 1.0, 0.0], abs=1e-3)


def test_a_gradient_step_tells_the_sign(tmp_path: Path, learning: Any) -> None:
    """After one step the model tells the sign: its error is far below that of the prediction 0, E[b] u, which is 1."""
    trainer = trainer_of(
        "grbal", tmp_path, "args.max_steps=3", "args.logging_steps=3", f"seed={learning.seed(0)}", "args.windows=2"
    )
    trainer.train()
    agent = trainer.unwrapped
    draws = torch.Generator().manual_seed(1)
    u = torch.rand(2, 64, 1, generator=draws) * 0.6 + 0.2
    sign = torch.where(torch.rand(64, 1, generator=draws) < 0.5, -1.0, 1.0)
    there, place = torch.ones(64, dtype=torch.bool), torch.zeros(64, 2)
    memory = agent.learn(agent.begin(64), Transition(place, u[0], sign * u[0], there))
    error = agent.error(memory, Transition(place, u[1], sign * u[1], there)) / u[1, :, 0].square()
    learning.check("error", error.mean().item(), below=0.5)


def test_before_anything_was_seen_nothing_adapts(tmp_path: Path) -> None:
    agent = trainer_of("grbal", tmp_path).unwrapped
    now, action = torch.zeros(3, 4, 2), torch.rand(3, 4, 1)
    own = agent.predict(agent.initial.theta.parameters, now, action)
    assert torch.allclose(agent.changes(agent.begin(3))(now, action), own, atol=1e-6)


def test_trained_agents_play_and_resume(tmp_path: Path) -> None:
    options = ("args.max_steps=4", "args.save_strategy=steps", "args.save_steps=2", "args.updates_per_step=3")
    for name in ("mole", "rebal"):
        whole = trainer_of(name, tmp_path / name / "whole", *options)
        whole.train()
        resumed = trainer_of(name, tmp_path / name / "resumed", *options)
        resumed.train(resume_from_checkpoint=str(tmp_path / name / "whole" / "checkpoint-2"))
        pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name
        whole.save_model(str(tmp_path / name / "model"))
        recipe = load_recipe(f"model_based/{name}", [*QUICK, *options])
        agent = type(whole).agent_of(tmp_path / name, recipe)
        env = SignFlip(steps=6, every=3)
        trials = rollout(env, agent, EnvTasks(env).batch(0, range(3)), seed=1)
        assert trials.inputs["model_error"].shape == (3, 7)
        assert trials.actions.abs().max() <= 1


def test_mistakes_in_a_recipe_are_told(tmp_path: Path) -> None:
    for override, message in (
        ("policy.planner.method=cem", "method='cem'"),
        ("policy.planner.horizon=0", "at least 1"),
        ("policy.planner.horizons=3", "horizons"),
        ("policy.hidden=3", "no option 'hidden'"),
        ("args.windows=0", "windows=0"),
        ("tasks={name: point-robot}", "planned_reward"),
        ("tasks={name: bernoulli-bandit}", "discrete"),
    ):
        with pytest.raises(ConfigError, match=message):
            trainer_of("grbal", tmp_path, override)
