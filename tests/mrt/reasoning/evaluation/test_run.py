"""Evaluation end to end on a tiny model: budgets are kept, kills lose nothing, figures agree with the samples."""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoTokenizer

from mrt.errors import ConfigError, DataError
from mrt.reasoning.evaluation.config import CHUNK
from mrt.reasoning.evaluation.run import run_eval
from mrt.reasoning.evaluation.samples import Chunks
from mrt.reasoning.evaluation.stored import Samples
from mrt.reasoning.evaluation.summary import compare
from mrt.reasoning.inference.generate import _settled, generate
from mrt.reasoning.inference.score_traces import probe_file

pytestmark = pytest.mark.training

DIALS = {"train": 0, "warmstart": 0, "test": 1000}
BUDGETS = [0, 6, 12, 24]
LIMIT = CHUNK + 6


@pytest.fixture(scope="module")
def evaluation(tiny_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "a"
    results = run_eval(str(tiny_dir), "countdown", out, DIALS, n=2, budgets=BUDGETS, limit=LIMIT, answer_tokens=12)
    return out, results


def rows_of(out):
    return [json.loads(line) for line in (out / "samples.jsonl").read_text(encoding="utf-8").splitlines()]


def test_every_problem_has_its_samples_and_no_thought_exceeds_the_full_budget(evaluation):
    out, results = evaluation
    rows = rows_of(out)
    assert len(rows) == 2 * LIMIT
    assert [row["sample"] for row in rows] == [0, 1] * LIMIT
    assert len({row["key"] for row in rows}) == LIMIT
    for row in rows:
        assert row["thinking_tokens"] <= BUDGETS[-1]
        reached = [
            b for b in BUDGETS if b < row["thinking_tokens"] or (row["truncated"] and b == row["thinking_tokens"])
        ]
        assert [item["budget"] for item in row["forced"]] == reached
        assert len(row["stop_values"]) == len(row["episodes"]) + 1
        assert [e["end"] for e in row["episodes"]] == list(np.cumsum([e["tokens"] for e in row["episodes"]]))
        assert "".join(e["text"] for e in row["episodes"]) == row["thought"]
        assert row["verdict"] in ("correct", "wrong", "unparsed", "truncated")
        assert row["verdict"] == "truncated" or not row["truncated"]
    assert results["n_samples"] == len(rows)
    assert sum(results["verdicts"].values()) == len(rows)
    assert 0 <= results["normalised_regret"]["mean"] <= 1


def test_results_are_what_the_samples_say(evaluation):
    out, results = evaluation
    samples = Samples(out)
    by_hand = []
    for row in rows_of(out):
        forced = {item["budget"]: item["reward"] for item in row["forced"]}
        by_hand.append([forced.get(b, row["reward"]) for b in BUDGETS])
    assert np.allclose(np.array(by_hand, dtype=float), samples.at_budget)
    assert results["accuracy"]["mean"] == pytest.approx(np.mean([row[-1] for row in by_hand]))
    assert results["tokens"]["mean"] == pytest.approx(np.mean([row["thinking_tokens"] for row in rows_of(out)]))


def test_j_after_an_episode_holds_the_last_value_of_traces_that_ended(evaluation):
    out, results = evaluation
    values = [row["stop_values"] for row in rows_of(out)]
    for line in results["j_after_episode"]:
        episode = line["episode"]
        held = [row[min(episode, len(row) - 1)] for row in values]
        by_problem = np.array(held).reshape(LIMIT, 2).mean(1)
        assert line["mean"] == pytest.approx(by_problem.mean(), abs=1e-12)
        assert line["n"] == sum(len(row) > episode for row in values)


@pytest.mark.parametrize("kept", [0, 3, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 5])
def test_a_killed_evaluation_ends_in_the_same_samples(evaluation, tiny_dir, tmp_path, kept):
    """Cut after any line, or in the middle of one: the same command ends in the same file."""
    out, results = evaluation
    again = tmp_path / "b"
    shutil.copytree(out, again)
    whole = (out / "samples.jsonl").read_bytes().splitlines(keepends=True)
    (again / "samples.jsonl").write_bytes(b"".join(whole[:kept]) + whole[kept][:20])
    (again / "results.json").unlink()
    repeated = run_eval(str(tiny_dir), "countdown", again, DIALS, n=2, budgets=BUDGETS, limit=LIMIT, answer_tokens=12)
    assert (again / "samples.jsonl").read_bytes() == b"".join(whole)
    results, repeated = ({**one, "environment": None} for one in (results, repeated))  # the commit may move meanwhile
    assert repeated == results


def test_another_setting_in_the_same_folder_is_refused(evaluation, tiny_dir):
    out, _ = evaluation
    with pytest.raises(ConfigError, match=r"seed=0 there"):
        run_eval(str(tiny_dir), "countdown", out, DIALS, n=2, budgets=BUDGETS, limit=LIMIT, answer_tokens=12, seed=5)


def test_samples_of_other_problems_are_refused(evaluation, tmp_path):
    out, _ = evaluation
    path = tmp_path / "samples.jsonl"
    shutil.copy(out / "samples.jsonl", path)
    with pytest.raises(DataError, match="line 1"):
        Chunks(path, ["other"], 2, CHUNK).finished()


def test_compare_an_evaluation_with_itself_cannot_tell(evaluation):
    out, _ = evaluation
    found = compare(out, out)
    assert found["n_problems"] == LIMIT
    for name in ("accuracy", "normalised_regret", "tokens"):
        assert found[name] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["tokens_at_equal_accuracy"]["mean"] == 1.0
    assert found["note"].count("cannot tell") == 2


def test_bad_budgets_and_models_are_named(tiny_dir, tmp_path):
    with pytest.raises(ConfigError, match="ascend"):
        run_eval(str(tiny_dir), "countdown", tmp_path, DIALS, budgets=[10, 5])
    with pytest.raises(ConfigError, match="cannot be loaded"):
        run_eval(str(tmp_path / "nowhere"), "countdown", tmp_path / "x", DIALS, limit=2)


def test_probe_file_reads_what_an_evaluation_wrote(evaluation, tiny_dir, tmp_path):
    out, _ = evaluation
    tokenizer = AutoTokenizer.from_pretrained(tiny_dir)
    # An untrained model writes what no text can (a number right behind a target): such rows do not come back from text.
    rows = [row for row in rows_of(out) if len(tokenizer(row["thought"])["input_ids"]) == row["thinking_tokens"]][:6]
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = probe_file(few, str(tiny_dir), probe="sampled", out=tmp_path / "j.jsonl", samples=2)
    assert found["traces"] == 6
    lines = [json.loads(line) for line in (tmp_path / "j.jsonl").read_text().splitlines()]
    for line, row in zip(lines, rows, strict=True):
        assert line["ends"] == [e["end"] for e in row["episodes"]]
        assert len(line["stop_values"]) == len(line["ends"]) + 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"thought": "x", "solution": "1"}', "row 1: no column 'prompt'"),
        ('{"prompt": "p", "solution": "1"}', "row 1: no column 'completion'"),
        ('{"prompt": "p", "thought": 3, "solution": "1"}', "column 'thought'"),
        ('{"prompt": "p", "thought": "x"}', "column 'solution'"),
        ("[1]", "row 1: a JSON object"),
        ("{", "line 1"),
    ],
)
def test_bad_traces_are_named(tmp_path, line, message):
    path = tmp_path / "traces.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(DataError, match=message):
        probe_file(path, "unused")


def test_generate_keeps_its_budget(tiny_dir):
    for budget in (0, 5, 40):
        found = generate(str(tiny_dir), "3 5 7->22", budget=budget, seed=1)
        assert found["thinking_tokens"] <= budget
        assert found["text"].count("</think>") >= 1
        assert found["stopped"] in ("itself", "budget")
    with pytest.raises(ConfigError, match="--budget"):
        generate(str(tiny_dir), "3 5 7->22")
    with pytest.raises(ConfigError, match="negative"):
        generate(str(tiny_dir), "3 5 7->22", budget=-1)


def test_thinking_has_settled_when_the_answer_and_its_share_stand_still():
    assert _settled(["a", "a", "a"], [0.5, 0.5, 0.5], 0.0) == 2
    assert _settled(["a", "b", "b", "b"], [0.2, 0.4, 0.6, 0.6], 0.1) is None
    assert _settled(["a", "b", "b", "b", "b"], [0.2, 0.4, 0.6, 0.6, 0.65], 0.1) == 4
    assert _settled(["a"], [1.0], 0.0) is None
