"""Problems from files: every row that is good gets in, every other one is named with its row, column and cure."""

import csv
import io
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.verdict import Verdict
from mrt.reasoning.problems import Files, load_problems, to_dataset, validate
from mrt.reasoning.problems.reward import ProblemReward

ROWS = [{"problem": f"What is {n} + {n + 3}?", "answer": str(2 * n + 3)} for n in range(12)]


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def everything(files: Files) -> list[Any]:
    return [problem for split in ("train", "warmstart", "test") for problem in files.problems(split)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.csv", "a.parquet"])
def test_every_good_row_gets_in(tmp_path: Path, name: str) -> None:
    files = load_problems("files", path=write(tmp_path / name, ROWS), warmstart=0.3, test=0.3)
    problems = everything(files)
    assert sorted(p.solution for p in problems) == sorted(row["answer"] for row in ROWS)
    assert len({p.key for p in problems}) == 12
    by_row = {p.data["where"]: p for p in problems}
    first = 1
    assert by_row[f"{name}, row {first}"].prompt.startswith("What is 0 + 3?\n\nPlease reason")
    assert "\\boxed{}" in problems[0].prompt
    assert files.solutions(problems[0]) == []


def test_all_kinds_of_file_give_the_same_set(tmp_path: Path) -> None:
    sets = [Files(write(tmp_path / name, ROWS), test=0.5) for name in ("a.jsonl", "a.csv", "a.parquet")]
    for split in ("train", "test"):
        one, two, three = ([(p.key, p.prompt, p.solution) for p in s.problems(split)] for s in sets)
        assert one == two == three
        assert one


def test_grading_and_validation(tmp_path: Path) -> None:
    files = Files(
        write(tmp_path / "a.jsonl", [{"question": "Half?", "solution": "thus \\boxed{\\frac{1}{2}}."}]), test=1
    )
    (problem,) = files.problems("test")
    assert problem.solution == "\\frac{1}{2}"
    assert validate(files, "test") == 1
    assert files.grade(problem, "so</think>It is \\boxed{0.5}.").verdict is Verdict.CORRECT
    assert files.grade(problem, "so</think>It is \\boxed{2}.").verdict is Verdict.WRONG
    assert files.grade(problem, "so \\boxed{0.5}", opened=True).verdict is Verdict.TRUNCATED
    assert files.grade_answer(problem, "1/2").verdict is Verdict.CORRECT
    row = to_dataset(files, "test")[0]
    assert row["prompt"] == [{"role": "user", "content": problem.prompt}]
    assert row["solutions"] == []


def test_a_gold_that_does_not_grade_right_is_told_before_training(tmp_path: Path) -> None:
    rows = [*ROWS[:3], {"problem": "What?", "answer": "???"}]
    files = Files(write(tmp_path / "a.jsonl", rows), test=0.0)
    with pytest.raises(DataError, match=r"files: a\.jsonl, row 4: the gold answer '\?\?\?' grades error"):
        validate(files, "train")


def test_columns_are_mapped(tmp_path: Path) -> None:
    rows = [{"id": "x", "problem": "1+1?", "solution": "long prose", "answer": "2"}]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(ConfigError, match=r"'id', 'problem', 'solution', 'answer'.*the solution.*Set columns.solution"):
        Files(path)
    assert everything(Files(path, columns={"solution": "answer"}))[0].solution == "2"
    own = Files(path, columns={"solution": "answer", "prompt": "id"}, prompt="Say: {problem}")
    assert everything(own)[0].prompt == "Say: x"
    with pytest.raises(ConfigError, match=r"no column 'anwser'.*did you mean 'answer'"):
        Files(path, columns={"solution": "anwser"})
    with pytest.raises(ConfigError, match="did you mean 'solution'"):
        Files(path, columns={"soluton": "answer"})
    with pytest.raises(ConfigError, match="none is called prompt or problem or question"):
        Files(write(tmp_path / "b.csv", [{"text": "1+1?", "answer": "2"}]))


def test_answer_behind_a_mark(tmp_path: Path) -> None:
    rows = [{"question": "6 pens and 1?", "answer": "6 + 1 = 7\n#### 7"}]
    files = Files(write(tmp_path / "a.jsonl", rows), answer_after="####")
    assert everything(files)[0].solution == "7"
    with pytest.raises(DataError, match=r"b.jsonl, row 2, column 'answer': nothing follows the mark '####'"):
        Files(write(tmp_path / "b.jsonl", [*rows, {"question": "8?", "answer": "8"}]), answer_after="####")


def test_numbers_are_answers(tmp_path: Path) -> None:
    rows = [{"problem": "6*7?", "answer": 42}, {"problem": "1/4?", "answer": 0.25}]
    for name in ("a.jsonl", "b.jsonl"):
        assert [p.solution for p in everything(Files(write(tmp_path / name, rows), test=0.0))] == ["42", "0.25"]
    assert everything(Files(write(tmp_path / "a.parquet", rows[:1])))[0].solution == "42"


def test_the_key_is_of_the_normalised_text(tmp_path: Path) -> None:
    rows = [
        {"problem": "Café:  1+1?", "answer": "2"},
        {"problem": "Cafe\u0301: 1+1?\n", "answer": "2.0"},  # decomposed accent, other spaces
        {"problem": "cafe: 1+1?", "answer": "2"},
    ]
    files = Files(write(tmp_path / "a.jsonl", rows), test=0.0)
    assert len(files.problems("train")) == 2
    assert files.repeated == 1
    assert all(p.key.startswith("files:") and len(p.key) == 6 + 64 for p in files.problems("train"))
    rows[1]["answer"] = "3"
    with pytest.raises(DataError, match=r"b.jsonl, row 2, column 'answer': the same problem as in b.jsonl, row 1 with"):
        Files(write(tmp_path / "b.jsonl", rows))


def test_splits_by_key(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}?", "answer": str(n)} for n in range(400)]
    files = Files(write(tmp_path / "a.jsonl", rows), warmstart=0.25, test=0.25)
    sizes = [len(files.problems(split)) for split in ("train", "warmstart", "test")]
    assert sum(sizes) == 400
    assert sizes == pytest.approx([200, 100, 100], abs=40)
    shuffled = Files(write(tmp_path / "b.csv", rows[::-1]), warmstart=0.25, test=0.25)
    for split in ("train", "warmstart", "test"):
        assert {p.key for p in files.problems(split)} == {p.key for p in shuffled.problems(split)}
    other = Files(str(tmp_path / "a.jsonl"), warmstart=0.25, test=0.25, seed=1)
    assert {p.key for p in files.problems("test")} != {p.key for p in other.problems("test")}
    for dials in ({"test": 1.5}, {"test": -0.1}, {"warmstart": 0.6, "test": 0.6}, {"test": True}, {"test": "a"}):
        with pytest.raises(ConfigError, match="share"):
            Files(str(tmp_path / "a.jsonl"), **dials)


def test_a_test_file_of_its_own(tmp_path: Path) -> None:
    path, test_path = write(tmp_path / "a.jsonl", ROWS[:8]), write(tmp_path / "t.csv", ROWS[6:])
    with pytest.raises(
        DataError, match=r"a.jsonl, row 7: the same problem is in the test set \(t.csv, row 1\).*overlap=drop"
    ):
        Files(path, test_path=test_path)
    files = Files(path, test_path=test_path, overlap="drop")
    assert len(files.problems("test")) == 6
    assert len(files.problems("train")) == 6
    assert files.dropped == 2
    assert not {p.key for p in files.problems("test")} & {p.key for p in files.problems("train")}


def test_a_hub_set_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hub set 'nobody/nothing-at-all'.*could not be loaded.*give a local file"):
        Files("nobody/nothing-at-all")


@pytest.mark.parametrize(
    ("dials", "message"),
    [
        ({"path": "missing.jsonl"}, "no such file: missing.jsonl"),
        ({"path": "./folder"}, "neither a file of a known kind"),
        ({"path": ""}, "path must be"),
        ({"path": None}, "path must be"),
        ({"split": "test"}, "'config' and 'split' are for hub sets"),
        ({"columns": ["problem"]}, "columns must map"),
        ({"columns": {"prompt": 3}}, "columns.prompt must be"),
        ({"prompt": "Think!"}, "prompt must hold {problem}"),
        ({"prompt": 3}, "prompt must hold {problem}"),
        ({"overlap": "keep"}, "overlap must be"),
        ({"answer_after": ""}, "answer_after must be"),
        ({"colums": {}}, "did you mean 'columns'"),
    ],
)
def test_options_that_cannot_work(tmp_path: Path, dials: dict[str, Any], message: str) -> None:
    options = {"path": write(tmp_path / "a.jsonl", ROWS), **dials}
    with pytest.raises(ConfigError, match=message):
        load_problems("files", **options)


BAD_VALUES: list[tuple[str, str, Any, str]] = [
    ("problem", "null", None, "null where"),
    ("problem", "empty", "  \n", "empty where"),
    ("problem", "number", 12, "a int where"),
    ("problem", "messages", [{"role": "user", "content": "1+1?"}], "a list where"),
    ("answer", "null", None, "null where"),
    ("answer", "empty", "", "empty where"),
    ("answer", "boolean", True, "a bool where"),
    ("answer", "object", {"value": 3}, "a dict where"),
    ("answer", "two numbers", "12 34", "cannot be read"),
    ("answer", "braces", "\\frac{1}{2", "cannot be read"),
    ("answer", "open box", "so \\boxed{3", "\\boxed{} is empty or not closed"),
    ("answer", "empty box", "so \\boxed{}", "\\boxed{} is empty or not closed"),
    ("answer", "too long", "1+" * 20_000 + "1", "cannot be read"),
    ("problem", "surrogate", "1\ud800+1?", "lone surrogate"),
]


@pytest.mark.parametrize(
    ("column", "kind", "value", "cause"), BAD_VALUES, ids=[f"{c} {k}" for c, k, _, _ in BAD_VALUES]
)
def test_a_bad_value_names_file_row_column_and_cure(
    tmp_path: Path, column: str, kind: str, value: Any, cause: str
) -> None:
    rows = [dict(row) for row in ROWS]
    rows[4][column] = value
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError) as error:
        Files(str(path))
    message = str(error.value)
    assert f"a.jsonl, row 5, column '{column}'" in message
    assert cause in message
    assert message.rpartition(";")[2].strip()  # the cure


BAD_LINES: list[tuple[str, bytes, str]] = [
    ("no JSON", b"problem: 1+1?", "not a JSON object"),
    ("cut off", b'{"problem": "1+1?", "answer": "2', "not a JSON object"),
    ("two objects", b'{"problem": "1", "answer": "2"} {}', "not a JSON object"),
    ("a list", b'["1+1?", "2"]', "a JSON list where an object"),
    ("column missing", b'{"problem": "1+1?"}', "no column 'answer'"),
    ("column twice", b'{"problem": "1", "answer": "2", "answer": "3"}', "column 'answer' is given twice"),
    ("not UTF-8", b'{"problem": "caf\xe9", "answer": "2"}', "not UTF-8 at byte 17"),
    ("NaN", b'{"problem": "1", "answer": NaN}', "NaN is no JSON value"),
    ("nested", b'{"problem": ' + b"[" * 100_000, "nested too deep"),
    ("huge integer", b'{"problem": "1", "answer": ' + b"9" * 5000 + b"}", "not a JSON object"),
    ("infinite", b'{"problem": "1", "answer": 1e999}', "a float where"),
    ("NUL", b"\x00", "not a JSON object"),
]


@pytest.mark.parametrize(("line", "cause"), [bad[1:] for bad in BAD_LINES], ids=[bad[0] for bad in BAD_LINES])
def test_a_bad_line_names_file_and_row(tmp_path: Path, line: bytes, cause: str) -> None:
    path = tmp_path / "a.jsonl"
    good = [json.dumps(row).encode() for row in ROWS]
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([*good[:3], b"", line, *good[3:]]))
    with pytest.raises(DataError, match=r"^a\.jsonl, row 5") as error:
        Files(str(path))
    assert cause in str(error.value)


BAD_CSV: list[tuple[str, bytes, str]] = [
    ("too few fields", b"problem,answer\n1+1?,2\n3+3?\n", "row 2 (line 3): 1 fields where the header names 2"),
    ("too many fields", b"problem,answer\n1+1?,2\n1,2,3\n", "row 2 (line 3): 3 fields"),
    ("open quote", b'problem,answer\n1+1?,2\n"3+3?,6\n', "row 2 (line 3): unexpected end of data"),
    ("text behind a quote", b'problem,answer\n"1"x,2\n', "row 1 (line 2)"),
    ("not UTF-8", b'problem,answer\n"two\nlines",2\ncaf\xe9,3\n', "row 2, column 'problem': not UTF-8"),
    ("header not UTF-8", b"probl\xe9m,answer\n1,2\n", "header: not UTF-8"),
    ("header twice", b"problem,answer,answer\n1,2,3\n", "two columns have the same name"),
    ("huge field", b"problem,answer\n" + b"1" * 200_000 + b",2\n", "row 1"),
    ("header only", b"problem,answer\n", "no rows"),
    ("nothing", b"", "no rows"),
]


@pytest.mark.parametrize(("data", "cause"), [bad[1:] for bad in BAD_CSV], ids=[bad[0] for bad in BAD_CSV])
def test_a_bad_csv(tmp_path: Path, data: bytes, cause: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"^a\.csv") as error:
        Files(str(path))
    assert cause in str(error.value)


def test_csv_rows_are_counted_as_records(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'problem,answer\r\n"1\r\n+ 1?",2\r\n\r\n"3, 3?",\r\n')
    with pytest.raises(DataError, match=r"a\.csv, row 2, column 'answer': empty"):
        Files(str(path))


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a\.parquet: not a parquet file"):
        Files(str(path))
    text = pa.array([b"1+1?", b"caf\xe9"]).view(pa.string())
    pq.write_table(pa.table({"problem": text, "answer": ["2", "3"]}), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 2, column 'problem': unreadable"):
        Files(str(path))
    pq.write_table(pa.table({"problem": [b"1+1?"], "answer": ["2"]}), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 1, column 'problem': a bytes where"):
        Files(str(path))
    pq.write_table(pa.table({"problem": ["1+1?", None], "answer": ["2", "3"], "other": [1.5, None]}), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 2, column 'problem': null"):
        Files(str(path))
    pq.write_table(pa.table({"problem": ["1+1?"], "answer": [float("nan")]}), path)
    with pytest.raises(DataError, match=r"a\.parquet, row 1, column 'answer': a float where"):
        Files(str(path))


# Fuzz. A case is (bytes, suffix, row that must be named, or None where the damage may happen to be harmless).
Case = tuple[bytes, str, int | None]


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, ["problem", "answer"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def bad_value(rng: random.Random) -> Case:
    rows, at = [dict(row) for row in ROWS], rng.randrange(12)
    column, _, value, _ = rng.choice(BAD_VALUES)
    rows[at][column] = value
    return as_jsonl(rows), ".jsonl", at + 1


def bad_line(rng: random.Random) -> Case:
    lines, at = as_jsonl(ROWS).splitlines(), rng.randrange(12)
    lines[at] = rng.choice(BAD_LINES)[1]
    return b"\n".join(lines), ".jsonl", at + 1


def lost_column(rng: random.Random) -> Case:
    rows, at = [dict(row) for row in ROWS], rng.randrange(12)
    del rows[at][rng.choice(["problem", "answer"])]
    return as_jsonl(rows), ".jsonl", at + 1


def contradiction(rng: random.Random) -> Case:
    rows, at = [dict(row) for row in ROWS], rng.randrange(1, 12)
    rows[at] = {"problem": rows[0]["problem"] + " " * rng.randrange(3), "answer": "-1"}
    return as_jsonl(rows), ".jsonl", at + 1


def csv_fields(rng: random.Random) -> Case:
    lines, at = as_csv(ROWS).splitlines(), rng.randrange(12)
    lines[at + 1] = rng.choice([b"one", b"a,b,c", b"caf\xe9,2", b",2", b"1?,", b'"1"2,3', b"1?,\\boxed{"])
    return b"\n".join(lines), ".csv", at + 1


def noise(rng: random.Random) -> Case:
    suffix = rng.choice([".jsonl", ".csv", ".parquet"])
    if suffix == ".parquet":
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(ROWS), sink)
        data = bytearray(sink.getvalue())
    else:
        data = bytearray(as_jsonl(ROWS) if suffix == ".jsonl" else as_csv(ROWS))
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        if rng.random() < 0.3:
            del data[at : at + rng.randrange(1, 40)]
        else:
            data[at : at + 1] = rng.randbytes(rng.randrange(1, 4))
    return bytes(data), suffix, None


def garbage(rng: random.Random) -> Case:
    return rng.randbytes(rng.randrange(200)), rng.choice([".jsonl", ".csv", ".parquet"]), None


DAMAGES: tuple[Callable[[random.Random], Case], ...] = (
    bad_value, bad_line, lost_column, contradiction, csv_fields, noise, garbage,
)  # fmt: skip


@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_fuzz_malformed_files(tmp_path: Path, count: int) -> None:
    rng = random.Random(0)
    refused = 0
    for number in range(count):
        damage = DAMAGES[number % len(DAMAGES)]
        data, suffix, row = damage(rng)
        path = tmp_path / f"case{suffix}"
        path.write_bytes(data)
        try:
            Files(str(path))
        except (ConfigError, DataError) as error:
            refused += 1
            message = str(error)
            assert path.name in message, message
            assert row is None or f"case{suffix}, row {row}" in message, (damage.__name__, message)
            assert "row" in message or "column" in message or "header" in message or "parquet file" in message, message
            assert len(message) < 1500
        else:
            assert row is None, f"{damage.__name__} got through: {data[:500]!r}"
    assert refused > 0.7 * count


def test_a_training_reward_grades_as_many_at_once_as_it_has_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = load_problems("files", path=write(tmp_path / "a.jsonl", ROWS), test=0.0, workers=2)
    assert isinstance(files, Files)
    grader, both, ask = files._grader, threading.Barrier(2, timeout=20), MathGrader._ask

    def waits(self: MathGrader, question: Any) -> Any:
        both.wait()  # for another question at the same time
        return ask(self, question)

    monkeypatch.setattr(MathGrader, "_ask", waits)
    rows = to_dataset(files, "train")[:4]
    answers = [
        f"</think>\\boxed{{{x}}}" for x in (f"{rows['solution'][0]}+0", "x+1", f"0+{rows['solution'][2]}", "x-1")
    ]
    with grader:
        rewards = ProblemReward(files)(answers, answers, None, rows["key"], rows["solution"], rows["data"])
    assert rewards == [1.0, 0.0, 1.0, 0.0]


def test_rows_that_nothing_can_be_graded_against_are_left_out_up_to_a_share(tmp_path: Path) -> None:
    rows = [{"problem": f"{n}?", "answer": str(n)} for n in range(17)]
    rows += [
        {"problem": "bad?", "answer": "1 2"},
        {"problem": "two?", "answer": "5"},
        {"problem": "two?", "answer": "6"},
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Files(str(path), test=1.0, unusable=0.15)
    assert len(found.problems("test")) == 17
    assert [where for where, _ in found.left_out] == ["rows.jsonl, row 18", "rows.jsonl, row 20", "rows.jsonl, row 19"]
    with pytest.raises(
        DataError, match=r"3 of 20 rows cannot be used, more than the share of 0.1 .*numbers side by side"
    ):
        Files(str(path), test=1.0, unusable=0.1)
    with pytest.raises(DataError, match="row 18"):
        Files(str(path), test=1.0)
    with pytest.raises(ConfigError, match="unusable must be a share"):
        Files(str(path), unusable=1.5)


def test_a_prompt_of_several_columns_and_answers_in_a_list(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"Body": "Ann has 3.", "Question": "And?", "Answer": ["$3$"], "how": "She has."}\n')
    columns = {"prompt": ["Body", "Question"], "solution": "Answer", "worked": "how"}
    (problem,) = Files(str(path), columns=columns, prompt="{problem}", test=1.0).problems("test")
    assert (problem.prompt, problem.solution, problem.data["worked"]) == ("Ann has 3. And?", "$3$", "She has.")
