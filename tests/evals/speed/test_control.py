"""The speed program of control runs, and its plain environments are the ones that the tensor ones stand beside."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mrt.control.envs import make_env

pytestmark = pytest.mark.training


def test_smoke(root: Path) -> None:
    command = [sys.executable, "-m", "evals.speed.control", "--smoke", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "1/1" in done.stderr
    result = json.loads(done.stdout)
    cache = result["cached_over_reread"]
    (case,) = cache["cases"].values()
    assert case["ratio"] > 0
    assert case["largest_difference"] < 1e-5  # both sides act the same
    assert cache["target_at_least"] == 20
    sync = result["tensor_over_sync"]
    if "skipped" not in sync:
        assert set(sync["cases"]) == {"bernoulli-bandit", "grid-navi", "dark-room"}
        assert sync["ratio"] == min(one["ratio"] for one in sync["cases"].values())
    loops = {**result["rl2_steps_per_second"]["cases"], **result["in_context_steps_per_second"]["cases"]}
    steps = {"bandit": 8 * 10, "GridNavi": 8 * 60, "transformer 2 x 64, 125 steps": 8 * 8 * 125}
    for name, one in loops.items():
        assert one["env_steps"] == steps[name]
        assert one["steps_per_second"] == pytest.approx(one["env_steps"] / one["loop_seconds"], rel=1e-3)
        assert sum(one["shares"].values()) == pytest.approx(1, abs=1e-3)
        assert all(share > 0 for share in one["shares"].values())
    assert "tiny sizes" in result["jax_over_ours"]["skipped"]
    assert set(result["update_exponent"]["cases"]) == {"gru", "lstm", "transformer"}


@pytest.mark.parametrize(("name", "dials"), [("grid-navi", {"episodes": 4}), ("dark-room", {"episodes": 4})])
def test_plain_rooms_equal_the_tensor_ones(name: str, dials: dict) -> None:
    pytest.importorskip("gymnasium", reason="the extra [control] is not installed")
    from evals.speed.plain_envs import PLAIN

    env, plain = make_env(name, **dials), PLAIN[name]()
    goal = 7
    seen = env.reset({"goal": torch.tensor([goal])})
    size = env.size  # type: ignore[attr-defined]
    expected, _ = plain.reset(options={"task": divmod(goal, size)})
    assert seen[0].tolist() == expected.tolist()
    actions, over = torch.randint(5, (100,), generator=torch.Generator().manual_seed(1)), False
    for action in actions:
        if over:
            break
        step = env.step(action[None])
        if bool(step.fresh):  # the plain one begins again without a step of its own
            step = env.step(action[None])
        seen, reward, _, over, _ = plain.step(int(action))
        assert step.observation[0].tolist() == seen.tolist()
        assert float(step.reward) == pytest.approx(reward)
        assert bool(step.trial_over) == over
    assert over


def test_the_plain_bandit_pays_what_its_arms_say() -> None:
    pytest.importorskip("gymnasium", reason="the extra [control] is not installed")
    from evals.speed.plain_envs import PlainBandit

    plain, paid = PlainBandit(), []
    for seed in range(300):
        plain.reset(seed=seed, options={"task": [0.3, 1.0, 0.0, 0.5, 0.5]})
        paid += [plain.step(0)[1] for _ in range(9)]
        assert plain.step(1)[1:4] == (1.0, False, True)
    assert sum(paid) / len(paid) == pytest.approx(0.3, abs=4 * (0.21 / 2700) ** 0.5)
