"""`mrt grade`: verdicts with reasons, the table of golds that cannot be used, exit codes; `mrt eval` checks golds."""

import json
from pathlib import Path

import pytest

from mrt.cli.main import main
from mrt.errors import DataError
from mrt.reasoning.evaluation.run import run_eval
from tests.support.latex_tokenizer import latex_tokenizer, small_llama
from tests.support.shared_folder import shared

pytestmark = pytest.mark.training


def write(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_answers_against_golds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"q": "a", "gold": "1/2", "mine": r"so \boxed{0.5}"},
        {"q": "b", "gold": "5", "mine": "6"},
        {"q": "c", "gold": "7", "mine": ["7", r"\boxed{8}"]},
    ]
    out = tmp_path / "verdicts.jsonl"
    path = write(tmp_path / "a.jsonl", rows)
    assert main(["grade", path, "--columns", "gold=gold,answer=mine", "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdicts"]["correct"] == found["verdicts"]["wrong"] == 2
    assert (found["rows"], found["answers"], found["accuracy"], found["unreadable"]) == (3, 4, 0.5, [])
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(line["row"], line["answer"], line["reward"]) for line in lines] == [
        (1, "0.5", 1.0), (2, "6", 0.0), (3, "7", 1.0), (3, "8", 0.0),
    ]  # fmt: skip


def test_golds_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "golds.csv"
    path.write_text('problem,answer\n"a",5\n"b","1 2"\n"c","\\frac{1}{"\n"d","x=3"\n')
    assert main(["grade", str(path)]) == 1
    text = capsys.readouterr().out
    assert "2 of 4 rows" in text
    assert "row 2: '1 2'" in text
    assert "numbers side by side" in text
    assert "row 3" in text


def test_beside_another_grader(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"g": "1", "a": ["1", "2"], "s": [True, True]}, {"g": "3", "a": "3", "s": "wrong"}]
    columns = ["--columns", "gold=g,answer=a,other=s"]
    assert main(["grade", write(tmp_path / "a.jsonl", rows), *columns]) == 0
    text = capsys.readouterr().out
    assert "verdicts equal to those of the other grader: 1 of 3" in text
    assert "row 1: '2' for '1' is wrong here, right there" in text
    assert "row 2: '3' for '3' is correct here, wrong there" in text
    assert main(["grade", write(tmp_path / "b.jsonl", [{"g": "1", "a": "1", "s": [1, 0]}]), *columns]) == 2


@pytest.mark.data
def test_solutions_of_another_model_beside_its_own_graders_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    """The command of docs/grading.md: 799 equal, and one right answer (10000) that only that grader calls wrong."""
    file = str(shared("data", "math_cot_100.jsonl"))
    assert main(["grade", file, "--columns", "gold=gt,answer=code,other=score", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["answers"], found["unreadable"], found["beside"]["compared"]) == (800, [], 800)
    assert [(one["gold"], one["answer"], one["other"]) for one in found["beside"]["differ"]] == [
        ("10{,}000", "10000", False)
    ]


@pytest.mark.data
def test_solutions_of_another_model_are_probed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command of docs/grading.md, with a model of a few thousand parameters as the prover."""
    tokenizer = latex_tokenizer()
    small_llama(tokenizer).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    command = ["probe", str(shared("data", "math_cot_100.jsonl")), "--model", str(tmp_path / "small"), "--limit", "3"]
    columns = ["--columns", "prompt=question,thought=code,gold=gt", "--segmenter", "paragraphs", "--samples", "1"]
    assert main([*command, *columns, "--out", str(tmp_path / "curves.jsonl"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["traces"] == 3
    curves = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert all(len(curve["stop_values"]) == len(curve["ends"]) + 1 > 1 for curve in curves)
    assert main([*command, "--columns", "thoughts=code"]) == 2
    assert main([*command, "--columns", "thought=codes"]) == 2


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        (["--columns", "gold=anser"], "did you mean 'answer'"),
        (["--columns", "golds=answer"], "columns has no 'golds'"),
        (["--columns", "gold=answer", "--answer-after", "####"], "row 1, column 'answer': nothing follows the mark"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], cause: str) -> None:
    path = write(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}])
    assert main(["grade", path, *options]) == 2
    assert cause in capsys.readouterr().err
    assert main(["grade", str(tmp_path / "missing.jsonl")]) == 2
    assert main(["grade", write(tmp_path / "b.jsonl", [{"x": 1}])]) == 2


def test_eval_refuses_unusable_golds_before_anything_runs(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}+1?", "answer": gold} for n, gold in enumerate(["1", "1/0", "3", "???"])]
    out = tmp_path / "out"
    dials = {"path": write(tmp_path / "a.jsonl", rows), "test": 1.0}
    with pytest.raises(DataError, match=r"a\.jsonl, row 2.*'1/0'.*1 more of 4: row 4"):
        run_eval("no/such-model", "files", out, dials)
    assert not out.exists()
