"""A result is of a resolved configuration: a default that changes is another one, a module that moves is not."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from classic_metarl.black_box.rl2 import RL2Config, RL2Trainer
from classic_metarl.problems.sinusoid import Sinusoids
from evals.gates import configuration, gradient_rl, store, table
from evals.gates.store import counts
from evals.gates.table import Gate, gates
from mrt.control.envs import ENVS
from mrt.control.envs.bandits import BernoulliBandit
from mrt.control.memories import GRU, MEMORIES
from mrt.errors import ConfigError
from mrt.runs.recipe import Recipe, load_recipe

pytestmark = pytest.mark.training


def gate(name: str, system: str) -> Gate:
    (found,) = gates([name], [system])
    return found


def test_a_changed_default_of_the_arguments_changes_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gate("T1", "rl2").digest(0)
    monkeypatch.setattr(RL2Config, "value_weight", 50)
    assert gate("T1", "rl2").digest(0) != before


def test_a_default_that_a_subclass_sets_anew_changes_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclasses.dataclass
    class Other(RL2Config):
        value_weight: float = 50.0

    before = gate("T1", "rl2").configuration(0)
    monkeypatch.setattr(RL2Trainer, "args_class", classmethod(lambda cls: Other))
    after = gate("T1", "rl2").configuration(0)
    assert after["recipes"][""]["args"].pop("value_weight") == 50
    assert before["recipes"][""]["args"].pop("value_weight") == 0.5
    assert after == before


def test_a_changed_default_of_the_library_counts_where_it_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    before = gate("T1", "rl2").digest(0)
    monkeypatch.setattr(RL2Config, "dataloader_num_workers", 3)
    assert gate("T1", "rl2").digest(0) == before, "decides nothing, and comes and goes with transformers"
    monkeypatch.setattr(RL2Config, "adam_beta2", 0.95)
    assert gate("T1", "rl2").digest(0) != before


def test_defaults_of_tasks_policies_memories_and_measurements_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bandit(BernoulliBandit):
        def __init__(self, arms: int = 5, pulls: int = 10, device: str = "cpu", noise: float = 0.0) -> None:
            super().__init__(arms, pulls, device)

    class Memory(GRU):
        def __init__(self, size: int, layers: int = 1, dropout: float = 0.0) -> None:
            super().__init__(size, layers)

    def returns(run: Path, recipe: Recipe, tasks: int, measures: Any, episodes: int = 40) -> dict[str, Any]:
        return {}

    one, other = gate("T1", "rl2"), gate("T26", "promp")
    digests = [one.digest(0), other.digest(0)]
    with monkeypatch.context() as patch:
        patch.setitem(ENVS, "bernoulli-bandit", Bandit)
        assert one.digest(0) != digests[0]
    with monkeypatch.context() as patch:
        patch.setitem(MEMORIES, "gru", Memory)
        assert one.configuration(0)["recipes"][""]["policy"]["memory_options"] == {"layers": 1, "dropout": 0}
    with monkeypatch.context() as patch:
        patch.setattr(gradient_rl, "returns", returns)
        assert other.digest(0) != digests[1]
    assert [one.digest(0), other.digest(0)] == digests


def test_defaults_of_problems_and_credits_are_resolved() -> None:
    problems = gate("T22", "maml").configuration(0)["recipes"][""]["problems"]
    assert problems["phase_high"] == Sinusoids().phase_high
    lora = gate("lora", "lora").configuration(0)["recipes"][""]
    assert (lora["problems"]["sign"], lora["peft"]["lora_dropout"]) == ("/", 0)
    recipe = gate("T5", "rl2").configuration(0)["recipes"][""]
    assert recipe["credit"] == {"gamma": 0.9, "lam": 0.3, "scope": "trial"}


def test_what_is_stated_as_its_default_is_the_same_configuration() -> None:
    left_out = configuration.resolved(load_recipe("control/rl2-bandit"))
    stated = configuration.resolved(load_recipe("control/rl2-bandit", ["args.value_weight=0.5", "args.weight_decay=0"]))
    assert left_out == stated


def test_unknown_problems_are_refused_and_not_left_unresolved() -> None:
    recipe = dataclasses.replace(load_recipe("gradient/maml"), problems={"name": "riddles"})
    with pytest.raises(ConfigError, match="defaults of the problems 'riddles' are not known"):
        configuration.resolved(recipe)


def test_recipes_that_the_measurement_trains_count(monkeypatch: pytest.MonkeyPatch) -> None:
    one = gate("T25", "meta_sgd")
    before = one.digest(0)
    monkeypatch.setattr(
        table,
        "load_recipe",
        lambda name, o: load_recipe(name, [*o, *(["args.inner_rate=0.5"] if "/maml" in name else [])]),
    )
    assert one.digest(0) != before


def test_where_the_trainer_stands_does_not_count() -> None:
    recipe = load_recipe("control/rl2-bandit")
    assert configuration.resolved(recipe)["trainer"] == "RL2Trainer"


def test_a_new_option_at_its_default_voids_no_result_and_one_that_is_stated_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = gate("T1", "rl2")
    then = one.configuration(0)
    del then["recipes"][""]["args"]["value_weight"]  # stored by code that had no such option
    result = {"digest": "another", "configuration": then}
    assert counts(result, one, 0)
    assert not counts(result, dataclasses.replace(one, overrides=("args.value_weight=0.5",)), 0)
    then["recipes"][""]["args"]["gone"] = 1
    assert not counts(result, one, 0), "an option that the code has no longer"


@pytest.mark.parametrize(
    "changed", [{"tasks": 7}, {"greedy": False}, {"measured": {"pulls": 20}}, {"measures": ("total", "regret")}]
)
def test_another_measurement_is_another_configuration(changed: dict[str, Any]) -> None:
    one = gate("T1", "rl2")
    other = dataclasses.replace(one, **changed)
    assert other.digest(0) != one.digest(0)
    assert not counts({"digest": one.digest(0), "configuration": one.configuration(0)}, other, 0)


def test_every_stored_result_counts_and_says_what_it_is_of() -> None:
    kept = store.Store()
    number = 0
    for one in gates():
        for result in kept.results(one).values():
            assert {"digest", "configuration", "commit", "code", "scores", "minutes"} <= result.keys()
            number += 1
    assert number == len(list(store.GATES.glob("*/*.json")))
