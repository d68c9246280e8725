"""The worlds that change within a trial, fading legs and sumo, against plain-Python references."""

import itertools

import numpy as np
import pytest
import torch

from mrt.control.agent import ScriptedAgent
from mrt.control.envs import EnvTasks, make_env
from mrt.control.envs.drifting import FadingLegs
from mrt.control.envs.sumo import Sumo, collide
from mrt.control.interaction import play
from mrt.control.oracles import floor_and_ceiling
from mrt.control.oracles.drifting import StraightLegs, straight
from mrt.errors import ConfigError
from tests.support.references_grids import (
    assert_copies_go_on,
    assert_equal_play,
    assert_everything_is_the_same_everywhere,
    assert_same_tasks,
    assert_splits_are_disjoint,
    clip,
)

pytestmark = pytest.mark.training

F32 = np.float32


class LegsReference:
    """One body on six legs, leg by leg."""

    LEVERS = tuple(F32(x) for x in (1.0, 0.8, 0.6, -0.6, -0.8, -1.0))

    def __init__(self, u, stages=7, each=5, steps=30, anywhere=False, compass=False):
        self.weak = list(itertools.combinations(range(6), 2))[int(float(u[0]) * 15)]
        self.first = int(float(u[1]) * (stages - 1)) if anywhere else 0
        self.stages, self.each, self.steps, self.compass = stages, each, steps, compass

    def begin(self, u):
        self.speed, self.turn, self.heading = F32(0), F32(0), (F32(1), F32(0))

    def step(self, action, clock):
        stage = min(self.first + self.episode // self.each, self.stages - 1)
        left = F32(1) - F32(stage) / F32(self.stages - 1)
        pushes = [F32(a) * (left if i in self.weak else F32(1)) for i, a in enumerate(action)]
        effort = F32(sum(F32(a) * F32(a) for a in action) / F32(6))
        self.speed = F32(0.7) * self.speed + F32(0.3) * F32(sum(pushes) / F32(6))
        torque = F32(sum(p * lever for p, lever in zip(pushes, self.LEVERS, strict=True)) / F32(6))
        self.turn = F32(0.7) * self.turn + F32(0.3) * torque
        by, (x, y) = F32(0.5) * self.turn, self.heading
        x, y = x - by * y, y + by * x
        size = np.sqrt(x * x + y * y)
        self.heading = (x / size, y / size)
        return self.speed * self.heading[0] - F32(0.5) * effort, False

    def see(self, clock):
        seen = [self.speed, F32(clock) / F32(self.steps)]
        return [*seen, *self.heading, self.turn] if self.compass else seen


class SumoReference:
    """Two discs, number by number."""

    def __init__(self, u, dense=False, rounds=7, anywhere=False):
        u = [F32(x) for x in u]
        self.power, self.growth = 0.3 + 0.3 * u[0], 0.1 * u[1]
        self.lean, self.drift = u[2] - 0.5, 0.4 * (u[3] - 0.5)
        self.first = int(float(u[4]) * (rounds - 1)) if anywhere else 0
        self.dense, self.rounds = dense, rounds

    def begin(self, u):
        y = [F32(0.2) * (2 * F32(x) - 1) for x in u]
        self.place, self.velocity = [[F32(-0.5), y[0]], [F32(0.5), y[1]]], [[F32(0), F32(0)], [F32(0), F32(0)]]

    def opponent(self):
        stage = min(self.first + self.episode, self.rounds - 1)
        power, lean = min(self.power + stage * self.growth, 1), self.lean + stage * self.drift
        x, y = (self.place[0][i] - self.place[1][i] for i in (0, 1))
        x, y = x - lean * y, y + lean * x
        size = max(np.sqrt(x * x + y * y), F32(1e-6))
        return [power * x / size, power * y / size]

    def step(self, action, clock):
        forces = [action, self.opponent()]
        for body in (0, 1):
            for i in (0, 1):
                self.velocity[body][i] = 0.8 * self.velocity[body][i] + 0.02 * F32(clip(forces[body][i], -1.0, 1.0))
                self.place[body][i] += self.velocity[body][i]
        x, y = (self.place[1][i] - self.place[0][i] for i in (0, 1))
        apart = np.sqrt(x * x + y * y)
        if apart < 0.3:
            normal = (x / apart, y / apart)
            speed = sum((self.velocity[0][i] - self.velocity[1][i]) * normal[i] for i in (0, 1))
            for i in (0, 1):
                self.place[0][i] -= 0.5 * (0.3 - apart) * normal[i]
                self.place[1][i] += 0.5 * (0.3 - apart) * normal[i]
                self.velocity[0][i] -= 0.75 * max(speed, 0) * normal[i]
                self.velocity[1][i] += 0.75 * max(speed, 0) * normal[i]
        away = [np.sqrt(x * x + y * y) for x, y in self.place]
        own, other = (bool(one > 1) for one in away)
        return other - own + (0.1 * (away[1] - away[0]) if self.dense else 0.0), own or other

    def see(self, clock):
        return [*self.place[0], *self.velocity[0], *self.place[1], *self.velocity[1]]


PAIRS = {
    "legs": (FadingLegs(each=2, steps=12), lambda u: LegsReference(u, each=2, steps=12)),
    "legs, anywhere": (FadingLegs(4, 1, 12, start="any"), lambda u: LegsReference(u, 4, 1, 12, anywhere=True)),
    "legs, compass": (FadingLegs(3, 1, compass=True), lambda u: LegsReference(u, 3, 1, compass=True)),
    "sumo": (Sumo(4), lambda u: SumoReference(u, rounds=4)),
    "sumo, dense": (Sumo(4, reward="dense", start="any"), lambda u: SumoReference(u, True, 4, anywhere=True)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_reference_steps_beside(name: str) -> None:
    env, make = PAIRS[name]
    rewards = assert_equal_play(env, make)
    assert len(rewards.unique()) > (100 if name != "sumo" else 1)


@pytest.mark.parametrize("name", PAIRS)
def test_tasks_and_copies(name: str) -> None:
    env, _ = PAIRS[name]
    if isinstance(env, FadingLegs):  # fifteen tasks
        assert_same_tasks(env)
        assert_copies_go_on(env)
        assert_splits_are_disjoint(env, 60)
    else:
        assert_everything_is_the_same_everywhere(env)


def test_legs_fade_from_stage_to_stage_and_stay_weak() -> None:
    env = FadingLegs(stages=3, each=2)
    params = {"pair": torch.tensor([0, 14]), "stage": torch.tensor([0, 1])}
    env.reset(params)
    for episode, left in enumerate(([1, 0.5], [1, 0.5], [0.5, 0], [0.5, 0], [0, 0], [0, 0])):
        env.episode = torch.full((2,), episode)
        assert torch.equal(env.forces()[0], torch.tensor([left[0], left[0], 1, 1, 1, 1]))
        assert torch.equal(env.forces()[1], torch.tensor([1, 1, 1, 1, left[1], left[1]]))
    turned = FadingLegs(stages=2, loss=2.0)
    turned.reset({"pair": torch.tensor([0]), "stage": torch.tensor([1])})
    assert turned.forces()[0, :2].tolist() == [-1, -1]


def test_a_pair_is_one_task_wherever_its_chain_begins() -> None:
    env = FadingLegs(start="any")
    params = env.task_params(torch.tensor([[0.5, 0.1], [0.5, 0.9]]))
    assert params["stage"].tolist() == [0, 5]
    assert env.task_key(params, 0) == env.task_key(params, 1)


def test_the_best_straight_run_is_the_constrained_optimum() -> None:
    """Against the optimality conditions solved as one linear system, leg by leg."""
    torch.manual_seed(0)
    forces, levers = torch.rand(40, 6).double(), FadingLegs().levers.double()
    forces[0] = torch.tensor([1.0, 0, 0, 0, 0, 0])  # one leg alone can do nothing, two opposite ones all
    forces[1] = torch.tensor([1.0, 0, 0, 0, 0, 1.0])
    pushes = straight(forces, levers)
    for force, push in zip(forces, pushes, strict=True):  # d + mu f l = f, sum f l d = 0
        torque = force * levers
        system = torch.zeros(7, 7).double()
        system[:6, :6], system[:6, 6], system[6, :6] = torch.eye(6), torque, torque
        solved = torch.linalg.solve(system, torch.cat([force, torch.zeros(1).double()]))[:6]
        assert torch.allclose(push, solved, atol=1e-9)
    assert pushes[:2].tolist() == [[0] * 6, [1, 0, 0, 0, 0, 1]]
    signs = (torch.rand(40, 6) - 0.5).sign().double()  # a force turned round is as good as it was
    assert torch.equal(straight(signs * forces, levers), signs * pushes)


def test_straight_running_earns_the_ceiling() -> None:
    env = FadingLegs(each=1)
    params = EnvTasks(env).batch(0, range(30))
    bounds = floor_and_ceiling(env, params)
    earned = play(env, StraightLegs(env), params).sum(1)
    assert torch.allclose(earned.float(), bounds.ceiling, rtol=1e-4)
    assert torch.allclose(bounds.floor, torch.tensor(-35.0), atol=4)  # pushes at random only cost: 210 mean(a^2) / 2
    full = sum((1 - 0.7**t) ** 2 for t in range(1, 31)) / 2  # with all legs at their best, in the first stage
    once = env.with_spec(episodes=1)
    assert floor_and_ceiling(once, params).ceiling[0].item() == pytest.approx(full, rel=1e-5)


def test_collisions_keep_momentum_and_lose_half_the_approaching_speed() -> None:
    place = torch.tensor([[[0.0, 0.0], [0.2, 0.0]], [[0.0, 0.0], [0.5, 0.0]]])
    velocity = torch.tensor([[[0.1, 0.03], [-0.1, 0.0]], [[0.1, 0.0], [-0.1, 0.0]]])
    moved, after = collide(place, velocity, 0.15)
    assert torch.allclose(after[0], torch.tensor([[-0.05, 0.03], [0.05, 0.0]]))
    assert torch.allclose(moved[0], torch.tensor([[-0.05, 0.0], [0.25, 0.0]]))
    assert torch.equal(moved[1], place[1])
    assert torch.equal(after[1], velocity[1])


def test_the_second_player_is_the_first_one_turned_round() -> None:
    """A match of mirror images is mirrored, and a policy as opponent sees the ring from its own side."""
    env = Sumo(opponent=lambda seen: torch.stack([-seen[:, 0], seen[:, 1] * 0 + 0.3], 1))
    env.reset(EnvTasks(env).batch(0, range(8)), noise=torch.full((8, 2), 0.5))
    for _ in range(10):
        seen = env.seen_by(0)
        assert torch.allclose(seen, env.seen_by(1), atol=1e-6)  # an equal policy finds itself in an equal place
        env.step(torch.stack([-seen[:, 0], seen[:, 1] * 0 + 0.3], 1))
    assert env.state["place"][0, 0].abs().sum() > 0.05


def test_rounds_are_won_by_pushing_and_lost_by_leaving() -> None:
    env = Sumo(rounds=2)
    params = EnvTasks(env).batch(0, range(50))
    assert (play(env, Always(lambda seen: torch.tensor([[-1.0, 0.0]]).expand(len(seen), 2)), params) == -1).all()
    none = torch.zeros(50)
    weak = {**params, "power": none + 0.1, "growth": none, "lean": none, "drift": none}
    assert play(env, Always(lambda seen: 10 * (seen[:, 4:6] - seen[:, :2])), weak).mean() > 0.9


class Always(ScriptedAgent):
    """An agent without memory: a function of the observation."""

    def __init__(self, function):
        self.function = function

    def choose(self, observation, state):
        return self.function(observation)


def test_dials_are_checked() -> None:
    for name, dials in (("fading-legs", {"stages": 1}), ("fading-legs", {"start": "last"}), ("sumo", {"rounds": 1})):
        with pytest.raises(ConfigError, match=name):
            make_env(name, **dials)
