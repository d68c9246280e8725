"""Several problem sets as one."""

import json

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.problems import load_problems, to_dataset, validate
from mrt.reasoning.problems.reward import ProblemReward

COUNTDOWN = {"name": "countdown", "high": 9, "train": 60, "warmstart": 8, "test": 12}
CHAINS = {"name": "chains", "terms": 3, "train": 60, "warmstart": 8, "test": 12}


def test_train_follows_the_weights_and_the_others_are_whole():
    mixed = load_problems("mixture", sets=[{**COUNTDOWN, "weight": 3}, CHAINS], train=40)
    labels = [one.data["set"] for one in mixed.problems("train")]
    assert (labels.count("countdown"), labels.count("chains")) == (30, 10)
    assert labels != sorted(labels)  # shuffled
    assert len(mixed.problems("test")) == 24
    assert len({one.key for one in mixed.problems("train")}) == 40
    assert len(load_problems("mixture", sets=[{**COUNTDOWN, "weight": 3}, CHAINS]).problems("train")) == 80
    again = load_problems("mixture", sets=[{**COUNTDOWN, "weight": 3}, CHAINS], train=40)
    assert again.problems("train") == mixed.problems("train")
    other = load_problems("mixture", sets=[{**COUNTDOWN, "weight": 3}, CHAINS], train=40, seed=1)
    assert other.problems("train") != mixed.problems("train")
    assert validate(mixed, "train") == 40
    for one in mixed.problems("test"):
        assert one.solution in mixed.solutions(one)


def test_every_set_has_a_reward_of_its_own_in_the_log():
    mixed = load_problems("mixture", sets=[COUNTDOWN, CHAINS], train=20)
    rows = to_dataset(mixed, "train")
    logged = {}
    texts = [
        f"<think></think>\\boxed{{{row['solution'] if json.loads(row['data'])['set'] == 'chains' else '1'}}}"
        for row in rows
    ]
    columns = {name: rows[name] for name in ("key", "solution", "data")}
    rewards = ProblemReward(mixed)(rows["prompt"], texts, log_metric=logged.__setitem__, **columns)
    assert logged["reward/chains"] == 1.0
    assert logged["reward/countdown"] == 0.0
    assert sum(rewards) == 10


def test_what_cannot_be_mixed(tmp_path):
    with pytest.raises(ConfigError, match="labels that differ"):
        load_problems("mixture", sets=[CHAINS, CHAINS])
    with pytest.raises(ConfigError, match="above 0"):
        load_problems("mixture", sets=[CHAINS, {**COUNTDOWN, "weight": 0}])
    with pytest.raises(ConfigError, match=r"train=200 is more than .* \(120\)"):
        load_problems("mixture", sets=[CHAINS, COUNTDOWN], train=200)
    for sets in ([], "chains", [{"weight": 2}]):
        with pytest.raises(ConfigError, match="mixture"):
            load_problems("mixture", sets=sets)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i}+1?", "answer": i + 1}) + "\n" for i in range(30)))
    one = {"name": "exact", "path": str(path), "test": 0.5}
    with pytest.raises(DataError, match=r"'[ab]' trains on .* which '[ab]' tests"):
        load_problems("mixture", sets=[{**one, "label": "a"}, {**one, "label": "b", "seed": 1}])
