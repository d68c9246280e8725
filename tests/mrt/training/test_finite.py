"""The finite guard in a running trainer: what is not finite never reaches the weights."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback

from mrt.errors import MRTError
from mrt.training.codec import load_tree
from mrt.training.collection import Batch
from tests.support import bandit
from tests.support.compare import logged

pytestmark = pytest.mark.training


class Injected(bandit.BanditTrainer):
    """Losses, gradients, logits and advantages that are not finite, where `bad` {(step, micro-batch): kind} says so."""

    bad: dict[tuple[int, int], str]
    at = (-1, 0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        step = self.state.global_step
        self.at = (step, self.at[1] + 1 if self.at[0] == step else 0)
        kind = self.bad.get(self.at)
        if kind == "advantage":  # a single one, of one step of one trial
            weights = batch.weights.clone()
            weights[-1, 2] = torch.inf
            batch = replace(batch, weights=weights)
        if kind == "logits":
            spoilt = self.model.head.register_forward_hook(lambda module, seen, logits: logits * torch.nan)
            loss = super().losses(batch)["policy"]
            spoilt.remove()
        else:
            loss = super().losses(batch)["policy"]
        if kind == "loss nan":
            loss = loss * torch.nan
        elif kind == "loss inf":
            loss = loss + torch.inf
        elif kind == "gradient":  # a finite loss with an infinite gradient: sqrt at zero
            loss = loss + (self.model.head.bias * 0).sum().sqrt()
        return {"policy": loss}


class Watch(TrainerCallback):
    """Digests of weights and optimiser after every step."""

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.digests = trainer, []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.digests.append(self._digest(self.trainer))

    def _digest(self, trainer: Any) -> tuple[str, bool]:
        values = list(trainer.model.state_dict().values())
        finite = all(bool(torch.isfinite(value).all()) for value in values)
        return bandit.digest_of([values, trainer.optimizer.state_dict()["state"]]), finite

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.digests.append(self._digest(self.trainer))


def inject(folder: Path, bad: dict[tuple[int, int], str], **options: Any) -> tuple[Any, list[tuple[str, bool]]]:
    trainer = bandit.build(folder, Injected, **options)
    trainer.bad = bad
    trainer.add_callback(watch := Watch(trainer))
    trainer.train()
    return trainer, watch.digests


@pytest.mark.parametrize(
    ("kind", "micro"),
    [("loss nan", 0), ("loss inf", 1), ("gradient", 0), ("gradient", 1), ("logits", 1), ("advantage", 0)],
)
def test_an_update_that_is_not_finite_is_dropped_whole(kind: str, micro: int, tmp_path: Path) -> None:
    """In either of two accumulated micro-batches: neither weights nor Adam's moments move, and the run goes on."""
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4, "max_steps": 6, "save_steps": 4}
    trainer, digests = inject(tmp_path, {(2, micro): kind}, **options)
    moved = [before != after for before, after in pairwise(digests)]
    assert moved == [True, True, False, True, True, True]
    assert all(finite for _, finite in digests)
    rows = logged(tmp_path)
    assert [row["guard/skipped_steps"] for row in rows if "loss" in row] == [0, 1, 1]
    assert all(math.isfinite(row["loss"]) for row in rows if "loss" in row), "one NaN would stay in the running sum"
    dump = load_tree(tmp_path / "bad_batches", "step-2-rank-0")
    assert [len(batch["inputs"]["index"]) for batch in dump["micro_batches"]] == [4, 4]
    assert dump["micro_batches"][micro]["trials"]["rewards"].shape == (32, bandit.PULLS)
    assert "head.bias" in dump["gradients_not_finite"] or kind == "loss inf"
    again, _ = inject(tmp_path, {}, **options | {"max_steps": 8})
    assert again._guard().skipped == 1, "the count outlives a resume"
    assert trainer._guard().consecutive == 0


def test_too_many_in_a_row_end_the_run_with_finite_weights(tmp_path: Path) -> None:
    bad = {(step, 0): "gradient" for step in (1, 3, 4, 5, 6)}
    trainer = bandit.build(tmp_path, Injected, max_skipped_steps=3)
    trainer.bad = bad
    with pytest.raises(MRTError, match=r"3 consecutive updates .* the last at step 5.*bad_batches"):
        trainer.train()
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.parameters())
    assert sorted(path.name for path in (tmp_path / "bad_batches").glob("*.json")) == [
        f"step-{step}-rank-0.json" for step in (1, 3, 4, 5)
    ]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_injections_are_all_caught(tmp_path: Path) -> None:
    rng = random.Random(0)
    steps = rng.sample(range(400), 200)
    kinds = ["loss nan", "loss inf", "gradient", "logits", "advantage"]
    bad = {(step, rng.randrange(2)): rng.choice(kinds) for step in steps}
    options = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 400, "save_steps": 400}
    trainer, digests = inject(tmp_path, bad, max_skipped_steps=50, **options)
    moved = [before != after for before, after in pairwise(digests)]
    assert [step for step, change in enumerate(moved) if not change] == sorted(steps)
    assert all(finite for _, finite in digests)
    assert trainer._guard().skipped == 200
    assert len(list((tmp_path / "bad_batches").glob("*.json"))) == 50


def test_grpo_drops_the_update_and_shows_the_slice_it_was_computed_on(tmp_path: Path) -> None:
    from tests.support import tiny_llm

    class Bad(tiny_llm.GRPO):
        def _compute_loss(self, model: Any, inputs: Any) -> Tensor:
            loss = super()._compute_loss(model, inputs)
            return loss * torch.nan if self.state.global_step == 1 else loss

    trainer = tiny_llm.grpo(tmp_path, Bad, max_steps=3, save_steps=10)
    trainer.train()
    assert [row["guard/skipped_steps"] for row in logged(tmp_path) if "loss" in row] == [1]
    assert all(bool(torch.isfinite(value).all()) for value in trainer.model.parameters())
    batch = load_tree(tmp_path / "bad_batches", "step-1-rank-0")["micro_batches"][0]
    assert len(batch["inputs"]) == 8
    assert batch["buffered"]["completion_ids"].shape[0] == 4
