"""The program that runs every suite on one model: what is stored, what is left out, the table of RESULTS.md."""

import json
from pathlib import Path

import pytest

from evals.reasoning import suites
from tests.support import FIXTURES
from tests.support.latex_tokenizer import latex_tokenizer, small_llama

pytestmark = pytest.mark.training


def test_suites_are_run_and_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer, model = latex_tokenizer(), tmp_path / "small"
    small_llama(tokenizer).save_pretrained(model)
    tokenizer.save_pretrained(model)
    asked = ["--model", str(model), "--data", str(FIXTURES / "benchmarks"), "--suites", "amc23", "svamp"]
    sizes = ["--problems", "2", "--tokens", "4", "--answer-tokens", "4"]
    places = ["--out", str(tmp_path / "runs"), "--store", str(tmp_path / "store")]
    assert suites.main([*asked, *sizes, *places]) == 0
    said = capsys.readouterr()
    assert "svamp: left out, no file of that name" in said.err
    (path,) = (tmp_path / "store").glob("*/*.json")
    found = json.loads(path.read_text())
    assert (path.parent.name, found["suite"], found["n_problems"], found["published_file"]) == (
        "small",
        "amc23",
        2,
        False,
    )
    assert found["budgets"] == [0, 4]
    assert suites.main(["--cached", "--store", str(tmp_path / "store")]) == 0
    assert "| amc23 | 2 | 0.000 (" in capsys.readouterr().out
    assert suites.main([*asked[:-2], "amc23", *sizes, "--dtype", "float8", *places]) == 1


def test_files_are_found_by_the_suites_name(tmp_path: Path) -> None:
    (tmp_path / "gsm8k_test.jsonl").touch()
    assert suites.published(tmp_path, "gsm8k") == tmp_path / "gsm8k_test.jsonl"
    assert suites.published(tmp_path, "svamp") is suites.published(None, "svamp") is None
    assert {"svamp", "mawps", "college_math", "olympiadbench", "countdown"} <= set(suites.names())


def test_what_is_stored_ran_on_published_files() -> None:
    for row in suites.read_stored():
        assert row["published_file"] in (True, None), row["suite"]
        assert row["unscorable"] == 0, row["suite"]
