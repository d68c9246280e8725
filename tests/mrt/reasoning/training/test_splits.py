"""However a batch is split over micro-batches and processes: the same loss and the same gradients."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from tests.support.processes import run_module

ROWS = 16  # of all processes and micro-batches together
TOLERANCE = 1e-5


def update(processes: int, accumulation: int, *options: str, program: str = "splits") -> dict[str, Any]:
    """What `tests.programs` splits, fsdp or zero3 prints of one update of ROWS rows."""
    rows = ROWS // processes // accumulation
    done = run_module(f"tests.programs.{program}", rows, accumulation, *options, processes=processes, timeout=1200)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith('{"')))


def assert_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    largest = max(map(abs, one["moved"]))
    assert largest > 1e-3, "the update moves the weights"
    assert one["loss"] == pytest.approx(other["loss"], abs=TOLERANCE)
    assert one["reward"] == pytest.approx(other["reward"], abs=TOLERANCE)
    difference = max(abs(a - b) for a, b in zip(one["moved"], other["moved"], strict=True))
    assert difference < TOLERANCE * max(1.0, largest)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["fsdp", "zero3"])
def test_weights_that_processes_share_change_nothing(kind: str) -> None:
    """recipes/accelerate/fsdp2.yaml and zero3.yaml on two CPU processes: the update of one process; and rollouts of
    different lengths on the two, which would wait for each other's layers for ever were the weights not gathered for
    them."""
    if kind == "zero3":
        pytest.importorskip("deepspeed", reason="ZeRO-3 is DeepSpeed's, which is installed separately")
    whole, split = update(1, 1), update(2, 1, program=kind)
    assert_same(whole, split)
    assert split["sharded"]
    assert not whole["sharded"]
    sampled = update(2, 1, "sampled=1", program=kind)
    assert sampled["sharded"]
    assert max(map(abs, sampled["moved"])) > 1e-4


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("options", [[], ["scale_rewards=batch"], ["loss_type=dr_grpo"]])
def test_splits_change_nothing(options: list[str]) -> None:
    """16 rows at once; as two micro-batches; on two processes, whose batch statistics are gathered; and both."""
    whole = update(1, 1, *options)
    for processes, accumulation in ((1, 2), (2, 1), (2, 2)):
        split = update(processes, accumulation, *options)
        assert_same(whole, split)
        assert len(split["groups"]) == processes
        owners = [Counter(keys) for keys in split["groups"]]
        assert all(count == 4 for owner in owners for count in owner.values()), "a group stays on one process"
        assert not set(owners[0]) & set(owners[-1]) or processes == 1
