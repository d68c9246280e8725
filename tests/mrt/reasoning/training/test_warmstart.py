"""The warm start: batches of like lengths, every token weighing the same, traces that may always go on."""

import random
from collections import Counter

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.problems.countdown import Countdown
from mrt.reasoning.training.search_traces import search_traces
from mrt.reasoning.training.warmstart import BUCKET, WarmStartConfig, WarmStartTrainer, bucketed
from mrt.runs.recipe import load_recipe

pytestmark = pytest.mark.training


def test_bucketed_keeps_every_row_and_puts_like_lengths_together():
    rng = random.Random(0)
    lengths = [rng.randint(5, 120) for _ in range(BUCKET * 8 * 2 + 13)]
    order = bucketed(lengths, batch=8, seed=1)
    assert sorted(order) == list(range(len(lengths)))
    assert order == bucketed(lengths, batch=8, seed=1)
    assert order != bucketed(lengths, batch=8, seed=2)
    padded = sum(8 * max(lengths[row] for row in order[i : i + 8]) for i in range(0, len(order) - 8, 8))
    shuffled = rng.sample(order, len(order))
    naive = sum(8 * max(lengths[row] for row in shuffled[i : i + 8]) for i in range(0, len(order) - 8, 8))
    assert padded < 0.7 * naive
    assert len(order[-5:]) == 5  # the odd batch comes last


def test_a_token_of_a_short_batch_weighs_like_one_of_a_long_batch(tmp_path):
    """Losses of single rows add up to the loss of the batch, and are the cross-entropy over the mean tokens a step."""
    small = [
        f"output_dir={tmp_path}",
        "args.max_steps=2",
        "args.per_device_train_batch_size=4",
        "args.save_strategy=no",
    ]
    sizes = ["problems.train=10", "problems.warmstart=20", "problems.test=10", "problems.high=9"]
    trainer = WarmStartTrainer.from_recipe(load_recipe("countdown/warmstart", [*small, *sizes]), tmp_path)
    rows = [trainer.train_dataset[i] for i in (0, 1)]
    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (width - len(row["input_ids"])) for row in rows])
    labels = torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": labels}

    def loss(chosen):
        return float(
            trainer.compute_loss(trainer.model, {k: v[chosen] for k, v in batch.items()}, num_items_in_batch=7)
        )

    assert loss([0, 1]) == pytest.approx(loss([0]) + loss([1]), rel=1e-5)
    learnt = sum(label != -100 for row in trainer.train_dataset for label in row["labels"])
    with torch.no_grad():
        logits = trainer.model(input_ids=ids[:1], attention_mask=batch["attention_mask"][:1]).logits[0, :-1]
    by_hand = torch.nn.functional.cross_entropy(logits, labels[0, 1:], ignore_index=-100, reduction="sum")
    assert loss([0]) == pytest.approx(float(by_hand) / (learnt / 2), rel=1e-5)


def test_a_chance_to_give_up_leaves_no_wall():
    """Of the traces that neither hit nor reach the end of the range, each further attempt keeps a share of 0.7."""
    problems = Countdown(train=0, warmstart=400, test=0)
    traces = [trace for _, trace in search_traces(problems, 4000, (0, 6), seed=0, give_up=0.3)]
    missed = Counter(trace.attempts for trace in traces if not trace.hit)
    assert missed[0] / len(traces) == pytest.approx(0.3, abs=0.03)
    assert set(missed) == set(range(7))
    reached = [sum(trace.attempts >= k for trace in traces) for k in range(4)]
    assert reached[1] / reached[0] == pytest.approx(0.7, abs=0.03)
    some = [trace for _, trace in search_traces(problems, 4000, (0, 6), seed=0, give_up=0.3, patient=0.5)]
    at_once = sum(trace.attempts == 0 for trace in some) / len(some)
    assert at_once == pytest.approx(0.15, abs=0.03)  # only the half that may give up does so before the first attempt
    even = Counter(trace.attempts for _, trace in search_traces(problems, 500, (2, 3), seed=0) if not trace.hit)
    assert set(even) == {2, 3}


@pytest.mark.parametrize("give_up", [-0.1, 1.0])
def test_give_up_is_a_probability(give_up):
    with pytest.raises(ConfigError, match="give_up"):
        search_traces(Countdown(train=0, warmstart=10, test=0), 1, give_up=give_up)
    with pytest.raises(ConfigError, match="patient"):
        search_traces(Countdown(train=0, warmstart=10, test=0), 1, give_up=0.5, patient=1.1)


def test_arguments_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="max_steps"):
        WarmStartConfig(output_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="attempts_low"):
        WarmStartConfig(output_dir=str(tmp_path), max_steps=1, attempts_low=5, attempts_high=2)
