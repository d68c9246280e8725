"""Gymnasium environments that live on: how often they are built, who shares them, in processes of their own too."""

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium", reason="the extra [control] is not installed")

from mrt.control.envs import EnvTasks  # noqa: E402
from mrt.control.envs.gymnasium import GymEnv, ranges  # noqa: E402
from mrt.errors import ConfigError  # noqa: E402

BUILT: Counter[str] = Counter()


class Line(gymnasium.Env):  # type: ignore[name-defined]
    """A walk on a line that ends by itself after `length` steps; `slope` is paid for every step to the right."""

    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, length: int = 3, colour: str = "red") -> None:
        BUILT["line"] += 1
        self.length, self.colour, self.slope = length, colour, 1.0

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.place = 0, float(self.np_random.integers(5))
        return np.array([self.place, self.time], np.float32), {}

    def step(self, action):
        self.time += 1
        assert self.time <= self.length
        self.place += 2 * int(action) - 1
        seen = np.array([self.place, self.time], np.float32)
        return seen, self.slope * float(action), self.time == self.length, False, {}


def tasks_of(u: list[float]) -> torch.Tensor:
    return torch.tensor(u)[:, None]


def played(env: GymEnv, params: dict[str, torch.Tensor], seed: int, steps: int) -> list[Any]:
    source = torch.Generator().manual_seed(seed)
    seen, found = env.reset(params, seed), []
    for _ in range(steps):
        step = env.step(torch.randint(2, (len(seen),), generator=source))
        found.append(tuple(part.tolist() for part in step))
    return [seen.tolist(), *found]


def test_environments_are_kept_over_trials() -> None:
    env = GymEnv(Line, lambda u: {"length": 2 + int(2 * u[0])}, episodes=2, episode_steps=5)
    BUILT.clear()
    first = played(env, {"u": tasks_of([0.1, 0.2, 0.9])}, 3, 7)
    assert BUILT["line"] == 3
    assert played(env, {"u": tasks_of([0.1, 0.2, 0.9])}, 3, 7) == first
    assert BUILT["line"] == 3
    env.reset({"u": tasks_of([0.1, 0.9, 0.9])})  # one task has another length
    assert BUILT["line"] == 4
    vector = env.lease.vector
    assert isinstance(vector, gymnasium.vector.SyncVectorEnv)
    assert vector.metadata["autoreset_mode"] == gymnasium.vector.AutoresetMode.NEXT_STEP


def test_attributes_are_set_without_building_anything() -> None:
    env = GymEnv(Line, *ranges(slope=(1.0, 3.0)), episode_steps=3, attributes=("slope",), length=3)
    BUILT.clear()
    for slopes in ([0.0, 0.5], [0.25, 0.75]):
        env.reset({"u": tasks_of(slopes)})
        assert env.step(torch.tensor([1, 1])).reward.tolist() == [1 + 2 * u for u in slopes]
    assert BUILT["line"] == 2


def test_copies_with_another_length_play_trials_of_their_own() -> None:
    env = GymEnv(Line, lambda u: {}, episodes=2, episode_steps=3)
    params = {"u": tasks_of([0.1, 0.2])}
    whole = played(env, params, 5, 7)
    env.reset(params, 5)
    source = torch.Generator().manual_seed(5)
    for step in whole[1:4]:
        assert tuple(part.tolist() for part in env.step(torch.randint(2, (2,), generator=source))) == step
    BUILT.clear()
    for _ in range(3):  # another trial begins and ends beside the one under way
        played(env.with_spec(episodes=1), params, 9, 3)
    assert BUILT["line"] == 2  # built for the first of them, lent to the others
    for step in whole[4:]:
        assert tuple(part.tolist() for part in env.step(torch.randint(2, (2,), generator=source))) == step


def test_a_branch_goes_on_where_it_was_taken() -> None:
    env = GymEnv(Line, lambda u: {}, episodes=3, episode_steps=3)
    env.reset({"u": tasks_of([0.1, 0.2])}, 1)
    for _ in range(3):
        env.step(torch.tensor([0, 1]))
    branch = env.select(torch.tensor([1, 0, 1])).with_spec(episodes=4)
    twin = env.clone()
    here, there, beside = env.step(torch.tensor([0, 0])), twin.step(torch.tensor([0, 0])), branch.step(torch.zeros(3))
    assert here.fresh.all()
    assert torch.equal(here.observation, there.observation)
    assert torch.equal(beside.observation, here.observation[torch.tensor([1, 0, 1])])
    branch.step(torch.tensor([1, 1, 1]))
    copy.deepcopy(env).step(torch.tensor([1, 1]))
    assert torch.equal(env.observe(), here.observation)


def test_processes_play_the_same_trials() -> None:
    make = {"task": lambda u: {"length": 2 + int(2 * u[0])}, "episodes": 2, "episode_steps": 5}
    params = {"u": tasks_of([0.1, 0.9])}
    apart = GymEnv(Line, vectorization="async", **make)
    try:
        for seed in (3, 4):
            assert played(apart, params, seed, 8) == played(GymEnv(Line, **make), params, seed, 8)
        kept = apart.lease.vector
        apart.reset({"u": tasks_of([0.9, 0.1])})
        assert apart.lease.vector is kept
        with pytest.raises(ConfigError, match="vectorization: sync"):
            apart.select(torch.tensor([0]))
        with pytest.raises(ConfigError, match="vectorization: sync"):
            apart.clone()
    finally:
        apart.close()
    assert kept.closed


def test_an_error_within_an_environment_does_not_spoil_the_next_trial() -> None:
    env = GymEnv(Line, lambda u: {"length": 2 if u[0] < 0.5 else "x"}, task_draws=1, episode_steps=5, colour="red")
    env.reset({"u": tasks_of([0.1])})
    env.lease.vector.envs[0].env.length = 0
    with pytest.raises(AssertionError):
        env.step(torch.tensor([1]))
    with pytest.raises(ConfigError, match="reset it before a step"):
        env.step(torch.tensor([1]))
    env.reset({"u": tasks_of([0.1])})
    assert env.step(torch.tensor([1])).reward.tolist() == [1.0]


def test_what_a_constructor_refuses_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"environment 'Line' with \{'weight': 3\}: .*weight"):
        GymEnv(Line, episode_steps=3, weight=3)
    with pytest.raises(ConfigError, match=r"vectorization='threads' must be sync or async"):
        GymEnv(Line, episode_steps=3, vectorization="threads")
    grown = GymEnv(Boxed, lambda u: {"space": gymnasium.spaces.Box(-1, 1, (1 + int(2 * u[0]),))}, episode_steps=3)
    with pytest.raises(ConfigError, match="spaces of its own"):
        grown.reset({"u": tasks_of([0.9, 0.1])})


class Boxed(gymnasium.Env):  # type: ignore[name-defined]
    """Takes one action; what it was given stands in `taken`."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, space: Any) -> None:
        self.action_space, self.taken = space, []

    def reset(self, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.taken.append(action)
        assert self.action_space.contains(action)
        return np.zeros(1, np.float32), 0.0, False, False, {}


def boxed(space: Any) -> GymEnv:
    return GymEnv(lambda: Boxed(space), name="boxed", episode_steps=4)


@pytest.mark.parametrize(
    ("space", "cure"),
    [
        (gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32), r"Box\(-1, 1, \(2,\)\)"),
        (gymnasium.spaces.Box(np.array([0.0, 0.0]), np.array([1.0, np.inf]), dtype=np.float64), "no bounds"),
        (gymnasium.spaces.Box(np.finfo(np.float32).min, np.finfo(np.float32).max, (3,)), "TransformAction"),
        (gymnasium.spaces.Box(np.iinfo(np.int64).min, np.iinfo(np.int64).max, (1,), np.int64), "no bounds"),
        (gymnasium.spaces.MultiDiscrete([2, 3]), r"unravel_index\(i, \(2, 3\)\)\), gymnasium.spaces.Discrete\(6\)"),
        (gymnasium.spaces.MultiBinary(2), r"gymnasium.spaces.Discrete\(4\)"),
        (gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2)), "TransformAction"),
        (gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2)]), "TransformAction"),
    ],
    ids=str,
)
def test_actions_that_cannot_be_scaled_are_refused(space: Any, cure: str) -> None:
    with pytest.raises(ConfigError, match=cure) as caught:
        boxed(space)
    assert str(space) in str(caught.value)


def test_the_cures_that_errors_name_work() -> None:
    wide = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)

    def bounded() -> Any:
        narrow = gymnasium.spaces.Box(-1, 1, (2,))
        return gymnasium.wrappers.TransformAction(Boxed(wide), lambda a: a, narrow)

    def numbered() -> Any:
        counts = gymnasium.spaces.MultiDiscrete([2, 3])
        to = gymnasium.spaces.Discrete(6)
        return gymnasium.wrappers.TransformAction(Boxed(counts), lambda i: np.array(np.unravel_index(i, (2, 3))), to)

    for make, action, taken in ((bounded, [[0.5, -2.0]], [0.5, -1.0]), (numbered, [5], [1, 2])):
        env = GymEnv(make, episode_steps=2)
        env.reset({"u": tasks_of([0.5])})
        env.step(torch.tensor(action))
        assert env.lease.vector.envs[0].env.unwrapped.taken[0].tolist() == taken


def test_integer_boxes_are_rounded_over_their_whole_width() -> None:
    env = boxed(gymnasium.spaces.Box(-128, 127, (1,), np.int8))
    env.reset({"u": tasks_of([0.5])})
    for action in (-1.0, -0.997, 0.999, 1.0):
        env.step(torch.tensor([[action]]))
    taken = env.lease.vector.envs[0].env.taken
    assert [int(action[0]) for action in taken] == [-128, -128, 127, 127]
    assert taken[0].dtype == np.int8


def test_observations_without_one_length_are_refused() -> None:
    env = Boxed(gymnasium.spaces.Discrete(2))
    env.observation_space = gymnasium.spaces.Sequence(gymnasium.spaces.Discrete(2))
    with pytest.raises(ConfigError, match=r"Sequence\(Discrete\(2\).*TransformObservation"):
        GymEnv(lambda: env, episode_steps=2)


def test_keys_are_canonical() -> None:
    env = GymEnv(Line, lambda u: {"slope": u[0] * 3.0, "colour": "red"}, episode_steps=3, attributes=("slope",))
    params = EnvTasks(env).batch(0, range(2))
    assert env.task_key(params, 0) == f"Line:colour=red;slope={params['u'][0, 0].item() * 3:.9g}"
