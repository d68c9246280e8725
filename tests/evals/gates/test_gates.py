"""The gates runner: the table is sound, results are stored by seed, found again, and refused for other settings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from evals.gates import __main__ as command
from evals.gates import measures, results, table
from evals.gates.runner import Runner
from evals.gates.store import GATES, Store
from evals.gates.table import Bar, gates
from mrt.control.agent import ScriptedAgent
from mrt.control.envs import make_env
from mrt.errors import ConfigError

pytestmark = pytest.mark.training

SMALL = """
S1:
  title: a bandit, hardly trained
  tasks: 300
  pass: {total: {band: [0.1, 3]}}
  trivial: {total: {value: 0.0, name: no pull at all, source: exact}}
  measures: [total, regret]
  systems:
    rl2:
      recipe: control/rl2-bandit
      overrides: [tasks.arms=2, tasks.pulls=4, args.max_steps=2, args.per_device_train_batch_size=16]
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    path = tmp_path / "table.yaml"
    path.write_text(SMALL)
    monkeypatch.setattr(table, "TABLE", path)
    return ["--runs", str(tmp_path / "runs"), "--store", str(tmp_path / "store")]


def run_here(arguments: list[str], folders: list[str]) -> int:
    """The runner with its steps in this process, where the table is the small one."""
    ns = command._parser().parse_args([*arguments, *folders])
    from mrt.cli import main as cli
    from mrt.runs.rundir import write_json

    runner = Runner(ns.runs, Store(ns.store))
    for gate in gates(ns.gates or None):
        for seed in gate.gate_seeds(ns.seeds):
            if not runner.store.read(gate, seed):
                assert cli.main(["train", gate.recipe, *gate.overrides_for(seed, runner.folder(gate, seed))]) == 0
                write_json(runner.store.path(gate, seed), runner.measure(gate, seed))
    return command.main([*arguments, *folders, "--cached"])


def test_every_gate_of_the_table_can_be_trained_and_measured() -> None:
    found = gates()
    assert {gate.number for gate in found} >= {f"T{n}" for n in (*range(1, 11), 15, 19, 48)}
    assert list(dict.fromkeys(gate.name for gate in gates(["T6"]))) == ["T6-medium", "T6-hard"]
    assert {gate.name for gate in gates(["T6-hard"])} == {"T6-hard"}
    for gate in found:
        recipe = gate.load(0, Path("run"))
        assert recipe.args["max_steps"] > 0
        assert gate.bars, f"{gate.name} can never fail"
        for bar in gate.bars.values():
            assert bar.band != (None, None) or bar.above is not None or bar.chance
        if not gate.function:
            make_env(**{key: value for key, value in recipe.tasks.items() if key != "split"})
            assert set(gate.bars) <= set(gate.measures)
    for name in ("T1", "T3", "T5", "T8"):
        assert "transformer" in {gate.system for gate in found if gate.name == name}


def test_what_passes() -> None:
    assert Bar(band=(1, 2)).passed(1.0, 9.0, None)
    assert Bar(band=(1, 2)).passed(2.0, 9.0, None)
    assert not Bar(band=(1, 2)).passed(0.999, 9.0, None)
    assert not Bar(band=(1, 2)).passed(2.001, 9.0, None)
    assert Bar(band=(None, 2)).passed(-5, 0, None)
    assert Bar(above=1.0).passed(1.3, 0.1, None)
    assert not Bar(above=1.0).passed(1.2, 0.1, None)  # 1.2 - 2 * 0.1 is not above 1
    assert Bar(chance=True).passed(5.2, 0.1, 5.0)
    assert not Bar(chance=True).passed(5.31, 0.1, 5.0)
    assert not Bar(chance=True).passed(5.0, 0.1, None)
    assert not Bar(band=(0, 1)).passed(math.nan, 0.1, None)


def test_a_gate_is_run_stored_and_printed(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["S1", "--cached", *small]) == 1
    assert "nothing is stored with these settings: S1 rl2" in capsys.readouterr().err
    assert run_here(["S1"], small) == 0
    capsys.readouterr()
    assert command.main(["S1", "--cached", "--json", *small]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["gate"], row["system"], row["measure"]) for row in rows] == [
        ("S1", "rl2", "total"),
        ("S1", "rl2", "regret"),
    ]
    wanted = {
        "gate",
        "system",
        "measure",
        "mean",
        "se",
        "seeds",
        "floor",
        "ceiling",
        "paper",
        "band",
        "passed",
        "steps",
    }
    assert wanted | {"minutes"} <= set(rows[0])
    total, regret = rows
    assert total["mean"] == pytest.approx(sum(total["seeds"]) / 3, abs=1e-4)
    assert total["floor"] == pytest.approx(2.0, abs=0.1)  # four pulls of two arms at random
    assert total["ceiling"] == pytest.approx(_two_arms(4, (1, 1), (1, 1)), abs=1e-4)
    assert total["mean"] + regret["mean"] == pytest.approx(8 / 3, abs=0.15)
    assert total["steps"] == 2 * 16 * 4 // 2  # two updates learn from one collection of 16 trials of 4 pulls
    assert total["se"] > 0


def _two_arms(pulls: int, *arms: tuple[int, int]) -> float:
    """The exact Bayes-optimal value of Beta(a, b) arms, by going through every outcome."""
    if pulls == 0:
        return 0.0
    best = 0.0
    for i, (a, b) in enumerate(arms):
        won = [*arms[:i], (a + 1, b), *arms[i + 1 :]]
        lost = [*arms[:i], (a, b + 1), *arms[i + 1 :]]
        chance = a / (a + b)
        value = chance * (1 + _two_arms(pulls - 1, *won)) + (1 - chance) * _two_arms(pulls - 1, *lost)
        best = max(best, value)
    return best


def test_a_seed_that_differs_from_what_is_stored_is_told(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run_here(["S1"], small)
    ns = command._parser().parse_args(["S1", *small])
    (gate,) = gates(["S1"])
    path = Store(ns.store).path(gate, 1)
    stored = json.loads(path.read_text())
    again = Store(ns.runs / "check" / "store").path(gate, 1)
    again.parent.mkdir(parents=True)
    again.write_text(json.dumps(stored))  # as if the run had just been repeated
    assert command.main(["S1", "--check-seed", "1", *small]) == 0
    assert "equal" in capsys.readouterr().out
    stored["scores"]["total"]["mean"] += 1.0
    path.write_text(json.dumps(stored))
    assert command.main(["S1", "--check-seed", "1", *small]) == 1
    said = capsys.readouterr().out
    assert "total, seed 1" in said
    assert "DIFFERS" in said


def test_results_of_other_settings_do_not_count(
    small: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(["S1"], small)
    table.TABLE.write_text(SMALL.replace("args.max_steps=2", "args.max_steps=3"))
    assert command.main(["S1", "--cached", *small]) == 1
    assert "nothing is stored with these settings: S1 rl2" in capsys.readouterr().err
    assert command.main(["S1", "--check-seed", "0", *small]) == 2
    assert "S1 rl2: seed 0 is not stored with these settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bar", "said"),
    [
        (table.Bar((None, 2.0)), "at most 2"),
        (table.Bar((6.58, None)), "at least 6.58"),
        (table.Bar((6.58, 6.68), above=6.58), "6.58 to 6.68"),
        (table.Bar(above=0.0), "mean - 2 SE above 0"),
        (table.Bar(chance=True), "random ± 3 SE"),
    ],
)
def test_the_page_says_what_is_asked(bar: table.Bar, said: str) -> None:
    assert results.asked(bar) == said


def test_a_gate_is_listed_once_however_it_is_asked_for() -> None:
    for names in (None, ["T24", "T24-ablation"]):
        listed = [(gate.name, gate.system) for gate in table.gates(names)]
        assert len(listed) == len(set(listed))


def test_the_page_shows_what_is_stored() -> None:
    """Cure: `python -m evals.gates --results`."""
    written = results.RESULTS.read_text(encoding="utf-8")
    assert results.gates_part(Store(GATES)) == written.split(f"\n\n{results.REASONING}")[0]


@pytest.mark.slow
def test_the_whole_page_shows_what_is_stored() -> None:
    """With the study of Countdown, whose intervals take a bootstrap each."""
    assert results.page(Store(GATES)) == results.RESULTS.read_text(encoding="utf-8")


def test_the_page_is_written_from_the_store(small: list[str], tmp_path: Path) -> None:
    run_here(["S1"], small)
    path = tmp_path / "RESULTS.md"
    results.write(Store(tmp_path / "store"), path)
    text = path.read_text()
    assert "Of 1 bars: 1 passed, 0 missed, 0 too few seeds, 0 bar too low." in text
    lines = text.split("## Black box\n\n")[1].split("\n\n")[0].splitlines()
    assert [line.count("|") for line in lines] == [16, 16, 16], "head, rule, and the one measure with a band"
    assert lines[2].startswith("| S1 a bandit, hardly trained | rl2 | total | ")
    assert "| 3 of 3 |" in lines[2]
    assert "| 0.1 to 3 | **passed** | 1.989 | 2.278 | " in lines[2]
    assert "| 0 no pull at all |  | same | " in lines[2]


def test_a_gate_that_misses_its_band_fails(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    table.TABLE.write_text(SMALL.replace("band: [0.1, 3]", "band: [2.6, 3]"))
    assert run_here(["S1"], small) == 1
    assert " MISSED " in capsys.readouterr().out


def test_gates_share_a_run_that_they_measure_on_other_tasks(small: list[str], tmp_path: Path) -> None:
    """Ten pulls instead of four at the second gate: the floor follows, the run is the same and is trained once."""
    second = SMALL.replace("S1:", "S2:").replace("    rl2:", "    rl2-longer:\n      measured: {pulls: 10}")
    table.TABLE.write_text(SMALL + second)
    one, other = gates()
    assert one.run_name(0) == other.run_name(0)
    assert one.digest(0) != other.digest(0)
    ns = command._parser().parse_args(["S1", *small])
    steps = Runner(ns.runs, Store(ns.store)).steps([(one, 0), (other, 0)])
    assert [(step.name, step.needs) for step in steps] == [
        ("S1-rl2-0", ()),
        ("measure-S1-rl2-0", ("S1-rl2-0",)),
        ("measure-S2-rl2-longer-0", ("S1-rl2-0",)),
    ]
    run_here([], small)
    floors = [
        json.loads((tmp_path / "store" / name / f"{system}-seed0.json").read_text())["scores"]["total"]["floor"]
        for name, system in (("S1", "rl2"), ("S2", "rl2-longer"))
    ]
    assert floors == pytest.approx([2.0, 5.0], abs=0.2)


def test_cached_prints_the_seeds_that_are_there(small: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One of three seeds is too few, and so is a gate of which nothing is stored: its name, and no success."""
    run_here(["S1", "--seeds", "1"], small)
    capsys.readouterr()
    assert command.main(["S1", "--cached", "--json", *small]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert [len(row["seeds"]) for row in shown] == [1, 1]
    assert [row["verdict"] for row in shown] == ["too few seeds", None]
    table.TABLE.write_text(SMALL + SMALL.replace("S1:", "S2:").replace("pulls=4", "pulls=5"))
    assert command.main(["--cached", *small]) == 1
    assert "nothing is stored with these settings: S2 rl2" in capsys.readouterr().err


def test_unknown_names_are_told() -> None:
    with pytest.raises(ConfigError, match="no gate 'T111'"):
        gates(["T111"])
    with pytest.raises(ConfigError, match=r"no system 'rl3'.*'rl2'"):
        gates(["T1"], ["rl3"])
    assert command.main(["T111"]) == 2


def test_the_two_step_signature_tells_model_based_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    from mrt.control.oracles.bandit_policies import TwoStepBayes
    from mrt.runs.recipe import load_recipe

    recipe = load_recipe("control/rl2-bandit", ["tasks={name: two-step, choices: 20}"])

    class Bayes:
        def eval(self) -> None:
            return None

    monkeypatch.setattr(measures, "load_agent", lambda run: Bayes())
    monkeypatch.setattr(measures, "Entrant", lambda policy, greedy: TwoStepBayes())
    optimal = measures.stay(Path("run"), recipe, 300)
    assert optimal.mean == 1.0
    monkeypatch.setattr(measures, "Entrant", lambda policy, greedy: _Habit())
    habit = measures.stay(Path("run"), recipe, 300)  # repeats whatever was rewarded, whichever way it came
    assert habit.mean == 0.0


class _Habit(ScriptedAgent):
    """Model-free: the first choice is repeated after a reward and changed without one."""

    def start(self, rows: int) -> dict[str, Any]:
        return {"choice": torch.zeros(rows, dtype=torch.long), "stage": 0}

    def choose(self, observation: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
        return state["choice"]

    def learn(self, seen: Any, state: dict[str, Any]) -> dict[str, Any]:
        kept = torch.where(seen["reward"] > 0, state["choice"], 1 - state["choice"])
        return {**state, "choice": kept if state["stage"] == 1 else state["choice"], "stage": 1 - state["stage"]}
