"""What passes: the mean and two thirds of the seeds, all of them there, none tuned on, beyond the trivial baseline."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from evals.gates import __main__ as command
from evals.gates import table
from evals.gates.runner import Runner
from evals.gates.store import CHANGED, FEW, LOW, MISSED, PASSED, SAME, UNKNOWN, Store, rows, verdict_of
from evals.gates.table import Bar, Gate, gates
from mrt.errors import ConfigError

pytestmark = pytest.mark.training


def scores(*means: float, se: float = 0.01) -> list[dict[str, Any]]:
    return [{"mean": mean, "se": se, "floor": 0.0, "ceiling": 1.0} for mean in means]


@pytest.mark.parametrize(
    ("means", "verdict"),
    [
        ((1.5, 1.6, 1.7), PASSED),
        ((1.5, 1.6, 2.1), PASSED),  # two thirds, and the mean
        ((1.5, 2.1, 0.9), MISSED),  # the mean is in the band, one seed of three is
        ((1.9, 1.9, 2.8), MISSED),  # two thirds are, the mean is not
        ((1.5, 1.6), FEW),
        ((2.5,), MISSED),  # a miss is told however few there are
        ((), FEW),
        ((float("nan"), 1.5, 1.5), MISSED),
    ],
)
def test_a_bar_asks_for_the_mean_and_for_two_thirds_of_the_seeds(means: tuple[float, ...], verdict: str) -> None:
    assert verdict_of(Bar(band=(1, 2)), scores(*means), 3, 0.5) == verdict


def test_a_bar_that_a_trivial_baseline_passes_is_too_low() -> None:
    assert verdict_of(Bar(band=(0.5, 1)), scores(0.9, 0.9, 0.9), 3, 0.745) == LOW
    assert verdict_of(Bar(band=(0.8, 1)), scores(0.9, 0.9, 0.9), 3, 0.745) == PASSED
    assert verdict_of(Bar(band=(None, 1.1)), scores(0.9, 0.9, 0.9), 3, 1.0) == LOW
    assert verdict_of(Bar(above=0.0), scores(0.9, 0.9, 0.9), 3, 0.0) == PASSED
    assert verdict_of(Bar(above=0.0), scores(0.9, 0.9, 0.9), 3, 0.1) == LOW
    assert verdict_of(Bar(band=(0.5, 1), check=True), scores(0.9, 0.9, 0.9), 3, 0.745) == PASSED


def test_single_seeds_are_held_to_the_bar_that_is_asked() -> None:
    assert Bar(above=1.0).holds_one(1.01, 0.5, None)
    assert not Bar(above=1.0).holds_one(1.0, 0.0, None)
    assert Bar(chance=True).holds_one(5.2, 0.1, 5.0)
    assert not Bar(chance=True).holds_one(5.4, 0.1, 5.0)


def stored(gate: Gate, root: Path, means: dict[int, float], **more: Any) -> list[dict[str, Any]]:
    """The rows of a gate whose results are these."""
    for seed, mean in means.items():
        one = {"mean": mean, "se": 0.01, "floor": 0.2, "ceiling": 1.0}
        content = {
            "digest": gate.digest(seed),
            "code": more.get("code", gate.code()),
            "scores": {name: {**one, "mean": more.get(name, mean)} for name in gate.measures},
            "failures": [],
            "steps": 1,
            "minutes": 1.0,
            "measure_minutes": 0.0,
        }
        path = Store(root).path(gate, seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    return rows(gate, Store(root))


def strokes(system: str = "mann") -> Gate:
    (gate,) = gates(["strokes-beside"], [system])
    return gate


def test_tuning_seeds_can_miss_but_never_pass(tmp_path: Path) -> None:
    gate = strokes()
    (row, _) = stored(gate, tmp_path, {0: 0.9}, nearest=0.745)
    assert (row["verdict"], row["passed"], row["seeds"], row["tuning_seeds"]) == (FEW, False, [], {0: 0.9})
    (row, _) = stored(gate, tmp_path, {0: 0.5}, nearest=0.745)
    assert row["verdict"] == MISSED
    (row, beside) = stored(gate, tmp_path, {1: 0.9, 2: 0.92, 3: 0.9}, nearest=0.745)
    assert (row["verdict"], row["seed_numbers"], row["seeds_in_band"], row["tuning_seeds"]) == (
        PASSED,
        [1, 2, 3],
        3,
        {0: 0.5},
    )
    assert (row["trivial"], row["trivial_name"]) == (0.745, "pixels' nearest neighbour")
    assert (beside["verdict"], beside["passed"]) == (None, None)
    (row, _) = stored(gate, tmp_path, {1: 0.9, 2: 0.92, 3: 0.9}, nearest=0.8)
    assert row["verdict"] == LOW, "measured beside, the trivial baseline is inside the band"


def test_rows_are_marked_where_the_code_has_changed(tmp_path: Path) -> None:
    gate = strokes()
    assert {row["code"] for row in stored(gate, tmp_path, {1: 0.9, 2: 0.9})} == {SAME}
    assert {row["code"] for row in stored(gate, tmp_path, {1: 0.9}, code="0123456789abcdef")} == {CHANGED}
    assert {row["code"] for row in stored(gate, tmp_path, {1: 0.9}, code=None)} == {UNKNOWN}


def test_the_store_shows_its_misses() -> None:
    """What the review found inside passing rows, and systems below the pixels' nearest neighbour, do not pass."""
    for name, system, measure in (
        ("strokes-beside", "mann", "accuracy"),
        ("strokes-beside", "finetune", "accuracy"),
        ("T26", "maml-trpo", "return_3"),
        ("T30", "lola", "joint"),
    ):
        (gate,) = gates([name], [system])
        found = {row["measure"].removesuffix("_beside"): row for row in rows(gate, Store())}
        assert found[measure]["passed"] is False, (name, system)
    (gate,) = gates(["T30"], ["lola"])
    assert not set(gate.tuning_seeds) & set(gate.gate_seeds())
    assert {0, 1, 2, 3} <= set(gate.tuning_seeds)


def test_gate_seeds_leave_the_tuning_seeds_out() -> None:
    gate = dataclasses.replace(strokes(), tuning_seeds=(0, 2))
    assert gate.gate_seeds() == [1, 3, 4]
    assert gate.gate_seeds(5) == [1, 3, 4, 5, 6]
    assert all(len(one.gate_seeds()) >= 3 and not set(one.gate_seeds()) & set(one.tuning_seeds) for one in gates())


ONE = """
S1:
  title: a bandit
  tasks: 3
  pass: {total: {band: [1, 3]}}
  trivial: {total: {value: 0.5, name: a fixed arm}}
  systems: {rl2: {recipe: control/rl2-bandit}}
"""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  tasks: 3", "  tasks: 3\n  seeds: 1", "seeds=1 must be at least 3"),
        ("  trivial: {total: {value: 0.5, name: a fixed arm}}\n", "", "the bar on total needs a trivial baseline"),
        ("value: 0.5", "value: 1.5", r"a fixed arm \(1.5\) passes the bar on total"),
        ("value: 0.5", "measure: nearest", "the bar on total needs a trivial baseline"),
    ],
)
def test_a_gate_that_could_pass_without_showing_anything_is_refused(
    old: str, new: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "table.yaml"
    monkeypatch.setattr(table, "TABLE", path)
    path.write_text(ONE)
    assert len(gates()) == 1
    path.write_text(ONE.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        gates()


def test_negative_controls_checks_and_chance_need_no_trivial_baseline() -> None:
    exempt = [gate for gate in gates() if set(gate.bars) - set(gate.trivial)]
    for gate in exempt:
        left = [bar for name, bar in gate.bars.items() if name not in gate.trivial]
        assert gate.negative_control or all(bar.check or bar.chance for bar in left)
    assert {gate.name for gate in exempt} == {
        "T10",
        "T21",
        "T22",
        "T24-ablation",
        "T26",
        "T30-naive",
        "T32-ablation",
        "T34",
        "T38-end-to-end",
        "T44-gamble-mfec",
    }


def test_the_longest_runs_first_and_what_is_stored_is_left_out(tmp_path: Path) -> None:
    one, two, three = (strokes(system) for system in ("finetune", "mann", "tcml"))
    kept = Store(tmp_path / "store")
    for gate, minutes in ((one, 1.0), (two, 9.0)):
        stored(gate, kept.root, {0: 0.9})
        content = json.loads(kept.path(gate, 0).read_text()) | {"minutes": minutes}
        kept.path(gate, 0).write_text(json.dumps(content))
    runner = Runner(tmp_path / "runs", kept)
    assert [gate.system for gate, _ in runner.longest_first([(one, 1), (three, 1), (two, 1)])] == [
        "mann",
        "tcml",
        "finetune",
    ]
    names = [step.name for step in runner.steps([(one, 0), (one, 1), (two, 0), (two, 1)])]
    assert names == [f"{kind}strokes-beside-{system}-1" for system in ("mann", "finetune") for kind in ("", "measure-")]


def test_a_run_of_other_code_or_configuration_lies_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = strokes()
    before = gate.run_name(1)
    assert dataclasses.replace(gate, tasks=7).run_name(1) == before
    assert dataclasses.replace(gate, overrides=("args.max_steps=7",)).run_name(1) != before
    monkeypatch.setattr(table, "code_hash", lambda modules: "other")
    assert gate.run_name(1) != before


def test_gates_whose_model_is_not_there_are_left_out_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (gate,) = gates(["lora"])
    Runner(tmp_path / "runs", Store(tmp_path / "store")).run([(gate, 1)])
    assert "lora lora is left out: runs/quickstart/warmstart/model is not there" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_call_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(self: Runner, jobs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Runner, "run", interrupted)
    assert command.main(["T10", "--store", str(tmp_path)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err
