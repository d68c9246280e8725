"""The study of rivals: its arms are the recipes, each with what its evaluation needs."""

import pytest

from evals.reasoning.rivals_study import ARMS, ASKED, FAMILIES, RIVALS, Study
from evals.reasoning.study import BASELINE, WARM_START
from mrt.errors import ConfigError
from mrt.reasoning.problems import load_problems
from mrt.runs.recipe import load_recipe
from tests.support import ROOT


@pytest.fixture
def study(tmp_path):
    return Study("habits", tmp_path / "runs", tmp_path / "store")


def test_the_arms_are_the_recipes():
    recipes = {path.stem for path in (ROOT / "recipes" / "rivals").glob("*.yaml")}
    assert set(ARMS) == recipes - {"score"}
    assert set(RIVALS) < set(ARMS)


def test_every_arm_resolves_and_costs_the_same(study):
    for arm in ARMS:
        recipe, overrides = study.recipe(0, arm)
        args = load_recipe(recipe, overrides).args
        assert ("max_cost" in args) == (arm != WARM_START)
        assert args.get("max_cost", 3e6) == FAMILIES["habits"].cost
    assert len({study.digest(0, arm) for arm in ARMS}) == len(ARMS)


def test_l1_is_asked_for_the_full_budget_and_the_others_for_nothing(study):
    commands = {step.name: step.command for step in study.steps([0], list(ARMS)) if step.name.startswith("eval-")}
    assert ASKED[0] in commands["eval-l1-0"]
    assert ASKED[0] not in commands[f"eval-{BASELINE}-0"]
    sizes = {"high": 9, "train": 4, "warmstart": 4, "test": 4}
    plain = load_problems("countdown", **sizes).problems("test")
    asked = load_problems("countdown", prompt=ASKED[0].partition("=")[2], **sizes).problems("test")
    assert [one.key for one in plain] == [one.key for one in asked]
    assert asked[0].prompt == f"{plain[0].prompt},120"


def test_nothing_stored_is_told(capsys, tmp_path):
    from evals.reasoning.rivals_study import main

    assert main(["--cached", "--store", str(tmp_path)]) == 2
    assert "nothing is stored" in capsys.readouterr().err
    with pytest.raises(ConfigError):
        load_recipe("rivals/nothing", [])
