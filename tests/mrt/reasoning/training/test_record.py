"""The record of a generation batch: log-probabilities of what was drawn, and what every row cost."""

import math

import pytest
import torch

from mrt.reasoning.traces.sample_row import SampleRow
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.record import build_trials
from tests.mrt.reasoning.training.test_trainer import mrt, spy

OUTPUT = {
    "prompt_ids": torch.tensor([[0, 5, 6], [5, 6, 7]]),
    "prompt_mask": torch.tensor([[0, 1, 1], [1, 1, 1]]),
    "completion_ids": torch.tensor([[8, 9, 10, 11], [8, 9, 0, 0]]),
    "completion_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]),
}


def trials(logprobs=True):
    one = Trial([8, 9, 10, 11], 0, [2, 4], stop_values=[0.1, math.nan, 0.3], errors=[0.0] * 3)
    two = Trial([8, 9], 0, [2], stop_values=[0.1, 0.2], errors=[0.0] * 2)
    if logprobs:
        one.logprobs, two.logprobs = [-1.0, -2.0, -3.0, -4.0], [-5.0, 0.0]
    return [one, two]


def test_log_probabilities_stand_at_the_step_that_drew_the_token():
    """Step t sees ids[:t+1] and takes ids[t+1]: the first completion token is taken at step P - 1 = 2."""
    record = build_trials(OUTPUT, trials(), torch.ones(2), 2)
    assert record.logprobs.tolist() == [[0, 0, -1, -2, -3, -4], [0, 0, -5, 0, 0, 0]]
    assert build_trials(OUTPUT, trials(False), torch.ones(2), 2).logprobs is None


def test_rows_share_what_the_batch_cost():
    """Sampled by the tokens of prompt and completion (6 and 5), probed by the boundaries measured (2 and 2)."""
    record = build_trials(OUTPUT, trials(), torch.ones(2), 2, spent={"sampled": 110, "probed": 30})
    assert record.cost["sampled"].tolist() == pytest.approx([60, 50])
    assert record.cost["probed"].tolist() == pytest.approx([15, 15])
    nothing = build_trials(OUTPUT, [Trial([8, 9, 10, 11]), Trial([8, 9])], torch.ones(2), 2, spent={"probed": 0})
    assert nothing.cost["probed"].tolist() == [0, 0]


def test_a_trainers_record_holds_both(tmp_path):
    trainer, seen = mrt(tmp_path, probe="gold", max_steps=1), []
    spy(trainer, lambda output, record: seen.append(record))
    trainer.train()
    (record,) = seen
    cost = trainer.cost()
    assert float(record.cost["sampled"].sum()) == pytest.approx(cost["sampled"])
    assert float(record.cost["probed"].sum()) == pytest.approx(cost["probed"])
    assert (record.logprobs[record.mask] < 0).all()
    assert (record.logprobs[~record.mask] == 0).all()


def test_a_row_knows_what_was_drawn_and_what_was_given():
    row = SampleRow([1, 2])
    row.draw([3], [-0.5])
    row.give([4, 5])
    row.draw([6], [-0.7], trained=False)
    assert row.context == [1, 2, 3, 4, 5, 6]
    assert row.logprobs == [-0.5, 0.0, 0.0, -0.7]
    assert row.chosen == [1, 0, 0, 0]
