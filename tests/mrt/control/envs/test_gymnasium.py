"""The border to Gymnasium: its environments step the same through the adapter, and ours the same through theirs."""

import importlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mrt.errors import ConfigError


def test_without_gymnasium_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "mrt.control.envs.gymnasium", raising=False)
    with pytest.raises(ConfigError, match=r"pip install 'mrt-rl\[control\]'"):
        importlib.import_module("mrt.control.envs.gymnasium")


gymnasium = pytest.importorskip("gymnasium", reason="the extra [control] is not installed")

from mrt.control.envs import EnvTasks, make_tasks  # noqa: E402
from mrt.control.envs.gymnasium import GymEnv, TensorVectorEnv, ranges  # noqa: E402
from mrt.control.evaluation.run import evaluate_policy  # noqa: E402
from mrt.control.policy import ControlPolicy  # noqa: E402
from mrt.control.probes import ExploitProbe  # noqa: E402
from mrt.control.rollout import rollout  # noqa: E402
from mrt.trials import Stop  # noqa: E402

pytestmark = pytest.mark.training


class Counter(gymnasium.Env):  # type: ignore[name-defined]
    """Ends by itself after `length` steps; pays `length` for action 2, which is numbered from 1."""

    observation_space = gymnasium.spaces.Discrete(5)
    action_space = gymnasium.spaces.Discrete(2, start=1)

    def __init__(self, length: int) -> None:
        self.length = length

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return 0, {}

    def step(self, action):
        assert action in (1, 2)
        self.time += 1
        assert self.time <= self.length
        return self.time, float(self.length * (action == 2)), self.time == self.length, False, {}


def counters(**options) -> GymEnv:
    return GymEnv(lambda length: Counter(length), lambda u: {"length": 2 + int(2 * u[0])}, episode_steps=3, **options)


def test_a_trial_by_hand() -> None:
    env = counters(episodes=2)  # tasks of length 2 and 3
    assert (env.spec.observation, env.spec.actions) == (5, 2)
    seen = env.reset({"u": torch.tensor([[0.0], [0.9]])})
    assert seen.tolist() == [[1, 0, 0, 0, 0]] * 2
    rows = [env.step(torch.tensor([1, 0])) for _ in range(7)]
    assert [step.reward.tolist() for step in rows] == [[2, 0], [2, 0], [0, 0], [2, 0], [2, 0], [0, 0], [0, 0]]
    assert [step.terminated.tolist() for step in rows[:3]] == [[False] * 2, [True, False], [False, True]]
    assert [step.fresh.tolist() for step in rows[2:4]] == [[True, False], [False, True]]
    assert [step.trial_over.tolist() for step in rows[4:7]] == [[True, False], [False, False], [False, True]]
    assert rows[2].observation.argmax(1).tolist() == [0, 3]
    assert env.task_key(env.params, 1).endswith("length=3")


def test_a_rollout_knows_how_episodes_ended() -> None:
    env = counters(episodes=2)
    policy = ControlPolicy.for_spec(env.spec, hidden_size=8)
    trials = rollout(env, policy, EnvTasks(env).batch(0, range(6)))
    lengths = [2 + int(2 * u) for u in trials_u(env)]
    assert trials.mask.sum(1).tolist() == [2 * length for length in lengths]
    assert (trials.stop == int(Stop.TERMINATED)).all()
    cut = GymEnv(lambda length: Counter(length), lambda u: {"length": 3}, episode_steps=2)
    assert (rollout(cut, policy, EnvTasks(cut).batch(0, range(3))).stop == int(Stop.TRUNCATED)).all()


def test_an_exploitation_episode_begins_behind_every_episode_the_last_one_too() -> None:
    env = counters(episodes=2)
    policy = ControlPolicy.for_spec(env.spec, hidden_size=8)
    torch.nn.init.zeros_(policy.actor.weight)
    with torch.no_grad():
        policy.actor.bias.copy_(torch.tensor([-1.0, 1.0]))  # greedily the action that pays
    trials = rollout(env, policy, EnvTasks(env).batch(0, range(6)), probe=ExploitProbe(2))
    lengths = [2 + int(2 * u) for u in trials_u(env)]
    assert trials.stop_values is not None
    assert trials.stop_values.tolist() == [[float(length**2)] * 3 for length in lengths]
    assert trials.cost["probe_steps"].tolist() == [3 * 2 * length for length in lengths]


def trials_u(env: GymEnv) -> list[float]:
    return env.params["u"][:, 0].tolist()


def test_pendulums_equal_gymnasium_itself() -> None:
    task, draws = ranges(g=(2.0, 18.0))
    env = GymEnv("Pendulum-v1", task, draws, episodes=1, episode_steps=20)
    env.reset(EnvTasks(env).batch(3, range(3)), seed=5)
    alone = []
    for u, seed in zip(
        trials_u(env), torch.randint(2**31 - 1, (3,), generator=torch.Generator().manual_seed(5)), strict=True
    ):
        alone.append(gymnasium.make("Pendulum-v1", g=2 + 16 * u))
        alone[-1].reset(seed=int(seed))
    for t in range(20):
        actions = torch.tensor([[0.5], [-1.0], [0.1 * t]])
        step = env.step(actions)
        for row, one in enumerate(alone):
            seen, reward, *_ = one.step(np.clip(actions[row].numpy(), -1, 1) * 2)
            assert step.observation[row].tolist() == pytest.approx(seen.tolist(), abs=1e-5)
            assert float(step.reward[row]) == pytest.approx(reward, abs=1e-5)
    assert step.truncated.all()
    assert step.trial_over.all()


def test_copies_go_their_own_way() -> None:
    env = GymEnv("CartPole-v1", episodes=2, episode_steps=50)
    env.reset(EnvTasks(env).batch(0, range(2)), seed=1)
    env.step(torch.tensor([0, 1]))
    branch, copy = env.select(torch.tensor([1, 1, 0])), env.clone()
    left = branch.step(torch.tensor([0, 1, 1])).observation
    assert not torch.equal(left[0], left[1])
    assert torch.equal(copy.step(torch.tensor([1, 1])).observation, env.step(torch.tensor([1, 1])).observation)
    assert torch.equal(env.observe()[1], left[1])  # the same action from the same state


def test_spaces_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="no time limit"):
        GymEnv(lambda: Counter(2))
    odd = Counter(2)
    odd.action_space = gymnasium.spaces.MultiBinary(2)
    with pytest.raises(ConfigError, match="neither discrete nor a box"):
        GymEnv(lambda: odd, episode_steps=2)


def test_evaluation_without_bounds() -> None:
    env = counters(episodes=2)
    policy = ControlPolicy.for_spec(env.spec, hidden_size=8)
    with torch.no_grad():
        policy.actor.bias.copy_(torch.tensor([0.0, 100.0]))  # always the paying action
    found = evaluate_policy(policy, EnvTasks(env), count=40, progress=False)
    u = EnvTasks(env).batch(1 << 40, range(40))["u"][:, 0].tolist()
    worth = np.mean([2 * (2 + int(2 * x)) ** 2 for x in u])
    assert found["players"]["policy"]["measures"]["total"]["mean"] == pytest.approx(worth)
    assert found["bounds"]["total"]["ceiling"] is None
    assert "regret" not in found["players"]["policy"]["measures"]


@pytest.mark.parametrize("name", ["hallway", "bernoulli-bandit", "point-robot"])
def test_a_tensor_environment_as_a_vector_env(name: str) -> None:
    tasks = make_tasks(name, **({"half": 1, "episodes": 2} if name == "hallway" else {}))
    vector, spec = TensorVectorEnv(tasks, 3), tasks.env.spec
    seen, info = vector.reset(seed=4)
    assert seen.shape == vector.observation_space.shape == (3, spec.observation)
    alone = make_tasks(name, **({"half": 1, "episodes": 2} if name == "hallway" else {})).env
    alone.reset(tasks.batch(4, range(3)), (4 * 1_000_003 + 3) % (2**31 - 1))
    vector.action_space.seed(0)
    ended, begun = np.zeros(3, bool), 0
    for _ in range(2 * (spec.trial_steps + spec.episodes)):
        actions = vector.action_space.sample()
        seen, reward, terminated, truncated, info = vector.step(actions)
        again = ended
        begun += int(again.sum())
        if not begun:  # the first trials are those of the environment itself
            step = alone.step(torch.as_tensor(actions))
            assert np.allclose(seen, step.observation.numpy())
            assert np.allclose(reward, step.reward.numpy())
            assert np.array_equal(terminated, step.terminated.numpy())
            assert np.array_equal(info["trial_over"], step.trial_over.numpy())
        assert (reward[again] == 0).all()
        assert (info["episode"][again] == 0).all()
        assert not (terminated | truncated)[again].any()
        ended = info["trial_over"]
        assert (terminated | truncated)[ended].all()
    assert begun >= 3
    assert vector.next == 3 + begun  # a new task for each trial


def test_whole_trials_hide_the_ends_of_episodes() -> None:
    vector = TensorVectorEnv(make_tasks("grid-navi", episodes=2), 2, whole_trials=True)
    vector.reset(seed=0)
    ends = [vector.step(np.zeros(2, dtype=int))[3].all() for _ in range(32)]
    assert [i for i, end in enumerate(ends) if end] == [30]  # 15 steps, one to begin again, 15 steps


def test_the_example(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, "recipes/gymnasium_example.py", "--steps", "2", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "policy {'total':" in done.stdout
    assert "random {'total':" in done.stdout
