"""Suites: every packaged one can be read, says where its problems come from, and measures a file of the same shape."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.evaluation.config import EvalConfig
from mrt.reasoning.evaluation.suites import load_reasoning_suite, parse_reasoning_suite
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.problems import load_problems, validate
from mrt.runs.suites import suite_names
from tests.support import FIXTURES

pytestmark = pytest.mark.training

BENCHMARKS = ("aime24", "aime25", "amc23", "minerva_math", "math500", "gsm8k")
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
    assert {f"reasoning/{name}" for name in (*BENCHMARKS, "countdown")} <= set(suite_names())


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


def test_another_file_than_the_published_one_is_refused(tmp_path: Path) -> None:
    file = FILES / "math500.jsonl"
    with pytest.raises(DataError, match=r"is not test.jsonl of HuggingFaceH4/MATH-500.*--any-file"):
        load_reasoning_suite("reasoning/math500").located(file)
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
