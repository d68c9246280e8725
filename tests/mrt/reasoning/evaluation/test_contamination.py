"""n-gram overlap with training data, counted by hand."""

import json

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.evaluation.contamination import bare_text, contamination_report, ngrams, words_of
from mrt.reasoning.problems import load_problems


def files(tmp_path, texts):
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps({"problem": text, "answer": "1"}) + "\n" for text in texts))
    return load_problems("files", path=str(path), test=1.0)


def test_words_and_ngrams():
    assert words_of("Let $x_1 = 3$; find X!") == ["let", "x", "1", "3", "find", "x"]
    assert ngrams("a b c d", 3) == [("a", "b", "c"), ("b", "c", "d")]
    assert ngrams("a b", 3) == [("a", "b")]  # fewer words than n: all of them
    assert ngrams("?!", 3) == []


def test_overlap_by_hand(tmp_path):
    problem_set = files(tmp_path, ["one two three four five", "six seven", "eight nine ten eleven"])
    train = tmp_path / "train.jsonl"
    rows = [{"text": "nothing"}, {"messages": [{"content": "zero ONE, two three four!"}]}, {"t": "said six seven."}]
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problems = problem_set.problems("test")
    report = contamination_report(problem_set, problems, [train], n=3)
    by_text = {bare_text(problem_set, one): report["problems"][one.key] for one in problems}
    assert by_text["one two three four five"] == {"overlap": 2 / 3, "ngrams": 3, "where": "train.jsonl, row 2"}
    assert by_text["six seven"] == {"overlap": 1.0, "ngrams": 1, "where": "train.jsonl, row 3"}
    assert by_text["eight nine ten eleven"]["overlap"] == 0.0
    assert (report["contaminated"], report["rows"], report["n"]) == (2, 3, 3)


def test_the_words_of_the_prompt_do_not_count(tmp_path):
    problem_set = files(tmp_path, ["alpha beta gamma"])
    (problem,) = problem_set.problems("test")
    assert "reason step by step" in problem.prompt
    assert bare_text(problem_set, problem) == "alpha beta gamma"
    train = tmp_path / "train.jsonl"
    train.write_text(json.dumps({"text": problem.prompt.replace("alpha", "omega")}) + "\n")
    assert contamination_report(problem_set, [problem], [train], n=3)["contaminated"] == 0


def test_mistakes_are_named(tmp_path):
    problem_set = files(tmp_path, ["a b"])
    with pytest.raises(ConfigError, match="no such training file"):
        contamination_report(problem_set, [], [tmp_path / "none.jsonl"])
    with pytest.raises(ConfigError, match="at least 1"):
        contamination_report(problem_set, [], [], n=0)
