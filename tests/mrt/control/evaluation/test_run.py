"""Evaluation of policies: measures by hand, moments that join, equal numbers for everybody, exact values in reach."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from mrt.control.agent import ScriptedAgent
from mrt.control.envs import EnvTasks, TensorEnv, make_env, make_tasks
from mrt.control.evaluation.measures import Moments, Outcomes, measure, measures_of, unit_of, watch
from mrt.control.evaluation.run import evaluate_policy, measure_policy
from mrt.control.oracles import floor_and_ceiling, task_bounds
from mrt.control.oracles.bandit_policies import InformativeBayes, Thompson, regret
from mrt.control.oracles.references import exact_values, players
from mrt.control.policy import ControlPolicy
from mrt.errors import ConfigError


class Always(ScriptedAgent):
    """One action, whatever happens."""

    def __init__(self, action: int) -> None:
        self.action = action

    def choose(self, observation: torch.Tensor, state: dict[str, object]) -> torch.Tensor:
        return torch.full((len(observation),), self.action)


def fresh_policy(env: TensorEnv, **options: object) -> ControlPolicy:
    torch.manual_seed(0)
    policy = ControlPolicy.for_spec(env.spec, **{"hidden_size": 16, **options})
    with torch.no_grad():
        policy.actor.weight.mul_(200)  # opinions, so that greedy play is not one action
    return policy


def test_measures_of_a_walk_to_the_left() -> None:
    env = make_env("hallway", half=2, cost=0.02, episodes=2)  # 6 steps an episode; the left end is 2 steps away
    params = {"side": torch.tensor([-1, 1])}
    outcomes, _ = watch(env, Always(0), params, seed=0, bounds=floor_and_ceiling(env, params))
    found, missed = 1 - 2 * 0.02, -6 * 0.02
    expected = {
        "total": [2 * found, 2 * missed],
        "regret": [0.0, 2 * (found - missed)],
        "episode_2": [found, missed],
        "last_episode": [found, missed],
        "success": [1.0, 0.0],
        "success_1": [1.0, 0.0],
        "steps_1": [2.0, 6.0],
        "steps_2": [2.0, 6.0],
        "steps_to_goal": [2.0, 6.0],
        "per_trial": [2 * found / 12, 2 * missed / 12],
    }
    for name, values in expected.items():
        assert measure(name, outcomes).tolist() == pytest.approx(values, abs=1e-6), name
    assert outcomes.steps.tolist() == [[2, 2], [6, 6]]
    assert set(measures_of(env, True)) == set(expected) - {"per_trial"} | {"episode_1", "success_2"}


def test_steps_count_from_the_start_of_their_own_episode() -> None:
    env = make_env("grid-navi", episodes=3)
    outcomes, _ = watch(env, Always(1), {"goal": torch.tensor([2, 20])})  # up: cells 1, 2, 3, 4, then the wall
    assert outcomes.first_paid.tolist() == [[2.0] * 3, [15.0] * 3]
    assert outcomes.returns[0].tolist() == pytest.approx([-14 * 0.1 + 1] * 3)


def test_a_door_counts_only_behind_its_key() -> None:
    env = make_env("key-to-door", size=3, steps=4, episodes=1)  # from the centre (cell 4) up to cell 5
    params = {"key": torch.tensor([5, 0]), "door": torch.tensor([5, 5])}
    outcomes, _ = watch(env, Always(1), params)
    assert measure("success", outcomes).tolist() == [1.0, 0.0]
    assert outcomes.total.tolist() == [2.0, 0.0]


def test_rewards_of_free_episodes_do_not_count() -> None:
    returns = torch.tensor([[5.0, 1.0, 2.0]], dtype=torch.float64)
    outcomes = Outcomes(returns, returns, returns, returns, returns, None, None, choices=1, free=1)
    assert float(outcomes.total) == 3
    assert float(measure("episode_1", outcomes)) == 5
    with pytest.raises(ConfigError, match="needs floor_and_ceiling"):
        measure("regret", outcomes)


def test_choices_of_the_two_step_task() -> None:
    env = make_env("two-step", choices=10)
    params = {"rich": torch.tensor([0, 1])}
    outcomes, _ = watch(env, Always(0), params, seed=3, bounds=floor_and_ceiling(env, params))
    assert (unit_of(env), tuple(outcomes.earned.shape)) == ("choice", (2, 10))
    assert torch.allclose(measure("per_trial", outcomes), outcomes.total / 10)
    assert outcomes.lost is not None
    assert torch.allclose(outcomes.lost, 0.7 - outcomes.earned, atol=1e-6)


def test_regret_of_bandits_is_that_of_the_oracles() -> None:
    tasks = make_tasks("bernoulli-bandit", arms=3, pulls=20)
    params = tasks.batch(5, range(50))
    outcomes, _ = watch(tasks.env, Thompson(3, seed=1), params, seed=2, bounds=floor_and_ceiling(tasks.env, params))
    expected = regret(tasks.env, Thompson(3, seed=1), params, 2)  # type: ignore[arg-type]
    assert torch.allclose(measure("regret", outcomes), expected, atol=1e-5)


def test_moments_join() -> None:
    values = torch.from_numpy(np.random.default_rng(0).normal(1e3, 1, (1000, 3)))
    parts = [Moments.of(values[a:b]) for a, b in pairwise([0, 1, 400, 1000])]
    joined = parts[0] + parts[1] + parts[2]
    read = Moments.read(joined.n, joined.to_json())
    assert torch.allclose(read.mean, values.mean(0), atol=1e-12)
    assert torch.allclose(read.se, values.std(0) / math.sqrt(1000), atol=1e-12)
    assert Moments.of(values[:1]).se.isnan().all()


def test_the_ratio_of_regret_has_the_error_of_a_ratio() -> None:
    tasks, count = make_tasks("bernoulli-bandit"), 300
    found = evaluate_policy(None, tasks, count=count, references=["greedy"], chunk=70, progress=False)
    params = tasks.batch(1 << 40, range(count))
    bounds = floor_and_ceiling(tasks.env, params)
    span = (bounds.ceiling - bounds.floor).double().numpy()
    lost = []
    for number, start in enumerate(range(0, count, 70)):  # the chunks' own noise, once more
        part = {name: value[start : start + 70] for name, value in params.items()}
        outcomes, _ = watch(
            tasks.env,
            players(tasks.env)["greedy"](part, number),
            part,
            seed=number,
            bounds=task_bounds(tasks.env, part),
        )
        lost.append(measure("regret", outcomes).numpy())
    total = np.concatenate(lost)
    ratio = total.mean() / span.mean()
    error = np.std(total - ratio * span, ddof=1) / math.sqrt(count) / span.mean()
    greedy = found["players"]["greedy"]
    assert greedy["relative_regret"] == pytest.approx({"mean": ratio, "se": error}, rel=1e-6)
    assert greedy["measures"]["regret"]["mean"] == pytest.approx(total.mean())
    assert greedy["measures"]["regret"]["se"] == pytest.approx(total.std(ddof=1) / math.sqrt(count))
    assert greedy["regret_curve"]["mean"][-1] == pytest.approx(total.mean())


def test_an_interrupted_evaluation_ends_the_same() -> None:
    tasks = make_tasks("grid-navi", episodes=2)
    policy = fresh_policy(tasks.env)
    whole: list[dict] = []
    first = evaluate_policy(policy, tasks, count=50, chunk=20, save=whole.append, progress=False)
    assert [row["n"] for row in whole] == [20, 20, 10]
    again = evaluate_policy(policy, tasks, count=50, chunk=20, done=whole[:1], progress=False)
    assert again == first


def test_everybody_meets_the_same_numbers() -> None:
    tasks = make_tasks("bernoulli-bandit")
    one, other = fresh_policy(tasks.env), fresh_policy(tasks.env)
    found = evaluate_policy({"one": one, "other": other}, tasks, count=200, references=(), progress=False)
    ours = found["players"]
    assert ours["one"]["measures"] == ours["other"]["measures"]
    assert ours["one"]["minus"]["other"] == {"mean": 0.0, "se": 0.0}
    apart = ours["one"]["minus"]["random"]
    assert apart["mean"] == pytest.approx(
        ours["one"]["measures"]["total"]["mean"] - ours["random"]["measures"]["total"]["mean"]
    )


def test_baselines_reach_what_they_are_worth() -> None:
    found = evaluate_policy(None, make_tasks("bernoulli-bandit"), count=20_000, references=["Gittins"], progress=False)
    for name, worth in (("Gittins", 6.66), ("random", 5.0)):
        estimate = found["players"][name]["measures"]["total"]
        assert abs(estimate["mean"] - worth) < 4 * estimate["se"] < 0.08
    assert found["bounds"]["total"]["floor"] == pytest.approx(5.0, abs=0.03)
    assert found["bounds"]["total"]["ceiling"] == pytest.approx(10 * 5 / 6, abs=0.03)
    assert found["exact"]["Bayes-optimal"]["total"] == pytest.approx(6.660, abs=5e-4)


@pytest.mark.parametrize(
    ("name", "dials", "who", "measure_name", "value"),
    [
        ("bernoulli-bandit", {"arms": 2, "pulls": 30}, "Bayes-optimal", "regret", 1.080),
        ("bernoulli-bandit", {"arms": 2, "pulls": 100}, "Bayes-optimal", "regret", 1.748),
        ("dependent-bandit", {"kind": "easy"}, "Bayes-optimal", "regret", 0.625),
        ("informative-bandit", {}, "Bayes-optimal", "total", 20.55),
        ("informative-bandit", {}, "never asks", "total", 11.0),
        ("two-step", {}, "Bayes-optimal", "per_trial", 0.6969),
        ("grid-navi", {"episodes": 4}, "Bayes-optimal", "total", 37.214),
        ("grid-navi", {"episodes": 4}, "Bayes-optimal", "episode_2", 11.071),
        ("hallway", {"half": 5}, "Bayes-optimal", "steps_1", 10.0),
        ("hallway", {"half": 5, "dead_end": 2}, "Bayes-optimal", "steps_1", 9.0),
        ("hallway", {"half": 5}, "Bayes-optimal", "total", 1.7),
        ("dream-bus", {}, "without exploring", "total", 0.3),
    ],
)
def test_exact_values(name: str, dials: dict, who: str, measure_name: str, value: float) -> None:
    assert exact_values(make_env(name, **dials))[who][measure_name] == pytest.approx(value, abs=6e-4)


def test_exact_values_are_met_by_the_players_of_that_name() -> None:
    for name, dials in (("dependent-bandit", {"kind": "hard", "pulls": 40}), ("two-step", {"choices": 30})):
        found = evaluate_policy(None, make_tasks(name, **dials), count=2000, progress=False)
        for key in ("total", "regret"):
            estimate = found["players"]["Bayes-optimal"]["measures"][key]
            assert abs(estimate["mean"] - found["exact"]["Bayes-optimal"][key]) < 4 * estimate["se"], (name, key)


@pytest.mark.parametrize("name", ["grid-navi", "dream-bus", "four-corners", "bernoulli-bandit", "tabular-mdp"])
def test_bounds_computed_once_a_task(name: str) -> None:
    tasks = make_tasks(name)
    params = tasks.batch(0, range(6))
    params = {key: torch.cat([value, value.flip(0)]) for key, value in params.items()}
    for got, wanted in zip(task_bounds(tasks.env, params), floor_and_ceiling(tasks.env, params), strict=True):
        assert torch.allclose(got, wanted)


def test_measured_stands_beside_floor_and_ceiling() -> None:
    tasks = make_tasks("hallway", episodes=2)
    found = measure_policy(fresh_policy(tasks.env), tasks, "total", count=100)
    assert found.n == 100
    assert (found.floor, found.ceiling) == (pytest.approx(-0.448, abs=1e-3), pytest.approx(1.8))
    steps = measure_policy(fresh_policy(tasks.env), tasks, "steps_2", count=100)
    assert steps.ceiling is None  # what random play takes is its floor
    assert steps.floor is not None
    assert 13 < steps.floor < 15


def test_mistakes_are_named() -> None:
    tasks = make_tasks("hallway", episodes=2)
    policy = fresh_policy(tasks.env)
    for name, message in (("totl", "did you mean 'total'"), ("episode_3", "episodes 1 to 2"), ("episode_0", "1 to 2")):
        with pytest.raises(ConfigError, match=message):
            measure_policy(policy, tasks, name, count=4)
    with pytest.raises(ConfigError, match="does not play bernoulli-bandit"):
        evaluate_policy(None, make_tasks("bernoulli-bandit"), references=["Gitins"], progress=False)
    with pytest.raises(ConfigError, match="sees 3 numbers"):
        evaluate_policy(policy, EnvTasks(make_env("grid-navi")), progress=False)
    with pytest.raises(ConfigError, match="give it another name"):
        evaluate_policy({"random": policy}, tasks, progress=False)


def test_a_curve_of_pulls_leaves_closing_rows_out() -> None:
    """Every pull an episode: five units, and the best policy loses only by asking (4.45 on average of 25)."""
    env = make_env("informative-bandit", pulls=1, episodes=5)
    params = EnvTasks(env).batch(0, range(10))
    outcomes, _ = watch(env, InformativeBayes(), params, bounds=task_bounds(env, params))
    assert outcomes.lost is not None
    assert outcomes.earned.shape == outcomes.lost.shape == (10, 5)
    asked = 5 - (params["target"] + 1).double() / 10
    assert torch.allclose(outcomes.lost.sum(1), asked, atol=1e-6)
    assert torch.allclose(outcomes.earned[:, 1:], torch.full((10, 4), 5.0).double())
