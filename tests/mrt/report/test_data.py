"""Reading evaluation and run directories: checks, names, the seeded draw, and what never reaches the page."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrt.errors import DataError
from mrt.report import data as report_data
from mrt.report.data import Arm, Estimate, embed, flatten, number, read_arms, read_json, read_jsonl, read_runs
from mrt.report.data import settings as settings_of


def arm_of(folder: Path, keys: list[str], **row: Any) -> Arm:
    folder.mkdir()
    lines = [json.dumps({"key": key, "sample": 0, "verdict": "wrong", **row}) for key in keys]
    (folder / "samples.jsonl").write_text("\n".join(lines))
    return Arm(folder.name, 1, folder)


def keys_of(encoded: list[str]) -> list[str]:
    return [json.loads(text)["key"] for text in encoded]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"key": ', "line 2: not JSON"),
        ("[1]", "line 2: a JSON object was expected, found list"),
        ("[" * 100_000, "line 2: not JSON"),
        ("\udcff", "line 2: not JSON"),
        ("1" * 5000, "line 2: not JSON"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, line: str, said: str) -> None:
    path = tmp_path / "samples.jsonl"
    path.write_bytes(b'{"key": "a"}\n' + line.encode("utf-8", "surrogateescape") + b"\n")
    with pytest.raises(DataError, match=said) as caught:
        list(read_jsonl(path))
    assert str(path) in str(caught.value)


def test_lines_are_numbered_and_blank_ones_skipped(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1}\n\n{"step": 2}\n')
    assert list(read_jsonl(tmp_path / "m.jsonl")) == [(1, {"step": 1}), (3, {"step": 2})]
    assert list(read_jsonl(tmp_path / "missing.jsonl")) == []


def test_a_broken_or_newer_object_is_named(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    assert read_json(path) == {}
    path.write_text('{"name": "a",\n "n": }')
    with pytest.raises(DataError, match=r"eval\.json, line 2"):
        read_json(path)
    path.write_text('{"schema_version": 2}')
    with pytest.raises(DataError, match="schema_version 2"):
        read_json(path)


def test_a_sample_without_a_key_is_named(tmp_path: Path) -> None:
    arm = arm_of(tmp_path / "a", ["x"])
    with (arm.folder / "samples.jsonl").open("a") as lines:
        lines.write('\n{"key": 7}')
    with pytest.raises(DataError, match="line 2, column 'key'"):
        report_data.stored_problems([arm], 10, 0)


def test_names_and_colours(tmp_path: Path) -> None:
    for folder, name in (("one", "mrt"), ("two", "mrt"), ("three", None)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "eval.json").write_text(json.dumps({"name": name}))
    arms, chosen = read_arms([tmp_path / name for name in ("one", "two", "three")], None)
    assert [(arm.name, arm.colour) for arm in arms] == [("mrt", 0), ("mrt (2)", 1), ("three", 2)]
    assert chosen == "mrt"
    arms, _ = read_arms([tmp_path / "one", tmp_path / "three"], "three")
    assert [(arm.name, arm.colour) for arm in arms] == [("mrt", 1), ("three", 0)]
    assert read_arms([tmp_path / "one"], None)[0][0].colour == 1  # alone, it need not be grey
    assert read_arms([], None) == ([], "")


def test_a_resumed_run_counts_each_step_once(tmp_path: Path) -> None:
    rows = [{"step": 2, "reward": 1}, {"step": 1, "reward": 5}, {"step": 2, "reward": 3}, {"reward": 9}]
    (tmp_path / "mrt").mkdir()
    (tmp_path / "mrt" / "metrics.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (run,) = read_runs([tmp_path / "mrt"], [Arm("grpo", 0, tmp_path), Arm("mrt", 4, tmp_path)])
    assert [row["reward"] for row in run.metrics] == [5, 3]
    assert (run.name, run.colour) == ("mrt", 4)
    with pytest.raises(DataError, match="holds no training run"):
        read_runs([tmp_path], [])


def test_the_draw_depends_on_seed_and_key_alone(tmp_path: Path) -> None:
    keys = [f"k{place}" for place in range(50)]
    forwards, backwards = arm_of(tmp_path / "a", keys), arm_of(tmp_path / "b", keys[::-1])
    first, total = report_data.stored_problems([forwards], 10, 0)
    assert (len(first), total) == (10, 50)
    assert keys_of(first) == sorted(keys_of(first), key=keys.index)  # in the order of the file
    assert set(keys_of(report_data.stored_problems([backwards, forwards], 10, 0)[0])) == set(keys_of(first))
    assert set(keys_of(report_data.stored_problems([forwards], 10, 1)[0])) != set(keys_of(first))
    assert set(keys_of(first)) < set(keys_of(report_data.stored_problems([forwards], 20, 0)[0]))


def test_traces_stop_at_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arm = arm_of(tmp_path / "a", [f"k{place}" for place in range(20)], thought="x" * 1000)
    monkeypatch.setattr(report_data, "TRACE_BYTES", 5500)  # a problem takes a little over 1000
    encoded, total = report_data.stored_problems([arm], 20, 0)
    assert (len(encoded), total) == (5, 20)


def test_a_sample_written_twice_is_shown_once(tmp_path: Path) -> None:
    arm = arm_of(tmp_path / "a", ["x", "x"])
    with (arm.folder / "samples.jsonl").open("a") as lines:
        lines.write(
            '\n{"key": "x", "sample": 0, "verdict": "correct"}\n{"key": "x", "sample": 1, "verdict": "timeout"}'
        )
    (encoded,), _ = report_data.stored_problems([arm], 5, 0)
    assert [one["verdict"] for one in json.loads(encoded)["samples"][0]] == ["correct", "timeout"]


def test_embed_round_trips_and_cannot_end_a_script() -> None:
    value = {"a": "</script>&<!--\u2028", "b": [0.123456, float("nan"), float("inf"), None, True], "c": {"d": 7}}
    text = embed(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == {"a": "</script>&<!--\u2028", "b": [0.1235, None, None, None, True], "c": {"d": 7}}


def test_numbers_and_estimates() -> None:
    odd = [True, "1", None, float("nan"), float("-inf"), 10**400]
    assert [number(value) for value in odd] == [None] * 6
    assert number(3) == 3.0
    assert Estimate.read({"mean": 2, "low": 1, "high": "x"}) == Estimate(2, 1, None)
    assert Estimate.read(0.5) == Estimate(0.5)
    assert Estimate(2, 1, 4).inverse() == Estimate(0.5, 0.25, 1)
    assert Estimate(0, None, 4).inverse() == Estimate(None, 0.25, None)


def test_environment_variables_never_show() -> None:
    stored = {"recipe": {"env": {"size": 5}, "environ": {"HF_TOKEN": "secret"}}, "environment": {"PATH": "/bin"}}
    assert settings_of(stored) == {
        "recipe": {"env": {"size": 5}, "environ": "(environment variables are left out)"},
        "environment": "(environment variables are left out)",
    }
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": "x" * 200, "e": {}}) == {
        "a.b": "1", "a.c": "[1, 2]", "d": "x" * 159 + "…", "e": "{}",
    }  # fmt: skip
