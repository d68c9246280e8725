"""Cost, schedules and logged means over several processes."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest

from mrt.reasoning.training.averages import Averages
from mrt.reasoning.training.cost import weighed
from mrt.training.collection import Cost
from tests.support.processes import run_module

pytestmark = pytest.mark.training


def test_both_processes_stop_and_learn_alike_and_log_what_both_did() -> None:
    """One process has traces three times as long as the other's."""
    done = run_module("tests.programs.cost_ranks", processes=2, timeout=300)
    one, other = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[{")))
    assert one["steps"] == other["steps"] < 50
    assert one["stopped"] == other["stopped"] == [3, True]  # by a file that the main process alone has
    assert one["cost"] == other["cost"]
    assert one["rates"] == other["rates"]
    assert one["sums"] == pytest.approx(other["sums"], abs=1e-9)
    for ours, theirs in zip(one["logged"], other["logged"], strict=True):
        of_a_clock = {"step_time", "epoch"}
        assert set(ours) == set(theirs)
        assert {
            name for name in set(ours) - of_a_clock if ours[name] != pytest.approx(theirs[name], nan_ok=True)
        } == set()
    assert {"odd", "reward", "clip_ratio/region_mean", "probe/J0", "entropy", "grad_norm"} <= set(one["logged"][0])
    logged = one["logged"]
    assert logged[-2]["cost/total"] < 3000 <= logged[-1]["cost/total"] == one["cost"]["total"]
    for before, row in pairwise(logged):
        assert row["learning_rate"] == pytest.approx(0.1 * (1 - before["cost/total"] / 3000))
        assert row.get("progress/alpha", 0.0) == pytest.approx(max(0.0, 1 - row["cost/total"] / 3000))
    for step, row in enumerate(logged):
        both = [*one["episodes"][4 * step : 4 * step + 4], *other["episodes"][4 * step : 4 * step + 4]]
        assert row["completions/episodes"] == pytest.approx(sum(both) / 8)
        assert row["regret/stop"] == pytest.approx(sum(both) / 8, abs=1e-6)  # J is all but 0


def test_means_leave_out_what_was_not_measured() -> None:
    found = Averages(("a", "b"))
    found.add("a", [1.0, math.nan, 3.0])
    found.add("c", [])
    means = found.means()
    assert means["a"] == 2.0
    assert math.isnan(means["b"])
    assert math.isnan(means["c"])


def test_an_update_weighs_three_times() -> None:
    cost = Cost(("sampled", "probed", "updated"))
    cost.add(sampled=10, probed=5, updated=4)
    assert weighed(cost)["total"] == 0  # not summed up yet
    cost.sum_up(lambda values: 2 * values)
    assert weighed(cost) == {"sampled": 20, "probed": 10, "updated": 8, "total": 54}
