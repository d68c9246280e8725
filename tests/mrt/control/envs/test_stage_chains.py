"""Where chains of changing tasks begin: no chain may run past its last stage and play that one twice."""

from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.gradient.continuous import ContinuousConfig, ContinuousTrainer
from classic_metarl.problems.paired import paired_tasks
from mrt.control.envs import make_env, make_tasks
from mrt.errors import ConfigError

CHAINS: dict[str, dict[str, Any]] = {"fading-legs": {"stages": 7}, "sumo": {"rounds": 7}}


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("chain", [1, 2, 3, 7])
def test_chains_end_within_the_stages(name: str, chain: int) -> None:
    tasks = make_tasks(name, start="any", chain=chain, **CHAINS[name])
    stages = tasks.batch(0, range(400))["stage"]
    assert stages.unique().tolist() == list(range(7 - chain + 1))


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("chain", [0, 8])
def test_impossible_chains_are_refused(name: str, chain: int) -> None:
    with pytest.raises(ConfigError, match=f"chain={chain} must be from 1 to the 7 stages"):
        make_env(name, chain=chain, **CHAINS[name])


@pytest.mark.parametrize("chain", [2, 3, 4])
def test_training_never_plays_the_last_stage_twice(chain: int, tmp_path: Path) -> None:
    quick: dict[str, Any] = {"max_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no"}
    args = ContinuousConfig(output_dir=str(tmp_path), chain=chain, episodes=1, **quick)
    trainer = ContinuousTrainer.of(paired_tasks("fading-legs", stages=5, each=1, steps=3, start="any"), args)
    params = trainer.tasks.batch(0, range(200))
    played = torch.stack([trainer.stage_params(params, number)["stage"] for number in range(chain)], 1)
    assert int(played.max()) == 4
    assert played[:, 0].unique().tolist() == list(range(5 - chain + 1))
