"""`probe_file`: intervals are of problems, not of traces."""

import json

import pytest

from mrt.reasoning.inference.score_traces import probe_file


def test_traces_of_one_problem_are_one_observation(tiny_dir, tmp_path):
    """Every trace twice says nothing new: the same mean and the same interval (the gold probe draws nothing)."""
    rows = [
        {
            "key": f"k{i}",
            "prompt": f"{i} 5 7->22",
            "thought": f"{i}+5",
            "solutions": [f"{i}+5+7", f"5+{i}+7"],
        }
        for i in range(1, 7)
    ]
    found = []
    for times in (1, 3):
        path = tmp_path / f"{times}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows for _ in range(times)))
        found.append(probe_file(path, str(tiny_dir), probe="gold", min_paragraphs=0))
    once, thrice = found
    assert (once["traces"], thrice["traces"]) == (6, 18)
    for name in ("mean", "low", "high"):
        assert thrice["normalised_regret"][name] == pytest.approx(once["normalised_regret"][name])
        for one, other in zip(once["j_after_episode"], thrice["j_after_episode"], strict=True):
            assert other[name] == pytest.approx(one[name])
