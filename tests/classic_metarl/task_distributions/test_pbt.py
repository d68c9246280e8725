"""Population-based training: who takes from whom, the toy of its paper (T46), and a population of real runs."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest
import torch

from classic_metarl.task_distributions.pbt import PBT, PBTConfig, PBTTrainer
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe

RANGES = {"a": (0.1, 10.0), "b": (1e-4, 1e-2)}


def test_the_worst_take_from_the_best() -> None:
    pbt, rng = PBT(RANGES, share=0.25), random.Random(0)
    seen = set()
    for _ in range(50):
        sources = pbt.exploit([3.0, 8.0, 1.0, 7.0, 2.0, 4.0, 5.0, 6.0], rng)
        assert [i for i, source in enumerate(sources) if source != i] == [2, 4], "the two worst of eight"
        seen |= {sources[2], sources[4]}
    assert seen == {1, 3}, "from the two best"
    assert pbt.exploit([1.0, math.nan, 2.0, 3.0], rng)[1] == 3, "whoever has no score takes"
    assert PBT(RANGES, share=0.0).exploit([1.0, 2.0, 3.0], rng) == [0, 1, 2], "random search"
    assert PBT(RANGES, share=0.5).exploit([1.0, 2.0], rng) == [1, 1]


def test_what_is_taken_changes_within_its_range() -> None:
    pbt, rng = PBT(RANGES, resample=0.0), random.Random(0)
    found = [pbt.explore({"a": 1.0, "b": 1e-2}, rng) for _ in range(100)]
    assert {round(one["a"], 6) for one in found} == {0.8, 1.2}
    assert {round(one["b"], 6) for one in found} == {0.008, 0.01}, "1.2 e-2 lies above the range"
    drawn = [PBT(RANGES, resample=1.0).explore({"a": 1.0, "b": 1e-3}, rng)["a"] for _ in range(2000)]
    assert 0.1 <= min(drawn) < 0.12
    assert sum(value < 1 for value in drawn) / 2000 == pytest.approx(0.5, abs=0.04), "uniform in the logarithm"


def toy(share: float, generations: int = 40, steps: int = 10) -> float:
    """The paper's toy: Q = 1.2 - |theta|^2 is climbed by the gradient of 1.2 - h . theta^2, h = (1, 0) for
    one worker and (0, 1) for the other, both from (0.9, 0.9). Weights are taken, h is not."""
    pbt, rng = PBT({}, share=share, inherit=False), random.Random(0)
    theta, h = torch.full((2, 2), 0.9), torch.eye(2)
    best = -math.inf
    for _ in range(generations):
        for _ in range(steps):
            theta = theta - 0.02 * 2 * h * theta
        scores = (1.2 - theta.square().sum(1)).tolist()
        best = max(best, *scores)
        scores = [score + 1e-6 * rng.random() for score in scores]  # equal scores: either may be the better
        theta = theta[pbt.next_generation([{}, {}], scores, rng)[0]]
    return best


def test_the_toy_of_the_paper() -> None:
    """T46: 1.2 with the population, 0.39 = 1.2 - 0.9^2 for each worker alone."""
    assert toy(share=0.5) >= 1.19
    assert toy(share=0.0) == pytest.approx(0.39, abs=0.01)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"args.recipe and args.ranges"):
        PBTConfig(str(tmp_path), max_steps=1)
    with pytest.raises(ConfigError, match=r"from 0 to 0\.5"):
        PBT(RANGES, share=0.7)
    with pytest.raises(ConfigError, match="the lowest first"):
        PBT({"a": (1.0, 0.1)})
    args = PBTConfig(
        str(tmp_path), max_steps=1, recipe="control/rl2-two-arms", ranges={"args.learning_rat": [1e-4, 1e-2]}
    )
    with pytest.raises(ConfigError, match="learning_rate"):
        args.member()


@pytest.mark.slow
def test_a_population_of_runs_resumes_and_is_an_agent(tmp_path: Path) -> None:
    tiny = "[args.per_device_train_batch_size=4, args.minibatches=1, policy.hidden_size=4, args.logging_steps=1]"
    given = [f"args.overrides={tiny}", "args.members=2", "args.steps=2", "args.max_steps=2", "args.share=0.5"]
    recipe = load_recipe("task_distributions/pbt-rl2", [*given, f"output_dir={tmp_path}"])
    PBTTrainer.from_recipe(recipe, tmp_path).train()
    again = PBTTrainer.from_recipe(recipe, tmp_path)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    assert again.state.global_step == 2
    again.save_model(str(tmp_path / "model"))
    runs = sorted(path.name for path in (tmp_path / "members").iterdir())
    assert runs == ["000-00", "000-01", "001-00", "001-01"]
    begun = [json.loads((tmp_path / "members" / name / "run.json").read_text()) for name in runs]
    assert {one["recipe"]["model"] for one in begun[:2]} == {""}
    assert len({one["recipe"]["model"] for one in begun[2:]}) == 1, "both go on from the better one"
    assert all(not one["resumed"] for one in begun), "nothing ran twice"
    rates = [one["recipe"]["args"]["learning_rate"] for one in begun]
    assert len(set(rates)) >= 3, "the one that took changed what it took"
    assert PBTTrainer.agent_of(tmp_path, recipe).shape.actions == 2
