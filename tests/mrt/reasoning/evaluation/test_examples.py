"""Few-shot prompts: where the examples come from, that none of them is measured, and how they are written."""

import json
from pathlib import Path
from typing import Any

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.evaluation.config import EvalConfig
from mrt.reasoning.evaluation.examples import Examples, find_examples
from mrt.reasoning.problems import Files, Problem, load_problems
from mrt.reasoning.traces.prompts import render
from tests.support.latex_tokenizer import latex_tokenizer

TAGS = ("<think>", "</think>")
SOLVED = Problem("k", "1+1?", "2", {"worked": "One and one are two."})
ASKED = Problem("a", "2+2?", "4")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def config(**changed: Any) -> EvalConfig:
    return EvalConfig("m", "files", budgets=(0, 4), **changed)


def test_as_turns_and_as_text() -> None:
    assert Examples()(ASKED, TAGS) == [{"role": "user", "content": "2+2?"}]
    turns = Examples([SOLVED])(ASKED, TAGS)
    assert [turn["role"] for turn in turns] == ["user", "assistant", "user"]
    assert turns[1]["content"] == "<think>\nOne and one are two.\n</think>\n\n\\boxed{2}"
    (only,) = Examples([SOLVED], "text")(ASKED, TAGS)
    assert only["content"] == "Problem: 1+1?\nSolution: One and one are two. \\boxed{2}\n\nProblem: 2+2?"
    bare = Examples([Problem("k", "1+1?", "2")], "turns")(ASKED, TAGS)[1]["content"]
    assert bare == "<think>\n</think>\n\n\\boxed{2}"


@pytest.mark.parametrize("way", ["turns", "text"])
def test_in_the_format_of_a_model(way: str) -> None:
    tokenizer = latex_tokenizer()
    text = tokenizer.decode(render(tokenizer, Examples([SOLVED], way)(ASKED, TAGS), tags=TAGS))
    assert text.index("1+1?") < text.index("\\boxed{2}") < text.index("2+2?")
    assert text.count("<|im_start|>user") == (2 if way == "turns" else 1)


def test_from_a_split_and_from_a_file(tmp_path: Path) -> None:
    marked = [{"q": f"{n}+1?", "a": f"We add <<{n}+1={n + 1}>>one.\n#### {n + 1}"} for n in range(6)]
    dials = {"columns": {"prompt": "q", "solution": "a", "worked": "a"}, "answer_after": "####", "prompt": "{problem}"}
    path = write(tmp_path / "test.jsonl", marked[:4])
    measured = load_problems("files", path=path, test=1.0, **dials)
    asked = {"dials": {**dials, "path": path, "test": 1.0}, "shots": 2}
    file = write(tmp_path / "train.jsonl", marked[3:])
    found = find_examples(measured, measured.problems("test"), config(shots_from=file, **asked))
    assert [(one.prompt, one.solution, one.data["worked"]) for one in found.solved] == [
        ("4+1?", "5", "We add one."), ("5+1?", "6", "We add one."),
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"shots=2 examples are asked for, but train has 0"):
        find_examples(measured, measured.problems("test"), config(shots_from="train", **asked))
    few = find_examples(measured, measured.problems("test")[:2], config(shots_from="test", **asked))
    assert [one.prompt for one in few.solved] == ["2+1?", "3+1?"]  # of the same split, but not measured
    with pytest.raises(ConfigError, match=r"must be a split .* or a file"):
        find_examples(measured, [], config(shots_from="elsewhere", **asked))


@pytest.mark.parametrize("wrong", [{"shots": 2}, {"shots_from": "train"}, {"shots": -1, "shots_from": "train"},
                                   {"shots": 1, "shots_from": "train", "shots_as": "verse"}])  # fmt: skip
def test_mistakes(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="shots="):
        config(**wrong)


def test_boxes_are_one_option_of_the_problem_set(tmp_path: Path) -> None:
    """Training rewards, probes and evaluation all grade through the set."""
    path = write(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}])
    text = "First \\boxed{3}.\n\nCorrecting: \\boxed{2}."
    rewards = {}
    for boxes in ("last", "all"):
        problem_set = load_problems("files", path=path, test=1.0, boxes=boxes)
        assert isinstance(problem_set, Files)
        rewards[boxes] = problem_set.grade(problem_set.problems("test")[0], text).reward
    assert rewards == {"last": 1.0, "all": 0.0}
    with pytest.raises(ConfigError, match="boxes must be one of last, all"):
        Files(path, boxes="first")
