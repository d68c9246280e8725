"""Train and test files are disjoint by text and by numbers, nearly the same texts removed, every row counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mrt.reasoning.problems import load_problems, validate
from mrt.reasoning.problems.word_problem_files import main
from mrt.reasoning.problems.word_problems import numbers_of
from tests.support.shared_folder import shared

THINGS = ("cups", "hats", "nuts", "pens", "toys", "maps", "jars", "figs", "keys", "bags")


def rows() -> list[dict[str, Any]]:
    """Texts that differ in more than their numbers: 90 problems on 45 pairs of numbers."""
    found = []
    for i in range(45):
        a, b = 11 + i, 100 + 7 * i
        one, two, three = (THINGS[(i + k * (1 + i // 10)) % 10] for k in (0, 1, 2))
        found.append(
            {"input": f"{one} {two} {i % 7 * 'so '}: {b} {one} lose {a} {three} . Left {two} ?", "target": b - a}
        )
        found.append(
            {"input": f"{three} {i % 5 * 'and '}{two}: {a} {two} join {b} {one} . All {three} ?", "target": a + b}
        )
    return found


def build(tmp_path: Path, content: list[dict[str, Any]], *options: str) -> tuple[dict[str, Any], list[Any], list[Any]]:
    file, out = tmp_path / "given.jsonl", tmp_path / "out"
    file.write_text("".join(json.dumps(row) + "\n" for row in content))
    assert main(["--source", "given", str(file), "--out", str(out), *options]) == 0
    read = [[json.loads(line) for line in (out / name).open()] for name in ("train.jsonl", "test_given.jsonl")]
    return json.loads((out / "manifest.json").read_text()), *read


def test_the_sides_share_neither_text_nor_numbers(tmp_path: Path) -> None:
    content = [*rows(), rows()[0], {"input": "no number here", "target": 3}]
    manifest, train, test = build(tmp_path, content, "--test", "20", "--near", "1")
    assert len(test) == 20
    assert not {tuple(sorted(numbers_of(row["question"]))) for row in train} & {
        tuple(sorted(numbers_of(row["question"]))) for row in test
    }
    removed, left_out = sum(manifest["removed_from_train"].values()), manifest["left_out"]["given"]
    assert left_out == {"no equation of one step gives its answer": 1, "the text of an earlier row": 1}
    assert len(train) + len(test) + removed + sum(left_out.values()) == len(content)
    assert manifest["problems"] == {"test_given.jsonl": 20, "train.jsonl": len(train)}
    again = build(tmp_path, content, "--test", "20", "--near", "1")[0]
    assert again == manifest
    assert build(tmp_path, content, "--test", "20", "--near", "1", "--seed", "1")[0]["sha256"] != manifest["sha256"]


def test_nearly_the_same_text_leaves_train(tmp_path: Path) -> None:
    same = "{who} has {a} blue marbles in a box and finds {b} more under the old bed . How many marbles has {who} now ?"
    twins = [{"input": same.format(who="Ann", a=3 + k, b=60 + k), "target": 63 + 2 * k} for k in range(10)]
    manifest, train, test = build(tmp_path, [*twins, *rows()], "--test", "30")
    sides = [sum("marbles" in row["question"] for row in side) for side in (train, test)]
    assert sides[1] > 0
    assert sides[0] == 0
    assert manifest["removed_from_train"]["nearly the text of a test problem"] >= 10 - sides[1]


def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "given.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    for argv, message in [
        (["--source", "given", str(file), "--test", "90"], "given has no 90 test problems and a train side"),
        (["--source", "given"], "--source given names no file"),
        (["--source", "given", str(tmp_path / "gone.jsonl")], "no such file"),
        (["--source", "given", str(file), "--near", "2"], "--near above 0"),
    ]:
        assert main([*argv, "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.data
def test_the_published_files(tmp_path: Path) -> None:
    mawps = [str(shared("data", f"mawps_{name}.jsonl")) for name in ("singleop", "addsub")]
    svamp = str(shared("data", "svamp.jsonl"))
    argv = ["--source", "mawps", *mawps, "--source", "svamp", svamp, "--out", str(tmp_path)]
    assert main(argv) == 0
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    read = 562 + 395 + 1000
    counted = [*manifest["problems"].values(), *manifest["removed_from_train"].values()]
    counted += [count for counts in manifest["left_out"].values() for count in counts.values()]
    assert sum(counted) == read
    assert manifest["problems"] == {"test_mawps.jsonl": 250, "test_svamp.jsonl": 250, "train.jsonl": 982}
    for name in manifest["problems"]:
        options = {"columns": {"prompt": "question", "solution": "answer"}, "prompt": "{problem}", "test": 1.0}
        problems = load_problems("files", path=str(tmp_path / name), **options)
        validate(problems, "test", limit=50)
