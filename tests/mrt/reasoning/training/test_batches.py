"""Rows of TRL's batches: chosen, joined, left out."""

import torch

from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.batches import drawn_logprobs, joined, left_out, taken, varying

PAD = 9


def batch(prompts: list[list[int]], completions: list[list[int]]) -> dict:
    width, room = max(map(len, prompts)), max(map(len, completions))
    return {
        "prompt_ids": torch.tensor([[PAD] * (width - len(one)) + one for one in prompts]),
        "prompt_mask": torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts]),
        "completion_ids": torch.tensor([one + [PAD] * (room - len(one)) for one in completions]),
        "completion_mask": torch.tensor([[1] * len(one) + [0] * (room - len(one)) for one in completions]),
        "advantages": torch.arange(1.0, len(prompts) + 1),
        "num_items_in_batch": torch.tensor(sum(map(len, completions))),
    }


def test_parts_of_two_widths_become_one_batch():
    one, two = batch([[1, 2]], [[3]]), batch([[4], [5, 6, 7]], [[8, 8, 8], [8]])
    both = joined([one, two], PAD)
    whole = batch([[1, 2], [4], [5, 6, 7]], [[3], [8, 8, 8], [8]])
    for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask"):
        assert torch.equal(both[name], whole[name]), name
    assert both["advantages"].tolist() == [1.0, 1.0, 2.0]
    rows = taken(both, torch.tensor([2, 0]))
    assert rows["prompt_ids"].tolist() == [[5, 6, 7], [PAD, 1, 2]]
    assert joined([taken(one, torch.tensor([False])), two], PAD)["prompt_ids"].tolist() == two["prompt_ids"].tolist()


def test_a_row_that_is_left_out_is_neither_in_the_loss_nor_in_its_divisor():
    found = left_out(batch([[1], [2]], [[3, 3], [4, 4, 4]]), torch.tensor([True, False]), lambda value: value)
    assert found["completion_mask"].tolist() == [[1, 1, 0], [0, 0, 0]]
    assert found["advantages"].tolist() == [1.0, 0.0]
    assert int(found["num_items_in_batch"]) == 2
    masked = {**batch([[1], [2]], [[3, 3], [4, 4, 4]]), "tool_mask": torch.tensor([[0, 1, 0], [1, 1, 1]])}
    masked["advantages"] = torch.ones(2, 3)
    found = left_out(masked, torch.tensor([True, False]), lambda value: value)
    assert int(found["num_items_in_batch"]) == 1
    assert found["advantages"].tolist() == [[1.0] * 3, [0.0] * 3]


def test_groups_that_vary():
    nan = float("nan")
    rewards = torch.tensor([0.0, 1.0, 1.0, 1.0, nan, 0.0, nan, nan, 0.2, 0.3])
    assert varying(rewards, 2).tolist() == [True, True] + [False] * 6 + [True, True]


def test_log_probabilities_that_were_drawn():
    trials = [Trial([3, 4], logprobs=[-0.5, -1.0]), Trial([5])]
    assert drawn_logprobs(trials, torch.zeros(2, 3, dtype=torch.long)).tolist() == [[-0.5, -1.0, 0.0], [0.0] * 3]
