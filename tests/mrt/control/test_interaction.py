"""The one loop: what it hands out, when it lets an agent adapt, and that no memory crosses the end of a trial."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from mrt.control.agent import Agent, Choice, Entrant, RandomAgent
from mrt.control.envs import make_tasks
from mrt.control.interaction import Interaction, interact, play
from mrt.control.policy import ControlPolicy
from mrt.control.rollout import rollout
from tests.support.policies import randomised


class Counter(Agent):
    """Pulls arm 0; its memory counts the steps of a trial and, at the end of each episode, the episodes."""

    cadence = "episode"

    def init_state(self, rows: int) -> dict[str, Tensor]:
        return {"steps": torch.zeros(rows), "episodes": torch.zeros(rows)}

    def act(self, seen: Any, state: Any, greedy: bool = False, generator: Any = None) -> Choice:
        zeros = torch.zeros(len(seen["done"]))
        after = {**state, "steps": state["steps"] + 1}
        return Choice(zeros.long(), zeros, zeros, after, {"age": state["steps"], "met": state["episodes"]})

    def adapt(self, seen: Any, state: Any, ended: Tensor) -> Any:
        return {**state, "episodes": state["episodes"] + ended}


def hallway(**dials: Any) -> tuple[Any, dict[str, Tensor]]:
    tasks = make_tasks("hallway", **{"half": 2, "cost": 0.1, "episodes": 2, **dials})
    return tasks.env, tasks.batch(0, range(8))


def test_a_memory_lasts_a_trial_and_no_longer() -> None:
    env, params = hallway()
    trial = Interaction(env, Counter(), params)
    moments = list(trial)
    assert trial.all_over
    assert all(int(moment.choice.extras["age"][0]) == t for t, moment in enumerate(moments)), (
        "over the ends of episodes"
    )
    with pytest.raises(RuntimeError, match="every trial is over, and the memory with it"):
        trial.step()
    assert trial.advance(3) == []
    again = Interaction(env, Counter(), params)
    assert not again.step().choice.extras["age"].any(), "the next trial starts from nothing"


def test_an_agent_adapts_at_its_cadence() -> None:
    """Episode 2 is acted with what one episode taught; the trial ends with two."""
    env, params = hallway()
    trial = Interaction(env, Counter(), params)
    for moment in trial:
        counted = moment.acting
        assert torch.equal(moment.choice.extras["met"][counted].long(), moment.episode[counted])
    assert trial.state["episodes"].tolist() == [2.0] * 8
    every_step = Counter()
    every_step.cadence = "step"  # its act adapts by itself: nothing else is called
    trial = Interaction(env, every_step, params)
    list(trial)
    assert not trial.state["episodes"].any()


def test_extras_are_recorded_with_the_steps() -> None:
    env, params = hallway()
    trials = rollout(env, Counter(), params)
    steps = torch.arange(trials.mask.shape[1])
    assert torch.equal(trials.inputs["age"][:, :-1].long(), steps[:-1].expand(8, -1))
    assert torch.equal(trials.inputs["met"][trials.mask].long(), trials.episode[trials.mask])


@pytest.mark.parametrize("memory", ["gru", "transformer"])
def test_in_chunks_or_at_once_is_the_same(memory: str) -> None:
    env, params = hallway()
    policy = randomised(ControlPolicy.for_spec(env.spec, memory=memory, hidden_size=8)).eval()

    def moments(chunk: int) -> list[Any]:
        trial = Interaction(env, policy, params, generator=torch.Generator().manual_seed(3))
        found = []
        while not trial.all_over:
            found += trial.advance(chunk)
        return found

    for one, other in zip(moments(1000), moments(3), strict=True):
        assert torch.equal(one.choice.actions, other.choice.actions)
        assert torch.equal(one.step.reward, other.step.reward)
        assert torch.equal(one.acting, other.acting)


def test_a_branch_goes_on_alone() -> None:
    env, params = hallway(episodes=3)
    policy = randomised(ControlPolicy.for_spec(env.spec, hidden_size=8)).eval()
    trial = Interaction(env, policy, params, greedy=True)
    trial.advance(3)
    rows = torch.tensor([5, 1, 1])
    branch = trial.branch(rows)
    ahead = [branch.step() for _ in range(4)]
    after = [trial.step() for _ in range(4)]
    for mine, theirs in zip(ahead, after, strict=True):
        assert torch.equal(mine.choice.actions, theirs.choice.actions[rows])
        assert torch.equal(mine.step.reward, theirs.step.reward[rows])


def test_play_sums_what_a_rollout_records() -> None:
    env, params = hallway()
    agent = RandomAgent(env.spec, seed=4)
    returns = play(env, agent, params, seed=1)
    again = rollout(env, RandomAgent(env.spec, seed=4), params, seed=1)
    assert torch.allclose(again.returns.double(), returns.sum(1), atol=1e-5)
    assert not again.logprobs.any(), "a scripted agent is sure of what it does"
    assert again.values.isnan().all(), "and has no critic"


def test_an_entrant_draws_from_its_own_numbers() -> None:
    env, params = hallway()
    policy = randomised(ControlPolicy.for_spec(env.spec, hidden_size=8)).eval()
    torch.manual_seed(0)
    first = play(env, Entrant(policy, seed=2), params)
    torch.manual_seed(1)
    assert torch.equal(first, play(env, Entrant(policy, seed=2), params))
    assert not torch.equal(first, play(env, Entrant(policy, seed=3), params))
    greedy = [moment.choice.actions for moment in interact(env, Entrant(policy, greedy=True), params)]
    plain = [moment.choice.actions for moment in interact(env, policy, params, greedy=True)]
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(greedy, plain, strict=True))
    assert all(
        torch.equal(a, b)
        for a, b in zip(greedy, [m.choice.actions for m in interact(env, policy, params, greedy=True)], strict=True)
    )
