"""POET on gaps of width d and jumpers of skill s: what is admitted, what transfers bring, and what only a curriculum
reaches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from classic_metarl.task_distributions.niches import POETRules
from classic_metarl.task_distributions.poet import POET, POETConfig, POETTrainer, improved
from mrt.control.envs import make_env, make_tasks
from mrt.control.evolved import People, PlainPolicy
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.optim.evolution import EvolutionStrategy
from mrt.tasks import generator

RULES = POETRules(
    reproduce_every=8, transfer_every=4, good_enough=0.5, lowest=0.0, highest=0.9, children=8, capacity=6, rate=0.01
)
ES = EvolutionStrategy(population=16, sigma=0.03)
WIDEST = {"width": torch.tensor([1.0])}


def jump(people: list[Tensor], task: dict[str, Tensor], seed: int) -> Tensor:
    """The chance to clear the gap, less what skill costs: flat far from the edge, where skill only costs."""
    (skill,) = people
    return torch.sigmoid((skill[:, 0].clamp(min=0) - task["width"]) / 0.03) - 0.05 * skill[:, 0].abs()


def wider_or_not(task: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    by = 0.2 * (2 * torch.rand(1, generator=generator(seed)) - 1)
    return {"width": (task["width"] + by).clamp(0.0, 1.0)}


def poet(seed: int, rules: POETRules = RULES) -> POET:
    first = ({"width": torch.tensor([0.0])}, [torch.zeros(1)])
    return POET(first, jump, wider_or_not, rules, strategy=ES, ranges={"width": (0.0, 1.0)}, seed=seed)


def solved(people: list[Tensor]) -> bool:
    return float(jump([value[None] for value in people], WIDEST, 0)) > 0.5


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 10))])
def test_a_curriculum_reaches_what_direct_evolution_does_not(seed: int) -> None:
    run = poet(seed)
    for iteration in range(400):
        run.step(iteration)
    assert any(solved(niche.theta) for niche in run.niches)
    theta = [torch.zeros(1)]
    for iteration in range(800):
        theta = improved(theta, WIDEST, jump, ES, rate=RULES.rate, seed=seed, iteration=iteration)
    assert not solved(theta), "alone it is stuck where skill only costs"


def test_only_what_meets_the_criterion_is_admitted_and_transfers_only_improve() -> None:
    run = poet(0)
    admitted, transfers = [], 0
    for iteration in range(200):
        known = {niche.number for niche in run.niches}
        scores = {niche.number: niche.score for niche in run.niches}
        run.step(iteration)
        admitted += [niche for niche in run.niches if niche.number not in known]
        assert len(run.niches) <= RULES.capacity
        for niche in run.niches:
            for when, source, before, after in niche.replaced:
                if when == iteration:
                    transfers += 1
                    assert after > before
                    assert source != niche.number
                    assert source in scores or source in {one.number for one in run.niches}
    assert len(admitted) > 5
    assert all(RULES.lowest <= niche.admitted_at <= RULES.highest for niche in admitted)
    assert transfers > 0
    assert len({niche.number for niche in admitted}) == len(admitted), "numbers are never given twice"
    assert len(run.archive) == 1 + len(admitted)


def test_without_a_criterion_that_is_met_nothing_is_admitted() -> None:
    run = poet(0, POETRules(reproduce_every=1, lowest=0.9999, highest=1.0, good_enough=-1.0))
    for iteration in range(5):
        run.step(iteration)
    assert len(run.niches) == 1


def test_novelty_is_the_distance_to_the_nearest_tasks() -> None:
    run = poet(0)
    run.archive = [torch.tensor([value], dtype=torch.float64) for value in (0.0, 0.2, 0.5)]
    assert run.novelty({"width": torch.tensor([0.3])}) == pytest.approx((0.1 + 0.2 + 0.3) / 3)


def test_the_same_seed_is_the_same_run() -> None:
    runs = [poet(3), poet(3)]
    for iteration in range(40):
        for run in runs:
            run.step(iteration)
    one, other = ([(niche.number, niche.score, niche.theta) for niche in run.niches] for run in runs)
    assert one == other


def test_rules_are_checked() -> None:
    with pytest.raises(ConfigError, match="capacity=0"):
        POETRules(capacity=0)
    with pytest.raises(ConfigError, match="minimal criterion"):
        POETRules(lowest=1.0, highest=0.5)


def trainer(folder: Path, **options: object) -> POETTrainer:
    tasks = make_tasks("hurdles", steps=20)
    torch.manual_seed(0)
    policy = PlainPolicy.for_spec(tasks.env.spec, hidden_size=4)
    rules = {
        "reproduce_every": 1,
        "transfer_every": 2,
        "good_enough": 0.0,
        "lowest": -1.0,
        "highest": 1.0,
        "children": 4,
    }
    args = POETConfig(str(folder), max_steps=4, population=4, niches=rules, use_cpu=True, report_to=[], **options)
    return POETTrainer(policy, args, tasks)


def test_a_run_resumes_where_it_was(tmp_path: Path) -> None:
    whole, first = trainer(tmp_path / "whole"), trainer(tmp_path / "parts", save_strategy="steps", save_steps=2)
    whole.train()
    first.train()
    again = trainer(tmp_path / "parts", save_strategy="steps", save_steps=2)
    again.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    for run in (first, again):
        assert [niche.score for niche in run.poet.niches] == [niche.score for niche in whole.poet.niches]
        assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), whole.model.parameters(), strict=True))
    assert len(whole.poet.niches) > 2
    rows = json.loads((tmp_path / "parts" / "niches.json").read_text())["niches"]
    assert {row["number"] for row in rows} == {niche.number for niche in whole.poet.niches}
    assert all(0 <= value <= 1 for row in rows for pair in row["task"].values() for value in pair)


def test_individuals_side_by_side_act_as_each_would_alone() -> None:
    tasks = make_tasks("hurdles", steps=10)
    policies = [PlainPolicy.for_spec(tasks.env.spec, hidden_size=4) for _ in range(3)]
    people = [
        torch.stack([value.detach() for value in parts])
        for parts in zip(*(p.parameters() for p in policies), strict=True)
    ]
    params = tasks.batch(0, range(3))
    together = rollout(tasks.env, People(people), params)
    for row, policy in enumerate(policies):
        alone = rollout(tasks.env, policy, {name: value[row : row + 1] for name, value in params.items()})
        assert torch.allclose(together.actions[row], alone.actions[0], atol=1e-6)


def test_tasks_that_cannot_change_are_refused(tmp_path: Path) -> None:
    tasks = make_tasks("hurdles")
    args = POETConfig(str(tmp_path), max_steps=1, use_cpu=True)
    with pytest.raises(ConfigError, match=r"args\.niches"):
        POETConfig(str(tmp_path), max_steps=1, niches={"capacities": 3})
    with pytest.raises(ConfigError, match="need continuous actions"):
        PlainPolicy.for_spec(make_env("cart-pole").spec)
    with pytest.raises(ConfigError, match="no continuous parameters"):
        POETTrainer(PlainPolicy.for_spec(tasks.env.spec), args, make_tasks("four-corners"))
