"""Replay: what goes in comes out, whole rows go, transitions are right over the ends of episodes, saves share."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mrt.errors import CheckpointError, ConfigError
from mrt.replay import Replay
from mrt.training import checkpoint as ckpt
from mrt.training.shards import hashed_inside
from mrt.trials import Stop, Trials

STOPS = (Stop.TERMINATED, Stop.TRUNCATED, Stop.BUDGET)


def play(rows: list[tuple[int, list[tuple[int, Stop]]]], first: int = 0, pad: int = 0) -> Trials:
    """Rows of (task, [(actions in the episode, how it ended), ...]), each episode with its closing row.

    The observation of a step is a number that no other step has, counted from `first`.
    """
    width = max(sum(n + 1 for n, _ in episodes) for _, episodes in rows) + pad
    table: dict[str, list[list[float]]] = {name: [] for name in ("observation", "mask", "episode")}
    stop = torch.full((len(rows), max(len(e) for _, e in rows)), -1, dtype=torch.int8)
    count = first
    for i, (_, episodes) in enumerate(rows):
        line: dict[str, list[float]] = {name: [] for name in table}
        for k, (n, how) in enumerate(episodes):
            line["observation"] += [count + j for j in range(n + 1)]
            line["mask"] += [1] * n + [0]
            line["episode"] += [k] * (n + 1)
            stop[i, k], count = int(how), count + n + 1
        missing = width - len(line["mask"])
        for name, fill in (("observation", -7), ("mask", 0), ("episode", -1)):
            table[name].append(line[name] + [fill] * missing)
    observation = torch.tensor(table["observation"])[..., None]
    task = torch.tensor([t for t, _ in rows])
    return Trials(
        inputs={"observation": observation, "reward": observation[..., 0] * 2, "goal": -observation},
        actions=observation * 10,
        rewards=observation[..., 0] * 3,
        mask=torch.tensor(table["mask"]).bool(),
        episode=torch.tensor(table["episode"]).long(),
        group=torch.arange(len(rows)),
        task=task,
        values=observation[..., 0] + 0.5,
        stop=stop,
        trial_stop=stop[:, 0].clone(),
        privileged={"dense": observation[..., 0] - 1, "oracle": torch.zeros(len(rows))},
    )


EPISODES = st.lists(st.tuples(st.integers(1, 4), st.sampled_from(STOPS)), min_size=1, max_size=3)
ROWS = st.lists(st.tuples(st.integers(0, 2), EPISODES), min_size=1, max_size=4)


def expected(batches: list[Trials], capacity: int) -> tuple[list[tuple[int, Trials]], dict[int, tuple[Any, ...]]]:
    """By a plain loop: the rows that are left, oldest first, and {observation: transition} of their acting steps."""
    rows = [(int((t.episode[i] >= 0).sum()), t.rows([i])) for t in batches for i in range(len(t))]
    while sum(length for length, _ in rows) > capacity:
        rows.pop(0)
    moves = {}
    for length, row in rows:
        for t in range(length):
            if row.mask[0, t]:
                k = int(row.episode[0, t])
                last = not row.mask[0, t + 1]
                dead = last and row.stop is not None and int(row.stop[0, k]) == Stop.TERMINATED
                here, then = (int(row.inputs["observation"][0, s, 0]) for s in (t, t + 1))
                moves[here] = (then, here * 10, here * 3, dead, int(row.task[0]), k)
    return rows, moves


@settings(max_examples=60, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=5), st.integers(15, 60), st.integers(0, 2))
def test_every_step_comes_back_and_only_whole_rows_go(rows: list[Any], capacity: int, pad: int) -> None:
    batches, count = [], 0
    for batch in rows:
        batches.append(play(batch, count, pad))
        count += 1000
    replay = Replay(capacity, keep=["dense"])
    for batch in batches:
        replay.add(batch)
    left, moves = expected(batches, capacity)
    assert len(replay) == len(left)
    drawn = replay.rows(60 * len(left), torch.Generator().manual_seed(0))
    found = set()
    for i, first in enumerate(drawn.inputs["observation"][:, 0, 0].int().tolist()):
        if first in found:
            continue
        length, row = next(r for r in left if int(r[1].inputs["observation"][0, 0, 0]) == first)
        found.add(first)
        assert int((drawn.episode[i] >= 0).sum()) == length
        assert not drawn.mask[i, length:].any()
        for name in ("actions", "rewards", "mask", "episode", "values"):
            assert torch.equal(getattr(drawn, name)[i, :length], getattr(row, name)[0, :length])
        assert torch.equal(drawn.inputs["goal"][i, :length], row.inputs["goal"][0, :length])
        assert torch.equal(drawn.privileged["dense"][i, :length], row.privileged["dense"][0, :length])
        kept = row.stop[0][row.stop[0] >= 0]
        assert torch.equal(drawn.stop[i][drawn.stop[i] >= 0], kept)
        assert drawn.stop.dtype == torch.int8
        assert int(drawn.task[i]) == int(drawn.group[i]) == int(row.task[0])
        assert int(drawn.trial_stop[i]) == int(row.trial_stop[0])
        assert drawn.values[i, length:].isnan().all()
    assert len(found) == len(left), "each row is drawn now and then"
    steps = replay.steps(100 * len(moves), torch.Generator().manual_seed(1))
    assert set(steps["observation"][:, 0].int().tolist()) == set(moves), "each transition is drawn now and then"
    for here, i in {here: i for i, here in enumerate(steps["observation"][:, 0].int().tolist())}.items():
        then, action, reward, dead, task, episode = moves[here]
        assert steps["next_observation"][i, 0] == then
        assert steps["next_goal"][i, 0] == -then
        assert steps["action"][i, 0] == action
        assert steps["reward"][i] == reward
        assert bool(steps["terminated"][i]) == dead
        assert steps["task"][i] == task
        assert steps["episode"][i] == episode
        assert steps["values"][i] == here + 0.5
        assert steps["dense"][i] == here - 1
    for task in {move[4] for move in moves.values()}:
        mine = replay.steps(50, torch.Generator().manual_seed(2), tasks=[task])
        assert set(mine["task"].tolist()) == {task}
        newest = [row for _, row in left if int(row.task[0]) == task][-1]
        recent = replay.steps(20, torch.Generator().manual_seed(2), tasks=[task], recent=1)
        assert set(recent["observation"][:, 0].tolist()) <= set(newest.inputs["observation"][0, :, 0].tolist())


def test_by_hand_terminated_cuts_and_truncated_does_not() -> None:
    replay = Replay(100)
    replay.add(
        play([(4, [(1, Stop.TERMINATED), (2, Stop.TRUNCATED), (1, Stop.BUDGET)])])
    )  # steps 0 | 1 2 3 | 4 5 6, ...
    steps = replay.steps(200, torch.Generator().manual_seed(0))
    table = {
        tuple(row)
        for row in zip(
            steps["observation"][:, 0].int().tolist(),
            steps["next_observation"][:, 0].int().tolist(),
            steps["terminated"].tolist(),
            strict=True,
        )
    }
    assert table == {(0, 1, True), (2, 3, False), (3, 4, False), (5, 6, False)}


def test_transitions_are_drawn_evenly_and_tasks_in_the_order_asked() -> None:
    replay = Replay(1000)
    replay.add(play([(0, [(1, Stop.TRUNCATED)]), (1, [(9, Stop.TRUNCATED)]), (0, [(5, Stop.TRUNCATED)])]))
    counts = torch.bincount(replay.steps(15000, torch.Generator().manual_seed(0))["observation"][:, 0].long())
    assert (counts[counts > 0] - 1000).abs().max() < 150
    assert int((counts > 0).sum()) == 15
    rows = replay.rows(4, torch.Generator().manual_seed(0), tasks=[1, 0])
    assert rows.task.tolist() == [1] * 4 + [0] * 4
    assert rows.by_task()["actions"].shape[:2] == (2, 4)
    assert replay.steps(3, tasks=torch.tensor([0, 1]))["task"].tolist() == [0] * 3 + [1] * 3


def test_the_tasks_that_are_stored_are_known() -> None:
    replay, known = Replay(20), []
    assert replay.tasks.tolist() == []
    for task in (7, 2, 7, 5):  # there is room for two
        replay.add(play([(task, [(9, Stop.TRUNCATED)])]))
        known.append(replay.tasks.tolist())
    assert known == [[7], [2, 7], [2, 7], [5, 7]]


def test_windows() -> None:
    replay = Replay(1000)
    replay.add(play([(0, [(9, Stop.TERMINATED)]), (0, [(2, Stop.TRUNCATED)])]))
    windows = replay.rows(400, torch.Generator().manual_seed(0), length=4)
    starts = windows.inputs["observation"][:, 0, 0].int()
    assert windows.actions.shape[:2] == (400, 4)
    assert set(starts.tolist()) == {0, 1, 2, 3, 4, 5, 6, 10}
    short = starts == 10
    assert (windows.episode[short][:, :3] == 0).all()
    assert (windows.episode[short][:, 3] == -1).all()
    assert (windows.stop[starts == 6] == Stop.TERMINATED).all()
    assert (windows.stop[starts == 3] == Stop.PADDING).all()
    assert torch.equal(windows.inputs["observation"][~short][:, 3, 0].int(), starts[~short] + 3)


def test_a_row_of_tokens_without_closing_row_is_kept_whole() -> None:
    """Prompts are outside any episode, and the last token is an action without a next step."""
    trials = Trials(
        inputs={"input_ids": torch.tensor([[1, 2, 3, 4, 0]])},
        actions=torch.tensor([[2, 3, 4, 5, 0]]),
        rewards=torch.zeros(1, 5),
        mask=torch.tensor([[False, False, True, True, False]]),
        episode=torch.tensor([[-1, -1, 0, 0, -1]]),
        group=torch.zeros(1, dtype=torch.long),
    )
    replay = Replay(10)
    replay.add(trials)
    back = replay.rows(1)
    assert torch.equal(back.inputs["input_ids"], torch.tensor([[1, 2, 3, 4]]))
    assert back.mask.sum() == 2
    assert replay.steps(4)["next_input_ids"].tolist() == [4] * 4


def test_mistakes_are_told() -> None:
    replay = Replay(10)
    with pytest.raises(ValueError, match="empty"):
        replay.steps(1)
    with pytest.raises(ConfigError, match="12 steps is longer than capacity_steps=10"):
        replay.add(play([(0, [(11, Stop.TRUNCATED)])]))
    with pytest.raises(ConfigError, match="at least 1"):
        Replay(0)
    replay.add(play([(0, [(3, Stop.TRUNCATED)])]))
    with pytest.raises(ValueError, match="no rows of task 5"):
        replay.rows(1, tasks=[0, 5])
    other = play([(0, [(3, Stop.TRUNCATED)])])
    other.inputs.pop("goal")  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="inputs/goal"):
        replay.add(other)
    replay.add(play([(0, [(3, Stop.TRUNCATED)])]))
    assert len(replay) == 2


# ---- saving


def filled(adds: int, capacity: int = 60, start: int = 0, replay: Replay | None = None) -> Replay:
    replay = Replay(capacity) if replay is None else replay
    for i in range(start, start + adds):
        replay.add(play([(i % 3, [(1 + i % 4, STOPS[i % 3])]), (0, [(2, Stop.TERMINATED)])], first=100 * i))
    return replay


def assert_draw_alike(left: Replay, right: Replay) -> None:
    for tasks, recent in ((None, None), ([0, 1], None), ([2], 2), (None, 3)):
        a, b = (r.steps(50, torch.Generator().manual_seed(3), tasks, recent) for r in (left, right))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
        a, b = (r.rows(20, torch.Generator().manual_seed(4), tasks, recent, 3) for r in (left, right))
        assert all(
            torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(*(_tensors(r) for r in (a, b)), strict=True)
        )
    assert len(left) == len(right)


def _tensors(trials: Trials) -> list[torch.Tensor]:
    names = ("actions", "rewards", "mask", "episode", "values", "stop", "task", "trial_stop", "scored")
    return [getattr(trials, name) for name in names]


def test_saves_write_what_is_new_share_the_rest_and_come_back(tmp_path: Path) -> None:
    replay, folders = Replay(60), [tmp_path / str(i) for i in range(6)]
    for i, folder in enumerate(folders):
        filled(3, start=3 * i, replay=replay)
        previous = folders[i - 1] if i else None
        expected_bytes = replay.unsaved_bytes(previous)
        replay.save_shards(folder, previous)
        new = [path for path in folder.glob("*.safetensors") if path.stat().st_nlink == 1]
        assert len(new) == 1, "one new shard a save"
        assert expected_bytes * 0.5 < new[0].stat().st_size < 3000 + 2 * expected_bytes
    assert len(list(folders[-1].glob("*.safetensors"))) < 6, "shards without a live row are left out"
    assert hashed_inside(tmp_path).keys() >= {f"5/{path.name}" for path in folders[-1].glob("*.safetensors")}
    back = Replay(60)
    back.load_shards(folders[-1])
    assert_draw_alike(replay, back)
    for either in (replay, back):  # and both go on alike, on disk too
        filled(4, start=30, replay=either)
    assert_draw_alike(replay, back)
    replay.save_shards(tmp_path / "a", folders[-1])
    back.save_shards(tmp_path / "b", folders[-1])
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()


def test_nothing_new_writes_nothing_and_an_empty_one_comes_back(tmp_path: Path) -> None:
    empty = Replay(60)
    empty.save_shards(tmp_path / "0", None)
    replay = filled(3)
    replay.load_shards(tmp_path / "0")
    assert len(replay) == 0
    filled(3, replay=replay).save_shards(tmp_path / "1", tmp_path / "0")
    replay.save_shards(tmp_path / "2", tmp_path / "1")
    assert replay.unsaved_bytes(tmp_path / "1") == 0
    assert [path.stat().st_nlink for path in (tmp_path / "2").glob("*.safetensors")] == [2]


@pytest.mark.parametrize("damage", ["missing", "torn", "altered"])
def test_a_damaged_shard_is_named(damage: str, tmp_path: Path) -> None:
    filled(3).save_shards(tmp_path / "0", None)
    (shard,) = (tmp_path / "0").glob("*.safetensors")
    content = shard.read_bytes()
    shard.unlink()
    if damage != "missing":
        shard.write_bytes(content[:-9] if damage == "torn" else content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    with pytest.raises(CheckpointError, match=shard.name):
        Replay(60).load_shards(tmp_path / "0")


@pytest.mark.parametrize("damage", ["gone", "missing", "torn"])
def test_a_damaged_previous_save_is_not_built_upon(damage: str, tmp_path: Path) -> None:
    replay = filled(3)
    replay.save_shards(tmp_path / "0", None)
    (shard,) = (tmp_path / "0").glob("*.safetensors")
    if damage == "torn":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        (shard if damage == "missing" else tmp_path / "0" / ckpt.MANIFEST).unlink()
    replay.save_shards(tmp_path / "1", tmp_path / "0")
    back = Replay(60)
    back.load_shards(tmp_path / "1")
    assert_draw_alike(replay, back)


def test_without_hard_links_shards_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: Any, **kwargs: Any) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", refused)
    replay = filled(2)
    replay.save_shards(tmp_path / "0", None)
    filled(2, start=2, replay=replay).save_shards(tmp_path / "1", tmp_path / "0")
    back = Replay(60)
    back.load_shards(tmp_path / "1")
    assert_draw_alike(replay, back)


def test_many_small_shards_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mrt.training.shards.MOST_SHARDS", 3)
    replay = Replay(10_000)
    for i in range(5):
        filled(1, start=i, replay=replay).save_shards(tmp_path / str(i), tmp_path / str(i - 1) if i else None)
    assert [len(list((tmp_path / str(i)).glob("*.safetensors"))) for i in range(5)] == [1, 2, 3, 1, 2]


def test_a_draw_of_256_from_a_million_steps_is_fast() -> None:
    rows, steps = 500, 100
    trials = play([(i % 50, [(steps - 1, Stop.TRUNCATED)]) for i in range(rows)])
    replay = Replay(1_000_000)
    for _ in range(20):
        replay.add(trials)
    assert len(replay) == 10_000
    assert replay.nbytes < 60_000_000
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        replay.steps(256)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.001, times
