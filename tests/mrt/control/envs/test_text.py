"""Tensor environments in text: what is said is what the environment did."""

from __future__ import annotations

import pytest
import torch

from mrt.control.envs import make_tasks
from mrt.control.envs.text import EnvInText
from mrt.errors import ConfigError
from mrt.text_tasks import make_text_tasks


def begun(env: EnvInText, rows: int = 4, seed: int = 5) -> list[str]:
    return env.reset([env.sample(0, index) for index in range(rows)], seed)


def test_a_bandit_says_what_the_tensor_environment_pays():
    env, plain = EnvInText("bernoulli-bandit", arms=2, pulls=3), make_tasks("bernoulli-bandit", arms=2, pulls=3)
    assert begun(env) == ["2,3"] * 4
    plain.env.reset(plain.batch(0, range(4)), 5)
    pulls = torch.tensor([[0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]])
    for number, arms in enumerate(pulls):
        turn, step = env.step([str(arm) for arm in arms.tolist()]), plain.env.step(arms)
        assert turn.rewards.tolist() == step.reward.tolist()
        assert turn.texts == ["✓" if paid else "✗" for paid in step.reward.tolist()]
        assert turn.attempt_over.all()
        assert not turn.solved.any()
        assert not turn.unread.any()
        assert turn.trial_over.tolist() == [number == 2] * 4
    means = plain.env.params["means"]
    assert env.payoffs() == [{"0": row[0], "1": row[1]} for row in means.tolist()]
    assert torch.allclose(env.facts()["oracle"], means.amax(1))
    assert torch.allclose(env.facts()["floor"], means.mean(1))
    assert (env.attempts, env.turns, env.choices) == (3, 3, ("0", "1"))


@pytest.mark.parametrize("text", ["", "7", "-1", "0 1", "1.0", "arm"])
def test_an_action_that_cannot_be_read_uses_up_its_turn(text):
    env = EnvInText("bernoulli-bandit", arms=2, pulls=2, penalty=0.25)
    begun(env)
    turn = env.step([text, "0", "1", "machine 1!"])
    assert turn.unread.tolist() == [True, False, False, False]
    assert turn.texts[0] == "~"
    assert float(turn.rewards[0]) == -0.25
    assert env.step(["0"] * 4).trial_over.all(), "the turn counts"


def test_a_room_tells_cells_and_begins_anew():
    env = EnvInText("dark-room", size=3, steps=2, episodes=2)
    assert begun(env) == ["1,1"] * 4
    first, second = env.step(["1", "2", "3", "0"]), env.step(["1", "2", "3", "0"])
    assert [text.rstrip("✓") for text in first.texts] == ["1,2", "2,1", "1,0", "1,1"]
    assert not first.attempt_over.any()
    assert second.attempt_over.all()
    assert not second.trial_over.any()
    assert all(text.endswith("/1,1") for text in second.texts)
    third = env.step(["4"] * 4)
    assert [text.rstrip("✓") for text in third.texts] == ["0,1"] * 4, "from the start of the new attempt"
    last = env.step(["0"] * 4)
    assert last.trial_over.all()
    assert not any("/" in text for text in last.texts)
    goals = env.env.params["goal"]
    reached = torch.tensor([1 * 3 + 2, 2 * 3 + 1, 1 * 3 + 0, 1 * 3 + 1])
    assert (first.rewards > 0).tolist() == (reached == goals).tolist()
    assert [text.endswith("✓") for text in first.texts] == (first.rewards > 0).tolist()
    assert env.payoffs() is None


def test_an_attempt_that_ends_early_begins_anew_alone():
    env = EnvInText("dark-room", size=3, steps=5, episodes=2, pays="ends")
    tasks = [env.sample(0, index) for index in range(2)]
    tasks[0].data["goal"].fill_(1 * 3 + 2)  # type: ignore[index]
    tasks[1].data["goal"].fill_(0)  # type: ignore[index]
    env.reset(tasks, 0)
    turn = env.step(["1", "1"])
    assert turn.attempt_over.tolist() == [True, False]
    assert turn.texts == ["1,2✓/1,1", "1,2"]
    assert env.step(["2", "2"]).texts == ["2,1", "2,2"]


def test_a_copy_goes_its_own_way():
    env = EnvInText("dark-room", size=3, steps=4, episodes=2)
    begun(env)
    env.step(["1"] * 4)
    copy = env.select(torch.tensor([2, 2]))
    assert [text.rstrip("✓") for text in copy.step(["2", "4"]).texts] == ["2,2", "0,2"]
    assert [text.rstrip("✓") for text in env.step(["0"] * 4).texts] == ["1,2"] * 4


def test_sentences_name_the_actions():
    bandit = EnvInText("bernoulli-bandit", writing="words", arms=3, pulls=7)
    assert "3 slot machines" in begun(bandit)[0]
    assert "7 pulls" in begun(bandit)[0]
    assert set(bandit.step(["machine 2"] * 4).texts) <= {"It paid 1.", "It paid 0."}
    room = EnvInText("grid-navi", writing="words", episodes=2)
    assert "3 down" in begun(room)[0]
    assert begun(room)[0].endswith("You are at (0, 0).")


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="has no text"):
        EnvInText("hallway")
    with pytest.raises(ConfigError, match="unknown"):
        EnvInText("dark-room", writing="runes")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no option 'arm'"):
        make_text_tasks({"env": "mrt.control.envs.text:EnvInText", "game": "bernoulli-bandit", "arm": 2})
    with pytest.raises(ConfigError, match="need env"):
        make_text_tasks({"name": "bernoulli-bandit"})
    with pytest.raises(ConfigError, match="lacks sample"):
        make_text_tasks({"env": "mrt.tasks:Task"})
    with pytest.raises(ConfigError, match="outside mrt"):
        make_text_tasks({"env": "somebody.games:Game"})
