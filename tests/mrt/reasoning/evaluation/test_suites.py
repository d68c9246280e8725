"""Suites: every packaged one can be read, says where its problems come from, and measures a file of the same shape."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrt.cli.main import main
from mrt.errors import ConfigError, DataError
from mrt.reasoning.evaluation.config import EvalConfig
from mrt.reasoning.evaluation.suites import load_reasoning_suite, parse_reasoning_suite
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.problems import load_problems, validate
from mrt.runs.suites import suite_names
from tests.support import FIXTURES
from tests.support.latex_tokenizer import latex_tokenizer, small_llama
from tests.support.shared_folder import shared

pytestmark = pytest.mark.training

BENCHMARKS = ("aime24", "aime25", "amc23", "minerva_math", "math500", "gsm8k")
FILES_ALONE = ("olympiadbench", "college_math", "svamp", "mawps")
GOLDS = {
    "aime24": ["012", "001"],
    "aime25": ["36", "13"],
    "amc23": ["27.0", "4.5"],
    "minerva_math": ["6e26", "2x"],
    "math500": [r"\frac{5}{6}", r"(2,\infty)"],
    "gsm8k": ["10", "1,200"],
}
FILES = FIXTURES / "benchmarks"


def test_all_of_them_are_packaged() -> None:
    assert {f"reasoning/{name}" for name in (*BENCHMARKS, *FILES_ALONE, "countdown")} <= set(suite_names())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_is_pinned_and_its_settings_can_work(name: str) -> None:
    suite = load_reasoning_suite(f"reasoning/{name}")
    assert suite.source is not None
    assert len(suite.source.revision or "") == 40
    assert len(suite.source.sha256 or 64 * "0") == 64
    EvalConfig("m", suite.problems, n=suite.n, budgets=suite.budgets, **_tuples(suite.settings))
    dials, origin = suite.located(None)
    assert dials["path"] == suite.source.hub
    assert dials["revision"] == suite.source.revision
    assert origin["source"]["rows"] == suite.source.rows


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(seconds=60) as found:
        yield found


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_of_its_shape_is_read_and_graded(name: str, grader: MathGrader) -> None:
    suite = load_reasoning_suite(f"evals/reasoning/{name}.yaml")
    dials, origin = suite.located(FILES / f"{name}.jsonl", any_file=True)
    problem_set = load_problems(suite.problems, **dials)
    problem_set._grader = grader  # type: ignore[attr-defined]  # one process for all of them
    problems = problem_set.problems("test")
    assert [problem.solution for problem in problems] == GOLDS[name]
    assert validate(problem_set, "test") == 2
    assert origin["published_file"] is False
    with pytest.raises(DataError, match="2 were read"):
        suite.check_rows(len(problems))


def test_another_file_than_the_published_one_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = FILES / "math500.jsonl"
    _, origin = load_reasoning_suite("reasoning/math500").located(file)
    assert "none of the published files of suite 'math500' (35dc41080a36...)" in caplog.text
    assert origin["published_file"] is False
    caplog.clear()
    load_reasoning_suite("reasoning/math500").located(file, any_file=True)
    assert caplog.text == ""
    with pytest.raises(ConfigError, match="no such file"):
        load_reasoning_suite("reasoning/math500").located(tmp_path / "none.jsonl")
    source = {"hub": "some/set", "file": "f", "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "licence": "MIT"}
    content = {
        "kind": "reasoning",
        "problems": "files",
        "n": 1,
        "budgets": [0, 4],
        "source": {**source, "revision": "a"},
    }
    _, origin = parse_reasoning_suite(content, "s.yaml").located(file)
    assert origin["published_file"] is True


def test_a_copy_is_read_by_its_own_columns(tmp_path: Path) -> None:
    file = tmp_path / "copy.jsonl"
    file.write_text('{"text": "1+1?", "gold": 2}\n')
    copies = [{"file": "x", "sha256": hashlib.sha256(file.read_bytes()).hexdigest(), "dials": {"columns": {"a": "b"}}}]
    content = {"kind": "reasoning", "problems": "files", "n": 1, "budgets": [0, 4], "dials": {"columns": {"a": "c"}}}
    source = {"file": "f", "sha256": 64 * "a", "licence": "MIT", "copies": copies}
    suite = parse_reasoning_suite({**content, "source": source}, "s.yaml")
    dials, origin = suite.located(file)
    assert dials["columns"] == {"a": "b"}
    assert origin["published_file"] is True
    with pytest.raises(ConfigError, match=r"published as a file, not on the hub: download f and name it with --file"):
        suite.located(None)


PUBLISHED = {"aime24": 30, "amc23": 40, "math500": 500, "minerva_math": 272, "olympiadbench": 675, "svamp": 1000}
LONG = {"gsm8k": 1319, "mawps": 2065, "college_math": 2818}


@pytest.mark.data
@pytest.mark.parametrize("name", [*PUBLISHED, *(pytest.param(one, marks=pytest.mark.slow) for one in LONG)])
def test_a_suite_runs_on_its_published_file(name: str) -> None:
    """Hash, number of problems, and every gold answer equal to itself; what is left out is a stated share."""
    suite = load_reasoning_suite(f"reasoning/{name}")
    dials, origin = suite.located(shared("data", "gsm8k_test.jsonl" if name == "gsm8k" else f"{name}.jsonl"))
    assert origin["published_file"] is True
    problem_set = load_problems(suite.problems, **dials)
    problems = problem_set.problems("test")
    rows = (PUBLISHED | LONG)[name]
    left_out, repeated = problem_set.left_out, problem_set.repeated  # type: ignore[attr-defined]
    suite.check_rows(len(problems) + repeated + len(left_out))
    assert suite.source is not None
    assert suite.source.rows == rows
    assert len(left_out) <= {"college_math": 0.02, "mawps": 0.002}.get(name, 0.0) * rows
    assert sum("cannot be read" in why for _, why in left_out) <= 0.005 * rows
    assert validate(problem_set, "test") == len(problems)


@pytest.mark.data
def test_a_report_of_a_published_suite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, folder, tokenizer = shared("data", "svamp.jsonl"), tmp_path / "small", latex_tokenizer()
    small_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    command = ["eval", "reasoning/svamp", "--model", str(folder), "--file", str(file), "--out", str(tmp_path / "svamp")]
    settings = ["--limit", "2", "--n", "1", "--budgets", "0,4", "--probe", "greedy"]
    settings += ["settings.answer_tokens=4", "settings.own_answer_tokens=4"]
    assert main([*command, *settings, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (found["suite"], found["n_problems"], found["published_file"]) == ("svamp", 2, True)
    assert main(["report", str(tmp_path / "svamp"), "--out", str(tmp_path / "report.html")]) == 0
    assert "svamp" in (tmp_path / "report.html").read_text()


def test_countdown_makes_its_own_problems() -> None:
    suite = load_reasoning_suite("reasoning/countdown")
    dials, _ = suite.located(None)
    assert dials["test"] == 1000
    with pytest.raises(ConfigError, match="takes no --file"):
        suite.located(FILES / "gsm8k.jsonl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "control"}, "no suite of `kind: reasoning`"),
        ({"n": None}, "must be a whole number"),
        ({"budgets": None}, "must be a list"),
        ({"colour": 1}, "unknown key 'colour'"),
        ({"settings": {"seed": 1}}, "must not hold seed"),
        ({"settings": {"votess": 1}}, "did you mean 'votes'"),
        ({"source": {"split": "test"}}, "needs the name of a hub set"),
        ({"source": {"file": "f", "sha256": "a"}}, "licence null without a word why"),
        ({"source": {"hub": "a/b", "copies": [{"file": "f"}]}}, "sha256"),
        ({"source": {"hub": "a/b", "revision": "c"}}, "sha256, licence null without a word why"),
    ],
)
def test_mistakes_in_a_suite_are_named(change: dict, message: str) -> None:
    content = {"kind": "reasoning", "problems": "files", "n": 1, "budgets": [0, 4]}
    with pytest.raises(ConfigError, match=message):
        parse_reasoning_suite({**content, **change}, "s.yaml")


def test_a_suite_says_what_it_must() -> None:
    with pytest.raises(ConfigError, match="nothing about n, budgets"):
        parse_reasoning_suite({"kind": "reasoning", "problems": "files"}, "s.yaml")


def _tuples(settings: dict) -> dict:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
