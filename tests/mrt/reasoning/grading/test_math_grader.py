"""The answer rule, the labelled pairs, the reward hacks, and the rewards as TRL calls them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.verdict import Grade, Verdict, extract_boxed, split_thought
from mrt.reasoning.problems.files import Files
from mrt.reasoning.problems.reward import ProblemReward
from tests.support.labelled_pairs import pairs


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(seconds=10.0) as grader:
        yield grader


# ---- where the answer stands


@pytest.mark.parametrize(
    ("text", "box"),
    [
        (r"\boxed{5}", "5"),
        (r"so \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{1</think>\boxed{2}", "2"),
        (r"<think>\boxed{1}</think>\boxed{2}</think> none", "2"),
        (r"\boxed{1+\boxed{2}", "2"),  # the outer box never closes
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{[1,2\}}", r"[1,2\}"),  # an escaped brace closes nothing
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{x=\boxed{5}}", "x={5}"),
        (r"\boxed {5}", "5"),
        ("\\boxed\n{5}", "5"),
        (r"{\boxed{5}", "5"),
        (r"} \boxed{5}", "5"),
        (r"\boxed{}", ""),
        (r"\\boxed{5}", None),  # a line break and the word
        ("boxed{5}", None),
        ("", None),
    ],
)
def test_extract_boxed(text: str, box: str | None) -> None:
    assert extract_boxed(text) == box


def test_split_thought() -> None:
    assert split_thought("<think>a</think>b") == ("a", "b")
    assert split_thought("a</think>b") == ("a", "b")
    assert split_thought("a</think>b</think>c") == ("a", "b c")
    assert split_thought("only an answer") == ("", "only an answer")
    assert split_thought("<think>a") == ("a", None)
    assert split_thought("a</think>b<think>c") == ("a", "b c")
    assert split_thought("<think>a<think>c") == ("a<think>c", None)
    assert split_thought("no tag", opened=True) == ("no tag", None)
    assert split_thought("[T]a[/T]b", close="[/T]", open="[T]") == ("a", "b")


def test_grade_names_what_is_missing(grader: MathGrader) -> None:
    def verdict(text: str, gold: str = "5") -> str:
        return grader.grade(text, gold).verdict.value

    assert verdict(r"<think>5</think>\boxed{5}") == "correct"
    assert verdict(r"<think>\boxed{5}") == "truncated"
    assert grader.grade(r"\boxed{5}", "5", opened=True).verdict is Verdict.TRUNCATED  # the box stands in the thought
    assert verdict(r"<think>\boxed{5}</think> it is 5") == "unparsed"
    assert verdict(r"\boxed{}") == "unparsed"
    assert verdict(r"\boxed{5 \foo}") == "unparsed"
    assert verdict(r"\boxed{6}") == "wrong"
    assert verdict(r"\boxed{4} or \boxed{5}") == "wrong"
    assert verdict(r"\boxed{5} so \boxed{ 5 }") == "correct"  # twice the same box is one answer
    assert [g.extracted for g in grader.grade_many([(r"\boxed{5}", "5"), (r"\boxed{x}", "5"), ("", "5")])] == [
        "5",
        "x",
        None,
    ]


@pytest.mark.parametrize(
    "gold", ["", "  ", "{", r"\frac{1}{", "1/0", "?", "9" * 2000, "1 2", r"\boxed{}", r"\foo", "x" * 30_000]
)
def test_a_gold_answer_that_cannot_be_read_is_an_error(grader: MathGrader, gold: str) -> None:
    for answer in (gold, "5"):
        grade = grader.grade_answer(answer, gold)
        if answer == gold and not gold.strip():
            continue
        assert grade.verdict is Verdict.ERROR
        assert grade.reward is None
        assert "gold" in grade.detail


def test_rewards_of_the_verdicts() -> None:
    rewards = {verdict.value: Grade(verdict).reward for verdict in Verdict}
    assert rewards == {"correct": 1.0, "wrong": 0.0, "unparsed": 0.0, "truncated": 0.0, "timeout": None, "error": None}


# ---- labelled pairs, and the hacks


def judged(grader: MathGrader, labelled: list[tuple[str, str, bool]]) -> None:
    """No false positive, no false negative, nothing unscorable."""
    grades = [(gold, answer, equal, grader.grade_answer(answer, gold)) for gold, answer, equal in labelled]
    assert [g for g in grades if g[3].reward is None] == []
    assert [g for g in grades if not g[2] and g[3].reward] == []
    assert [g for g in grades if g[2] and not g[3].reward] == []


def test_labelled_pairs(grader: MathGrader) -> None:
    labelled = pairs(2)
    assert len(labelled) >= 300
    assert sum(equal for _, _, equal in labelled) > 130
    assert sum(not equal for _, _, equal in labelled) > 130
    judged(grader, labelled)


@pytest.mark.slow
def test_all_labelled_pairs(grader: MathGrader) -> None:
    labelled = pairs(100)
    assert len(labelled) >= 1000
    judged(grader, labelled)


HACKS = [
    *("{g} or {h}", r"{g} \text{{ or }} {h}", r"\text{{{g} or {h}}}", "{g}, {h}", "{h}; {g}", "x={g}, x={h}"),
    *("{h}={g}", "{h}=x={g}", "{g}={h}", r"{g} \ne {h}", "x>{g}", r"x \ge {g}", r"{g} < x", r"\pm {g}", r"{g} \pm 1"),
    *("{g} {h}", r"{g} \quad {h}", r"{g} \\ {h}", r"{g}\ {h}", r"\{{{g},{h}\}}", "({g},{h})", "[{g},{h}]", "{g}|{h}"),
    *(r"[{g},\infty)", r"(-\infty,\infty)", r"\mathbb{{R}}", "x", "?", r"\text{{any number}}", "answer"),
    *(
        r"{g}\text{{ or {h}}}",
        r"{g}\text{{ is not the answer}} {h}",
        "{list}",
        r"\{{{list}\}}",
        "{long}",
        r"{g}+C",
        "{g}x",
    ),
    *(r"\text{{What is }} {h}+1 \text{{?}}", "Compute {g} and {h}", r"\boxed{{{g}}}\boxed{{{h}}}", r"{h} \to {g}"),
    *(
        r"{h} \approx {g}",
        "{g}!{h}",
        r"{g} \cup {h}",
        r"\min({g},{h})+\max({g},{h})-{h}+0.0001",
        r"{g}\text{{ million}}",
    ),
]


@pytest.mark.parametrize("gold", ["5", r"\frac{1}{2}", "x+1"])
def test_reward_hacks_get_nothing(grader: MathGrader, gold: str) -> None:
    numbers = ",".join(map(str, range(100)))
    rewarded = []
    for hack in HACKS:
        answer = hack.format(g=gold, h="8", list=f"{gold},{numbers}", long=f"{gold}," * 500 + "1")
        grade = grader.grade(rf"<think>\boxed{{{gold}}}</think>\boxed{{{answer}}}", gold)
        if grade.reward != 0.0:
            rewarded.append((answer[:80], grade))
    assert rewarded == []
    assert grader.grade(r"\boxed{}", gold).reward == 0.0
    many = " ".join(rf"\boxed{{{n}}}" for n in range(50)) + rf" \boxed{{{gold}}}"
    assert grader.grade(many, gold).verdict is Verdict.WRONG


def test_a_bad_option_is_named() -> None:
    with pytest.raises(ConfigError, match="workers=0"):
        MathGrader(workers=0)


# ---- as TRL calls them


def test_the_reward_of_a_files_problem_set(tmp_path: Path) -> None:
    golds = ["5", "$5$", "6", "1/0"]
    rows = [{"problem": f"What is number {n}?", "answer": gold} for n, gold in enumerate(golds)]
    (tmp_path / "golds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = Files(str(tmp_path / "golds.jsonl"), test=0.0)
    problems = {problem.solution: problem for problem in files.problems("train")}
    five, dollars, other, unusable = (problems[gold] for gold in golds)

    def columns(*chosen: Any) -> dict[str, Any]:
        return {
            "prompts": [[{"role": "user", "content": problem.prompt}] for problem in chosen],
            "completion_ids": [[1]] * len(chosen),
            "key": [problem.key for problem in chosen],
            "solution": [problem.solution for problem in chosen],
            "data": [json.dumps(dict(problem.data)) for problem in chosen],
        }

    logged: dict[str, float] = {}
    reward = ProblemReward(files)
    assert reward.__name__ == "files_reward"
    completions: list[Any] = [
        r"\boxed{5}",
        [{"role": "assistant", "content": r"<think>a</think>\boxed{6}"}],
        "<think>",
        r"\boxed{1}",
    ]
    rewards = reward(
        completions=completions,
        log_metric=logged.__setitem__,
        trainer_state=None,
        other_column=[1, 2, 3, 4],
        **columns(five, dollars, other, unusable),
    )
    assert rewards == [1.0, 0.0, 0.0, None]
    assert logged == {
        "verifier/correct": 0.25, "verifier/wrong": 0.25, "verifier/unparsed": 0.0,
        "verifier/truncated": 0.25, "verifier/timeout": 0.0, "verifier/error": 0.25,
    }  # fmt: skip
    opened = ProblemReward(files, opened=True)
    assert opened(completions=[r"\boxed{5}", r"a</think>\boxed{5}"], **columns(five, five)) == [0.0, 1.0]
    with pytest.raises(DataError, match="solution"):
        reward(prompts=["p"], completions=["c"], completion_ids=[[1]])


class Echo:
    """A problem set that accepts what its data names."""

    name = "echo"

    def grade(self, problem: Any, text: str) -> Grade:
        part = split_thought(text)[1]
        if part is None:
            return Grade(Verdict.TRUNCATED)
        assert (problem.key, problem.prompt, problem.solution) == ("k", "say it", "gold")
        return Grade(Verdict.CORRECT if part == problem.data["say"] else Verdict.WRONG)


def test_problem_reward() -> None:
    reward = ProblemReward(Echo())  # type: ignore[arg-type]
    assert reward.__name__ == "echo_reward"
    prompt = [{"role": "user", "content": "say it"}]
    columns = {
        "key": ["k", "k"],
        "solution": ["gold", "gold"],
        "data": [json.dumps({"say": "a"}), json.dumps({"say": "b"})],
    }
    assert reward([prompt, "say it"], ["a", "a"], [[1], [1]], **columns) == [1.0, 0.0]
    opened = ProblemReward(Echo(), opened=True)  # type: ignore[arg-type]
    assert opened([prompt, prompt], ["a", "t</think>b"], **columns) == [0.0, 1.0]
    with pytest.raises(DataError, match=r"\['solution', 'data'\]"):
        reward([prompt], ["a"], key=["k"])
