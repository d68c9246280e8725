"""The memory plan: by hand, against real models without memory, and against measured memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mrt.cli.doctor import FAILED, GOOD, examine
from mrt.runs.plan import GIB, Plan, Settings, Shape, plan, proposals
from tests.support.processes import run_module

SMALL = Shape(1000, 1000, layers=2, hidden=8, heads=4, kv_heads=2, head_dim=2, intermediate=16, vocabulary=10)
SETTINGS = Settings(micro_batch=4, length=10, rows=8)


def test_parts_by_hand() -> None:
    parts = plan(SMALL, SETTINGS).parts
    assert (parts["weights"], parts["gradients"], parts["optimiser"]) == (4000, 4000, 8000)
    assert parts["keys and values"] == 80 * (2 * 2 * 2 * 2) * 4 * 1.25  # 80 positions, 16 numbers each
    layer = 6 * 8 + 5 * 8 + 4 * 4 + 4 * 16
    assert parts["activations"] == 40 * 2 * layer * 4
    assert parts["logits (sampling)"] == 8 * 10 * 4 * 4
    assert parts["logits (training)"] == 40 * 10 * 4 * 3
    half = plan(SMALL, replace(SETTINGS, bytes_each=2, checkpointed=True, probed=True, frozen_copies=1, shards=2)).parts
    assert (half["weights"], half["frozen copies"], half["optimiser"]) == (1000, 1000, 2000)
    assert half["keys and values"] == 80 * 16 * 2 * 2.25
    assert half["activations"] == 40 * (2 * 8 + layer) * 2
    assert plan(SMALL, replace(SETTINGS, optimiser="sgd")).parts["optimiser"] == 0
    assert plan(SMALL, replace(SETTINGS, optimiser="adamw_8bit")).parts["optimiser"] == 2000
    assert plan(replace(SMALL, trained=10), SETTINGS).parts["gradients"] == 40


def test_keys_and_values_at_work_are_what_max_positions_allows() -> None:
    many = replace(SETTINGS, rows=1000)
    parts = plan(SMALL, replace(many, max_positions=500)).parts
    assert parts["keys and values"] == 500 * 16 * 4 * 1.25
    assert plan(SMALL, many).parts["keys and values"] == 20 * parts["keys and values"]


def test_the_peak_is_the_larger_moment() -> None:
    names = ("weights", "keys and values", "logits (sampling)", "activations", "logits (training)")
    assert Plan(dict(zip(names, (1.0, 5.0, 2.0, 3.0, 1.0), strict=True))).peak == 8
    training = dict(zip(names, (1.0, 1.0, 2.0, 3.0, 1.0), strict=True))
    assert Plan(training).peak == 5
    assert Plan(training | {"gradients": 3.0}).peak == 8, "they wait for the next micro-batch"
    assert Plan(training | {"gradients": 3.0}, accumulating=False).peak == 5, "they come as activations go"
    assert Plan(training | {"gradients": 9.0}, accumulating=False).peak == 10


def test_proposals_go_only_as_far_as_needed() -> None:
    big = replace(SMALL, parameters=10**8, trained=10**8, layers=8, hidden=512, intermediate=2048)
    settings = Settings(micro_batch=64, length=512, rows=4)
    whole = plan(big, settings).peak
    assert proposals(big, settings, False, whole) == ([], plan(big, settings))
    changes, least = proposals(big, settings, False, whole * 0.6)
    assert changes == ["args.per_device_train_batch_size=32", "args.gradient_accumulation_steps=2"]
    assert least.peak <= whole * 0.6
    changes, least = proposals(big, settings, False, plan(big, replace(settings, micro_batch=0)).peak * 0.6)
    assert changes[-2:] == ["args.gradient_checkpointing=true", "peft.r=16"]
    assert changes[:2] == ["args.per_device_train_batch_size=1", "args.gradient_accumulation_steps=64"]
    assert proposals(big, settings, False, 1.0)[1].peak > 1.0, "what does not fit is not said to fit"


def recipe(folder: Path, model: str, **args: object) -> str:
    from mrt.reasoning.models.tiny import save_tiny

    save_tiny(folder / "model")
    lines = [f"  {key}: {value}" for key, value in {"max_steps": 10, "bf16": "false", **args}.items()]
    head = ["trainer: mrt.reasoning.training.trainer:MRTTrainer", f"model: {folder / model}", "args:"]
    (folder / "r.yaml").write_text("\n".join([*head, *lines]) + "\n")
    return str(folder / "r.yaml")


def test_doctor_plans_memory_time_and_cost(tmp_path: Path) -> None:
    path = recipe(tmp_path, "model", max_completion_length=40, num_generations=8, per_device_train_batch_size=16)
    checks = {check.name: check for check in examine(path, price=36.0)}
    memory, cost = checks["memory plan"], checks["time and cost"]
    assert memory.status == cost.status == GOOD
    assert "GiB are free" in memory.found
    assert "for 10 updates" in cost.found
    # 16 rows of 64 + 40 positions, sampled, probed, and updated (3): 10 updates of 5 * 1664
    assert "8.3e+04 positions" in cost.found
    assert "at 36 per hour" in cost.found


def test_doctor_plans_max_positions(tmp_path: Path) -> None:
    from mrt.reasoning.training.plan import facts
    from mrt.runs.recipe import load_recipe

    path = recipe(tmp_path, "model", max_completion_length=40, max_positions=300)
    found = facts(load_recipe(path))
    assert found is not None
    assert found.settings.max_positions == 300


def test_doctor_refuses_what_cannot_fit_and_says_what_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe(tmp_path, "model", max_completion_length=800, per_device_train_batch_size=512, num_generations=8)
    monkeypatch.setattr("mrt.cli.doctor._room", lambda: (4 * GIB, False))
    checks = {check.name: check for check in examine(path)}
    assert checks["memory plan"].status == FAILED
    assert checks["memory plan"].cure.startswith("add args.per_device_train_batch_size=")
    assert "time and cost" not in checks, "nothing is loaded for a run that cannot fit"


def test_parameters_are_those_of_the_model() -> None:
    from mrt.reasoning.models.tiny import build_model, build_tokenizer
    from mrt.reasoning.training.plan import shape_of

    model = build_model(build_tokenizer())
    assert shape_of(model.config).parameters == sum(p.numel() for p in model.parameters())
    adapted = shape_of(model.config, {"r": 8, "target_modules": ["q_proj"]})
    assert adapted.trained == 3 * 8 * (128 + 128)
    assert adapted.parameters == shape_of(model.config).parameters + adapted.trained


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "arguments",
    [
        ("128", "3", "4", "64", "100"),
        ("512", "10", "8", "4", "128"),
        ("384", "8", "6", "8", "48"),  # of another shape than those whose measurement set the plan's constants
    ],
)
def test_the_plan_is_near_what_is_measured(arguments: tuple[str, ...]) -> None:
    """Two updates of models of 0.5 M, 26 M and 12 M parameters, each in a process of its own: off by at most 30 %."""
    done = run_module("tests.programs.memory", *arguments, timeout=1200)
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.7 < found["planned"] / found["measured"] < 1.3, found
