"""The speed benchmarks run, and what they print has the shape that others read. No figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from evals.speed.common import Clock, Timed, compare, interleaved, summary
from mrt.reasoning.models.tiny import save_tiny

pytestmark = pytest.mark.training

MACHINE = {"processor", "cores", "threads", "torch", "python", "commit"}


def smoke(root: Path, program: str, *options: str) -> dict[str, Any]:
    """The only object on stdout; progress is on stderr."""
    command = [sys.executable, "-m", f"evals.speed.{program}", "--smoke", "--json", *options]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "1/1" in done.stderr
    result = json.loads(done.stdout)
    assert set(result["machine"]) >= MACHINE
    return result


def check(key: dict[str, Any], top: str, bottom: str, worst: Any) -> None:
    """Ratio, both sides and cases; the ratio on top is that of the worst case."""
    names = ("ratio", f"{top}_seconds", f"{bottom}_seconds")
    for part in (key, *key["cases"].values()):
        assert all(part[name] > 0 for name in names)
    assert key["ratio"] == worst(case["ratio"] for case in key["cases"].values())
    assert key["cases"][key["worst_case"]]["ratio"] == key["ratio"]


def test_probes(root: Path) -> None:
    result = smoke(root, "probes")
    answers, probes = result["reprefill_over_shared"], result["gold_over_sampled"]
    check(answers, "reprefill", "shared", min)
    check(probes, "sampled", "gold", min)
    assert (answers["target_at_least"], probes["target_at_least"]) == (4, 3)
    assert list(probes["cases"]) == ["smoke, exact", "smoke, tolerance 0.02"]
    for case in answers["cases"].values():  # two prefixes of 24 and 40 positions a trace, each run for both answers
        assert case["reprefill_positions"] == 2 * 2 * (24 + 40) + 2 * 2 * 2 * 2
        assert case["shared_positions"] == 2 * 38 + 2 * 2 * 2 + 2 * 2 * 2 * 2
    exact, cut = probes["cases"].values()
    assert exact["behind_the_pass"]["gold_positions"] == exact["gold_positions"] - 2 * 38
    assert exact["sampled_positions"] == next(iter(answers["cases"].values()))["shared_positions"]
    assert cut["gold_positions"] < exact["gold_positions"]
    floor = result["tokens_over_floor"]
    assert (floor["ratio"], floor["target_at_most"]) == (max(case["ratio"] for case in floor["cases"].values()), 1.1)
    assert [case["floor"] for case in floor["cases"].values()] == [2 * 38 + 2 * 2 * 2 + 2 * 2 * 2 * 3] * 2
    assert [case["positions"] for case in floor["cases"].values()] == [100, 100 - 2 * 38]


@pytest.mark.slow
def test_trainer(root: Path) -> None:
    result = smoke(root, "trainer")
    beside, share = result["mrt_over_grpo"], result["probe_share"]
    check(beside, "mrt", "grpo", max)
    check(share, "probes", "step", max)
    assert beside["target_at_most"] == 1.05
    assert beside["a_over_a"] > 0
    assert set(beside["on"]) == {"both", "mrt", "grpo"}
    assert list(share["cases"]) == ["exact", "tolerance 0.02"]
    for case in share["cases"].values():
        assert 0 < case["ratio"] < 1
        assert sum(case["parts"].values()) == pytest.approx(case["step_seconds"], rel=1e-3)
        assert all(case["parts"][part] > 0 for part in ("sampling", "probes", "loss", "backward", "rest"))


@pytest.mark.slow
def test_trainer_on_a_model_of_ones_own(root: Path, tmp_path: Path) -> None:
    """The tiny model in place of a pretrained one, in half precision."""
    result = smoke(root, "trainer", "--model", str(save_tiny(tmp_path / "model")), "--dtype", "bfloat16")
    assert result["dtype"] == "bfloat16"
    for name, (top, bottom, worst, target) in {
        "mrt_over_grpo": ("mrt", "grpo", max, 1.05),
        "sampling_over_generate": ("generate", "ours", min, 1.0),
        "probes_over_step": ("probes", "step", max, 0.3),
        "probe_memory": ("peak", "prefill", max, 1.5),
    }.items():
        check(result[name], top, bottom, worst)
        assert result[name]["target_at_least" if worst is min else "target_at_most"] == target
    (probes,) = result["probes_over_step"]["cases"].values()
    assert set(probes["parts"]) == {"sampling", "probes", "update"}
    (memory,) = result["probe_memory"]["cases"].values()
    assert memory["peak"] > memory["weights"] > 0


def test_sides_take_turns_and_ratios_are_paired() -> None:
    order: list[str] = []
    timed = interleaved("ab", lambda name, number: lambda: order.append(f"{name}{number}"), 3, "")
    assert order == ["a0", "b0", "b1", "a1", "a2", "b2"]
    assert [len(one.cpu) for one in timed.values()] == [3, 3]
    figures = compare(Timed([2, 9, 8], [1, 1, 1]), Timed([1, 3, 2], [2, 4, 8]), ("top", "bottom"))
    assert figures["ratios"] == [2, 3, 4]
    assert (figures["ratio"], figures["ratio_by_cpu"]) == (3, 0.25)
    assert (figures["top_seconds"], figures["bottom_seconds"]) == (8, 2)


def test_the_worst_case_depends_on_the_side_of_the_target() -> None:
    cases = {"x": {"ratio": 2.0, "a_seconds": 4.0, "ratios": [2.0]}, "y": {"ratio": 3.0, "a_seconds": 9.0}}
    low, high = summary(cases, at_least=4.0), summary(cases, at_most=1.05)
    assert (low["worst_case"], low["ratio"], low["a_seconds"]) == ("x", 2.0, 4.0)
    assert (high["worst_case"], high["ratio"], high["a_seconds"]) == ("y", 3.0, 9.0)
    assert "ratios" not in low
    assert summary(cases)["worst_case"] == "y"


def test_a_part_is_charged_without_the_parts_that_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("evals.speed.common.time.process_time", lambda: now[0])

    def spend(seconds: float, then: Any = None) -> None:
        now[0] += seconds
        if then:
            then()

    clock = Clock()
    clock.start()
    inner = clock.around("inner", lambda: spend(2))
    outer = clock.around("outer", lambda: spend(3, inner))
    spend(1)
    outer()
    spend(0.5)
    clock.charge()
    assert clock.seconds == {"rest": 1.5, "outer": 3, "inner": 2}
