"""What a learned belief costs: nothing for the exact one, and by hand for one that never learns."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from evals.control.belief_cost import cost, main, table
from mrt.cli.main import main as command
from mrt.control.agent import ScriptedAgent
from mrt.control.envs import make_tasks
from mrt.control.oracles.beliefs import BELIEF, RoomSearch, TwoHypotheses
from mrt.errors import ConfigError


class Uninformed(ScriptedAgent):
    """Pulls the first arm and believes in both tasks alike."""

    def choose(self, observation: torch.Tensor, state: dict[str, Any]) -> torch.Tensor:
        return torch.zeros(len(observation), dtype=torch.long)

    def extras(self, state: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {BELIEF: torch.full((state["rows"], 2), 0.5)}


def test_the_exact_belief_costs_nothing() -> None:
    tasks = make_tasks("dependent-bandit", kind="medium", pulls=4)
    found = cost(TwoHypotheses(tasks.env), tasks, 200)  # type: ignore[arg-type]
    assert [row["lost"] for row in found["episodes"]] == [0.0]
    assert found["nats"]["mean"] == pytest.approx(0.0, abs=1e-6)
    rooms = make_tasks("grid-navi", episodes=2)
    found = cost(RoomSearch(rooms.env), rooms, 100)  # type: ignore[arg-type]
    assert [row["lost"] for row in found["episodes"]] == [0.0, 0.0]
    assert found["nats"]["mean"] == pytest.approx(0.0, abs=1e-6)


def test_staying_with_the_prior_costs_what_is_to_be_known() -> None:
    """Before pull n the exact belief has seen n of chance 3/4: the divergence is what they say of the task."""
    pulls, by_hand = 4, 0.0
    for n in range(pulls):
        for k in range(n + 1):
            chance = math.comb(n, k) * 0.75**k * 0.25 ** (n - k)
            by_hand += chance * math.log(2 / (1 + 3.0 ** (n - 2 * k))) / pulls
    tasks = make_tasks("dependent-bandit", kind="medium", pulls=pulls)
    found = cost(Uninformed(), tasks, 4000)
    assert found["nats"]["mean"] == pytest.approx(by_hand, abs=4 * found["nats"]["se"])
    assert found["episodes"][0]["learned"] == pytest.approx(2.0, abs=0.1)
    assert found["episodes"][0]["lost"] > 0.3
    assert "| prior | 1 | " in table({"prior": found})


def test_without_an_exact_agent_nothing_is_said() -> None:
    with pytest.raises(ConfigError, match="no agent is known that acts on the exact belief about point-robot"):
        cost(Uninformed(), make_tasks("point-robot"), 3)


@pytest.mark.training
def test_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changed = ["use_cpu=true", "disable_tqdm=true", "report_to=none", "max_steps=1", "updates_per_step=1",
               "per_device_train_batch_size=4", "inference_batch=2"]  # fmt: skip
    options = [*(f"args.{one}" for one in changed), "tasks.episodes=2", "policy.hidden_size=8"]
    assert command(["train", "inference/varibad-grid-navi", *options, f"output_dir={tmp_path / 'run'}"]) == 0
    capsys.readouterr()
    assert main([str(tmp_path / "run"), "--tasks", "40", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[str(tmp_path / "run")]
    assert len(found["episodes"]) == 2
    assert found["nats"]["mean"] > 0.1
    assert main([str(tmp_path), "--tasks", "3"]) == 2
