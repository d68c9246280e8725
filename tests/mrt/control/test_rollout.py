"""Rollouts beside a slow loop over single environments, and beside `play`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mrt.control.agent import Entrant, RandomAgent
from mrt.control.envs import make_env, make_tasks
from mrt.control.interaction import play
from mrt.control.policy import ControlPolicy
from mrt.control.rollout import rollout
from mrt.training.records import episode_returns
from mrt.trials import Stop, Trials
from tests.support.policies import make_policy, named, randomised


def hallway(memory: str = "gru", **dials: Any) -> tuple[Any, Any, dict[str, Tensor]]:
    """Episodes of two to six steps, and a policy that leans to the ends, so that some are found and some are not."""
    tasks = make_tasks("hallway", **{"half": 2, "cost": 0.25, "episodes": 3, **dials})
    policy = randomised(
        ControlPolicy.for_spec(tasks.env.spec, memory=named(memory), hidden_size=8, separate_critic=True)
    )
    return tasks.env, policy.eval(), tasks.batch(0, range(12))


def one_by_one(env: Any, policy: Any, params: dict[str, Tensor], actions: Tensor, row: int) -> list[dict[str, Any]]:
    """The rows of one trial as the record's definition has them, in plain Python, taking these actions (T,)."""
    single = {name: value[row : row + 1] for name, value in params.items()}
    env = make_env("hallway", half=env.half, cost=env.cost, episodes=env.spec.episodes)
    observation = env.reset(single)
    memory, rows, t = policy.init_state(1), [], 0
    action, reward, done = torch.tensor([-1]), 0.0, 0.0

    def look() -> dict[str, Any]:
        nonlocal memory
        inputs = {"observation": observation, "action": action}
        inputs |= {"reward": torch.tensor([reward]), "done": torch.tensor([done])}
        heads, memory = policy.step(inputs, memory)
        logs = heads.logits.log_softmax(-1)[0]
        return {"inputs": inputs, "value": heads.values[0].item(), "logs": logs, "mask": False, "gain": 0.0}

    for episode in range(env.spec.episodes):
        while True:
            row_now = look() | {"episode": episode, "mask": True}
            action = actions[t : t + 1]
            step = env.step(action)
            observation, reward = step.observation, step.reward.item()
            done = float(step.terminated.item() or step.truncated.item())
            rows.append(row_now | {"gain": reward, "log": row_now["logs"][action.item()].item()})
            t += 1
            if done:
                how = Stop.TERMINATED if step.terminated.item() else Stop.TRUNCATED
                break
        rows.append(look() | {"episode": episode, "stop": how})  # the closing row: what the last act led to
        if episode < env.spec.episodes - 1:
            step = env.step(torch.tensor([0]))
            assert step.fresh.item()
            observation, action, reward, done = step.observation, torch.tensor([-1]), 0.0, 0.0
            t += 1  # the closing row is a step of the record too
    return rows


@pytest.mark.parametrize("memory", ["gru", "snail", "episodic-lstm"])
def test_a_rollout_beside_a_plain_loop(memory: str) -> None:
    env, policy, params = hallway(memory)
    trials = rollout(env, policy, params, generator=torch.Generator().manual_seed(4))
    lengths, kinds = set(), set()
    with torch.no_grad():
        expected = [one_by_one(env, policy, params, trials.actions[row], row) for row in range(len(trials))]
    assert trials.actions.shape[1] == max(len(rows) for rows in expected), "no row more than the longest trial needs"
    for b, rows in enumerate(expected):
        lengths.add(len(rows))
        inside = trials.episode[b] >= 0
        assert inside.tolist() == [True] * len(rows) + [False] * (len(inside) - len(rows))
        assert trials.mask[b].tolist() == [row["mask"] for row in rows] + [False] * (len(inside) - len(rows))
        for t, row in enumerate(rows):
            for name, value in row["inputs"].items():
                assert torch.equal(trials.inputs[name][b, t], value[0]), (b, t, name)
            assert trials.episode[b, t] == row["episode"]
            assert trials.rewards[b, t] == pytest.approx(row["gain"])
            last = t == trials.actions.shape[1] - 1  # nobody is asked at the closing row of the longest trial
            assert trials.values[b, t].isnan() if last else trials.values[b, t] == pytest.approx(row["value"], abs=1e-5)
            if row["mask"]:
                assert trials.logprobs[b, t] == pytest.approx(row["log"], abs=1e-5)
        stops = [row["stop"] for row in rows if "stop" in row]
        kinds |= set(stops)
        assert trials.stop[b].tolist() == stops
        assert trials.trial_stop[b] == (Stop.TERMINATED if stops[-1] == Stop.TERMINATED else Stop.BUDGET)
        assert not trials.rewards[b, len(rows) :].any()
        assert trials.cost["env_steps"][b] == sum(row["mask"] for row in rows)
    assert len(lengths) > 2, "episodes of different length"
    assert kinds == {Stop.TERMINATED, Stop.TRUNCATED}


def test_the_policy_that_learns_says_what_the_policy_that_acted_said() -> None:
    env, policy, params = hallway("transformer")
    trials = rollout(env, policy, params)
    with torch.no_grad():
        heads = policy(trials.inputs)
    mask = trials.mask
    logprobs = policy.distribution.logprob(heads.logits, trials.actions)
    assert torch.allclose(logprobs[mask], trials.logprobs[mask], atol=1e-5)
    assert torch.allclose(heads.values[mask], trials.values[mask], atol=1e-5)


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize(
    ("name", "dials"),
    [("hallway", {"half": 2, "episodes": 2}), ("bernoulli-bandit", {"arms": 3, "pulls": 6}), ("navigation-2d", {})],
)
def test_play_and_rollout_are_the_same_trials(name: str, dials: dict[str, Any], greedy: bool) -> None:
    """Episode returns on equal numbers: the environment's noise, and the draws of actions."""
    tasks = make_tasks(name, **dials)
    policy = randomised(ControlPolicy.for_spec(tasks.env.spec, hidden_size=8)).eval()
    params = tasks.batch(1, range(20))
    learned = Entrant(policy, greedy=greedy, seed=3)
    numbers = torch.Generator()
    numbers.set_state(learned.generator.get_state())
    trials = rollout(tasks.env, policy, params, seed=5, greedy=greedy, generator=numbers)
    played = play(tasks.env, learned, params, seed=5)
    assert torch.allclose(episode_returns(trials).double(), played, atol=1e-4)
    if not greedy:
        assert len(played.sum(1).round(decimals=3).unique()) > 1


def test_continuous_trials_record_what_was_done() -> None:
    tasks = make_tasks("navigation-2d")
    policy = make_policy("gru", continuous=True)
    trials = rollout(tasks.env, policy, tasks.batch(0, range(3)), generator=torch.Generator().manual_seed(0))
    assert trials.actions.shape[2] == 2
    following = trials.mask[:, :-1]
    assert torch.equal(trials.inputs["action"][:, 1:][following], trials.actions[:, :-1][following])
    assert not trials.inputs["action"][:, 0].any()
    with torch.no_grad():
        logs = policy.distribution.logprob(policy(trials.inputs).logits, trials.actions)
    assert torch.allclose(logs[trials.mask], trials.logprobs[trials.mask], atol=1e-4)


def test_groups_keys_and_seeds() -> None:
    tasks = make_tasks("bernoulli-bandit", arms=2, pulls=4)
    policy, params = randomised(ControlPolicy.for_spec(tasks.env.spec, hidden_size=8)), tasks.batch(0, [3, 3, 7])

    def played(seed: int) -> Trials:
        made = torch.Generator().manual_seed(1)
        return rollout(tasks.env, policy, params, seed=seed, generator=made, group=torch.tensor([0, 0, 1]), keys="abc")

    first, again = played(0), played(0)
    assert torch.equal(first.rewards, again.rewards)
    assert any(not torch.equal(first.rewards, played(seed).rewards) for seed in (1, 2, 3))
    assert first.group.tolist() == [0, 0, 1]
    assert first.task_keys == ("a", "b", "c")
    assert rollout(tasks.env, policy, params).group.tolist() == [0, 1, 2]
    assert first.trial_stop.tolist() == [Stop.BUDGET] * 3, "the pulls ran out: nothing follows to bootstrap from"


def test_facts_of_the_environment_are_recorded_after_each_step() -> None:
    tasks = make_tasks("sparse-semicircle", episodes=2, steps=3)
    params = tasks.batch(0, range(4))
    trials = rollout(tasks.env, RandomAgent(tasks.env.spec), params, facts=["dense_reward"])
    dense, position = trials.privileged["dense_reward"], trials.inputs["observation"]
    away = (position[:, 1:] - params["goal"][:, None]).norm(dim=-1)
    mask = trials.mask[:, :-1]
    torch.testing.assert_close(dense[:, :-1][mask], -away[mask])
    assert dense[~trials.mask].eq(0).sum() >= 4, "a closing row comes after no step"
    assert not rollout(tasks.env, RandomAgent(tasks.env.spec), params).privileged
