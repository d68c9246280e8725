"""The record: shapes are checked at birth, rows and batches keep every field."""

import pytest
import torch

from mrt.trials import Stop, Trials, concatenate


def make(rows=4, steps=5, episodes=2, **changed) -> Trials:
    episode = torch.arange(steps).expand(rows, steps) * episodes // steps
    fields = {
        "inputs": {"observation": torch.randn(rows, steps, 3)},
        "actions": torch.arange(rows * steps).reshape(rows, steps),
        "rewards": torch.ones(rows, steps),
        "mask": torch.ones(rows, steps, dtype=torch.bool),
        "episode": episode,
        "group": torch.arange(rows) // 2,
        "stop_values": torch.zeros(rows, episodes + 1),
        "stop": torch.zeros(rows, episodes, dtype=torch.int8),
        "cost": {"sampled": torch.ones(rows)},
        "task_keys": tuple(f"task{i // 2}" for i in range(rows)),
    }
    return Trials(**{**fields, **changed})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rewards", torch.zeros(4, 6)),
        ("mask", torch.ones(3, 5, dtype=torch.bool)),
        ("group", torch.zeros(5, dtype=torch.long)),
        ("stop_values", torch.zeros(4, 2)),
        ("stop", torch.zeros(3, 2)),
        ("scored", torch.ones(4, 1, dtype=torch.bool)),
        ("task_keys", ("one",)),
    ],
)
def test_a_wrong_shape_names_its_field(name, value):
    with pytest.raises(ValueError, match=name):
        make(**{name: value})


def test_mask_has_to_be_bool():
    with pytest.raises(ValueError, match="bool"):
        make(mask=torch.ones(4, 5))


def test_episodes_and_returns():
    trials = make(scored=torch.tensor([True, True, False, True]))
    assert trials.episodes.tolist() == [2, 2, 2, 2]
    assert trials.returns[0] == 5
    assert trials.returns[2].isnan()


def test_rows_keep_every_field():
    trials = make()
    picked = trials.rows(torch.tensor([3, 0]))
    assert picked.task_keys == ("task1", "task0")
    assert torch.equal(picked.actions, trials.actions[[3, 0]])
    assert torch.equal(picked.inputs["observation"], trials.inputs["observation"][[3, 0]])
    assert torch.equal(trials.rows(slice(1, 3)).group, torch.tensor([0, 1]))
    assert len(trials.rows(torch.tensor([True, False, False, True]))) == 2


def test_concatenate_pads_steps_and_episodes():
    both = concatenate([make(steps=5, episodes=2), make(steps=8, episodes=3)])
    assert both.actions.shape == (8, 8)
    assert both.episode[0].tolist() == [0, 0, 0, 1, 1, -1, -1, -1]
    assert both.stop_values[0, 3].isnan()
    assert both.stop[0].tolist() == [Stop.TERMINATED, Stop.TERMINATED, Stop.PADDING]
    assert not both.mask[0, 5:].any()
    assert torch.equal(both.rows(slice(4, 8)).actions, make(steps=8, episodes=3).actions)


def test_concatenate_refuses_different_fields():
    with pytest.raises(ValueError, match="stop_values"):
        concatenate([make(), make(stop_values=None)])


def test_by_task_groups_rows_and_refuses_ragged_groups():
    trials = make(group=torch.tensor([7, 3, 7, 3]))
    grouped = trials.by_task()
    assert grouped["actions"].shape == (2, 2, 5)
    assert torch.equal(grouped["actions"][1], trials.actions[[1, 3]])
    assert grouped["inputs/observation"].shape == (2, 2, 5, 3)
    with pytest.raises(ValueError, match=r"\[1, 3\]"):
        make(group=torch.tensor([7, 7, 7, 3])).by_task()
