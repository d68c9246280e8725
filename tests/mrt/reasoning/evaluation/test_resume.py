"""Runs that lose nothing: several writers, kills at any moment, grading again without a model, fingerprints."""

import json

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.evaluation.config import EvalConfig, fingerprint_model
from mrt.reasoning.evaluation.regrade import regrade
from mrt.reasoning.evaluation.run import run_eval
from mrt.reasoning.evaluation.samples import Chunks, claim
from tests.support.processes import run_module

pytestmark = pytest.mark.training

DIALS = {"high": 9, "train": 0, "warmstart": 0, "test": 40}  # few numbers: quick to enumerate
SMALL = {"n": 2, "budgets": [0, 8], "answer_tokens": 12, "probe_samples": 2}
KEYS = [f"k{i}" for i in range(5)]


def rows(keys, n=2):
    return [{"key": key, "sample": sample} for key in keys for sample in range(n)]


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# ---- the file


def test_chunks_may_come_in_any_order_and_never_twice(tmp_path):
    path = tmp_path / "samples.jsonl"
    one, other = (Chunks(path, KEYS, 2, 2) for _ in range(2))
    assert one.append(1, rows(KEYS[2:4]))
    assert other.append(0, rows(KEYS[:2]))
    assert not one.append(0, rows(KEYS[:2]))  # the other has it already
    assert one.append(2, rows(KEYS[4:]))
    assert one.finished() == other.finished() == {0, 1, 2}
    assert len(lines(path)) == 10


@pytest.mark.parametrize("left", [0, 1, 15, 29, 60])
def test_the_rest_of_a_kill_is_cut_by_the_next_writer(tmp_path, left):
    path = tmp_path / "samples.jsonl"
    Chunks(path, KEYS, 2, 2).append(0, rows(KEYS[:2]))
    whole = path.read_bytes()
    torn = "".join(json.dumps(row) + "\n" for row in rows(KEYS[2:4])).encode()[:left]
    path.write_bytes(whole + torn)
    writer = Chunks(path, KEYS, 2, 2)
    assert writer.append(2, rows(KEYS[4:]))
    assert path.read_bytes() == whole + "".join(json.dumps(row) + "\n" for row in rows(KEYS[4:])).encode()
    assert writer.finished() == {0, 2}


@pytest.mark.parametrize(
    "content",
    [rows(["foreign"]), rows(KEYS[:1]) * 2, rows(["k1", "k0"]), [{"key": "k0", "sample": 1}]],
    ids=["foreign", "twice", "order", "sample"],
)
def test_samples_that_cannot_be_are_named(tmp_path, content):
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content))
    with pytest.raises(DataError, match="this sample is not of"):
        Chunks(path, KEYS, 2, 2).finished()


def test_an_evaluation_of_an_older_version_goes_on_and_another_model_is_refused(tmp_path):
    new = EvalConfig("m", "countdown", n=2, budgets=(0, 8)).to_dict()
    old = {key: value for key, value in new.items() if key not in ("votes", "top_p", "extensions", "window")}
    (tmp_path / "eval.json").write_text(json.dumps({"schema_version": 1, "name": "a", **old}))
    claim(tmp_path, new, "a", EvalConfig.defaults(), {"weights": "1"})
    with pytest.raises(ConfigError, match="votes=0 there"):
        claim(tmp_path, {**new, "votes": 4}, "a", EvalConfig.defaults())
    claim(tmp_path / "new", new, "a", identity={"weights": "1"})
    with pytest.raises(ConfigError, match="of other weights under the same name"):
        claim(tmp_path / "new", new, "a", identity={"weights": "2"})


def test_the_fingerprint_follows_weights_and_template(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    for name, text in {"config.json": "{}", "model.safetensors": "w", "tokenizer.json": "t", "README.md": "r"}.items():
        (model / name).write_text(text)
    before = fingerprint_model(str(model))
    (model / "README.md").write_text("another")
    assert fingerprint_model(str(model)) == before
    (model / "tokenizer.json").write_text("another")
    assert fingerprint_model(str(model))["weights"] == before["weights"]
    assert fingerprint_model(str(model))["tokenizer"] != before["tokenizer"]
    (model / "model.safetensors").write_text("v")
    assert fingerprint_model(str(model))["weights"] != before["weights"]


def test_a_chunk_is_small_where_thoughts_are_long():
    assert EvalConfig("m", "files", n=4, budgets=(0, 120)).chunk == 50
    assert EvalConfig("m", "files", n=16, budgets=(0, 2048)).chunk == 7
    assert EvalConfig("m", "files", n=16, budgets=(0, 16384)).chunk == 1


# ---- whole runs


@pytest.fixture(scope="module")
def everything(tiny_dir, tmp_path_factory):
    """One evaluation with all that can be asked for."""
    out = tmp_path_factory.mktemp("runs") / "all"
    beyond = {"votes": 3, "extensions": [1, 2], "extension_tokens": 4, "window": 1, "window_tokens": 4}
    train = out.parent / "train.jsonl"
    train.write_text(json.dumps({"text": "1 1 1->3"}) + "\n")
    found = run_eval(str(tiny_dir), "countdown", out, DIALS, limit=12, **SMALL, **beyond, train_files=[train])
    return out, found


def test_no_answer_lies_beyond_its_budget(everything):
    out, found = everything
    for row in lines(out / "samples.jsonl"):
        assert row["thinking_tokens"] <= 8
        assert [item["budget"] for item in row["extended"]] == [12, 16]
        assert all(item["thinking_tokens"] <= item["budget"] for item in row["extended"] + row["linearized"])
        assert len(row["votes"]) == len(row["episodes"]) + 1
        assert all(len(group) == 3 for group in row["votes"])
        assert row["verdict"] != "wrong" if row["truncated"] else row["verdict"] != "truncated"
    assert [line["budget"] for line in found["extrapolation"]] == [12, 16]
    assert [line["budget"] for line in found["linearized"]] == [0, 8]
    assert [line["k"] for line in found["pass_at_k"]] == [1, 2]
    assert [one["p"] for one in found["maj_after_episode"]["curves"]] == [1, 2, 3]
    assert found["pass_at_k"][0]["mean"] == pytest.approx(found["accuracy"]["mean"])
    assert found["maj_at_k"][0]["mean"] == pytest.approx(found["accuracy"]["mean"])
    assert found["regret_at_budget"][-1]["mean"] == pytest.approx(found["normalised_regret"]["mean"])
    assert all(sum(v for k, v in line.items() if k != "budget") == 24 for line in found["verdicts_at_budget"])
    assert found["contamination"]["checked"] == 12


def test_grading_again_changes_nothing_and_needs_no_model(everything, monkeypatch):
    out, found = everything
    before = (out / "samples.jsonl").read_bytes()
    monkeypatch.setattr("mrt.reasoning.evaluation.sampler.open_engine", None)
    again = regrade(out)
    assert (out / "samples.jsonl").read_bytes() == before
    assert again.pop("regraded")["changed"] == 0
    assert {**again, "environment": None} == {**found, "environment": None}


def test_grading_again_follows_the_grader(everything, tmp_path):
    import shutil

    from mrt.reasoning.grading.verdict import Grade, Verdict
    from mrt.reasoning.problems import load_problems

    shutil.copytree(everything[0], tmp_path / "copy")
    problem_set = load_problems("countdown", **DIALS)
    problem_set.grade = lambda problem, text, opened=None: Grade(Verdict.CORRECT, "x")
    found = regrade(tmp_path / "copy", problem_set)
    truncated = [row["truncated"] for row in lines(tmp_path / "copy" / "samples.jsonl")]
    assert found["regraded"]["changed"] > 0
    assert found["accuracy"]["mean"] == 1.0
    assert found["accuracy_by_itself"]["mean"] == pytest.approx(1 - sum(truncated) / len(truncated))


def test_regrading_needs_the_answers(tmp_path):
    with pytest.raises(ConfigError, match="no evaluation to grade again"):
        regrade(tmp_path)


def test_the_number_of_processes_does_not_matter(tiny_dir, tmp_path, monkeypatch):
    def run(out, rank=0, world=1):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(world))
        return run_eval(str(tiny_dir), "countdown", out, DIALS, limit=5, **SMALL, probe="sampled")

    monkeypatch.setattr("mrt.reasoning.evaluation.config.CHUNK", 1)
    alone = run(tmp_path / "a")
    assert run(tmp_path / "b", 1, 2) == {}
    shared = run(tmp_path / "b", 0, 2)
    one, two = (sorted(lines(tmp_path / x / "samples.jsonl"), key=lambda r: (r["place"], r["sample"])) for x in "ab")
    assert one == two
    drop = dict.fromkeys(("name", "environment"))
    assert {**shared, **drop} == {**alone, **drop}
    assert (tmp_path / "a/problems.json").read_text() == (tmp_path / "b/problems.json").read_text()


def killed(tmp_path, tiny_dir, kills, seed):
    done = run_module("tests.programs.eval_kills", tiny_dir, tmp_path, kills, seed)
    return json.loads(done.stdout.splitlines()[-1])


def test_kills_lose_no_sample_and_end_in_the_same_table(tiny_dir, tmp_path):
    found = killed(tmp_path, tiny_dir, kills=2, seed=0)
    assert found["kills"] == 2
    assert found["same_samples"]
    assert found["same_results"]
    assert found["lost"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_fifty_kills(tiny_dir, tmp_path):
    found = killed(tmp_path, tiny_dir, kills=50, seed=1)
    assert (found["kills"], found["lost"], found["same_samples"], found["same_results"]) == (50, 0, True, True)
