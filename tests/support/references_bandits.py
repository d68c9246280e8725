"""Bandits and decision tasks once more, in plain Python: one task, loops, floats, and the same uniform numbers."""

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
import torch

from mrt.control.envs.base import TensorEnv, uniforms

Numbers = Sequence[float]


def normal(u: float) -> float:
    return NormalDist().inv_cdf(min(u + 2.0**-25, 1 - 2.0**-25))


class Reference:
    """The protocol of a trial: episodes that end by themselves or by the clock, then one step that only resets."""

    def __init__(self, task: Numbers, episode_steps: int, episodes: int = 1) -> None:
        self.task, self.episode_steps, self.episodes = list(task), episode_steps, episodes
        self.clock, self.episode, self.waiting = 0, 0, False

    def begin(self, u: Numbers) -> None: ...

    def move(self, action, u: Numbers) -> float:
        raise NotImplementedError

    def observe(self) -> list[float]:
        return [1.0]

    def reset(self, u: Numbers) -> list[float]:
        self.clock, self.episode, self.waiting = 0, 0, False
        self.begin(u)
        return self.observe()

    def step(self, action, u: Numbers):
        """(observation, reward, terminated, truncated, fresh, trial over)"""
        if self.waiting:
            self.clock, self.waiting = 0, False
            self.episode += 1
            self.begin(u)
            return self.observe(), 0.0, False, False, True, False
        reward = self.move(action, u)
        self.clock += 1
        truncated = self.clock >= self.episode_steps
        over = truncated and self.episode == self.episodes - 1
        self.waiting = truncated and not over
        return self.observe(), reward, False, truncated, False, over


class Bernoulli(Reference):
    def move(self, action, u):
        return 1.0 if u[0] < self.task[action] else 0.0


class Gaussian(Reference):
    def move(self, action, u):
        return self.task[action] + 0.3 * normal(u[0])


class Dependent(Reference):
    better: float | None = None

    def move(self, action, u):
        first = self.task[0]
        if self.better:
            first = self.better if self.task[0] < 0.5 else 1 - self.better
        return 1.0 if u[0] < (first if action == 0 else 1 - first) else 0.0


class Restless(Reference):
    def begin(self, u):
        self.p = self.task[0]
        self.volatility = 0.02 if self.task[1] < 0.5 else 0.1

    def move(self, action, u):
        reward = 1.0 if u[0] < (self.p if action == 0 else 1 - self.p) else 0.0
        self.p += self.volatility * normal(u[1])
        while not 0 <= self.p <= 1:
            self.p = -self.p if self.p < 0 else 2 - self.p
        return reward


class Informative(Reference):
    def begin(self, u):
        self.target, self.last = int(self.task[0] * 10), None

    def move(self, action, u):
        if action == 10:
            self.last = (self.target + 1) / 10
        else:
            self.last = 5.0 if action == self.target else 1.0
        return self.last

    def observe(self):
        values = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 5.0]
        return [1.0 if value == self.last else 0.0 for value in values]


class Moving(Reference):
    def begin(self, u):
        self.x, self.y = 200.0, 200.0
        self.places = [(u[0] * 400, u[1] * 400), (u[2] * 400, u[3] * 400)]

    def move(self, action, u):
        if action in (1, 2):
            self.x += 20 if action == 1 else -20
        if action in (3, 4):
            self.y += 20 if action == 3 else -20
        x, y = self.places[0 if self.task[0] < 0.5 else 1]
        return 1.0 if math.hypot(self.x - x, self.y - y) < 50 else 0.0

    def observe(self):
        return [value / 400 for value in (self.x, self.y, *self.places[0], *self.places[1])]


class TwoStep(Reference):
    def begin(self, u):
        self.stage, self.rich = 0, 1 if self.task[0] < 0.5 else 2

    def move(self, action, u):
        if self.stage == 0:
            common = 1 if action == 0 else 2
            self.stage = common if u[0] < 0.75 else 3 - common
            return 0.0
        reward = 1.0 if u[0] < (0.9 if self.stage == self.rich else 0.1) else 0.0
        self.stage = 0
        return reward

    def observe(self):
        return [1.0 if stage == self.stage else 0.0 for stage in range(3)]


class ObjectChoice(Reference):
    def begin(self, u):
        half = len(self.task) // 2
        self.good = [2 * value - 1 for value in self.task[:half]]
        self.bad = [2 * value - 1 for value in self.task[half:]]
        self.right = u[0] >= 0.5

    def move(self, action, u):
        reward = 1.0 if (action == 1) == self.right else 0.0
        self.right = u[0] >= 0.5
        return reward

    def observe(self):
        return self.bad + self.good if self.right else self.good + self.bad


class CueRecall(Reference):
    def move(self, action, u):
        value = min(max(action[0], -1.0), 1.0)
        return -((value - (2 * self.task[0] - 1)) ** 2) if self.clock == self.episode_steps - 1 else 0.0

    def observe(self):
        return [2 * self.task[0] - 1, 1.0] if self.clock == 0 else [0.0, 0.0]


class TabularMDP(Reference):
    states, actions = 10, 5

    def begin(self, u):
        self.place = 0

    def entry(self, state, action):
        """The numbers of one pair: mean reward, then one exponential for each next state."""
        width = 1 + self.states
        start = (state * self.actions + action) * width
        mean, *rest = self.task[start : start + width]
        waits = [-math.log(1 - value) for value in rest]
        return 1 + normal(mean), [wait / sum(waits) for wait in waits]

    def move(self, action, u):
        mean, chances = self.entry(self.place, action)
        total, reached = 0.0, self.states - 1
        for state, chance in enumerate(chances):
            total += chance
            if u[0] < total:
                reached = state
                break
        self.place = reached
        return mean + normal(u[1])

    def observe(self):
        return [1.0 if state == self.place else 0.0 for state in range(self.states)]


def assert_side_by_side(env: TensorEnv, make: Callable[[Numbers], Reference], tasks: int = 40, seed: int = 0) -> int:
    """Plays whole trials of random actions on both, the same numbers for each row, and returns the steps it took."""
    task = uniforms(seed, np.arange(tasks), env.task_draws)
    observation = env.reset(env.task_params(task), seed)
    start = torch.rand(tasks, env.start_draws, generator=torch.Generator().manual_seed(seed))
    plain = [make(row) for row in task.tolist()]
    expected = [reference.reset(row) for reference, row in zip(plain, start.tolist(), strict=True)]
    torch.testing.assert_close(observation, torch.tensor(expected), atol=1e-6, rtol=0)
    chance, count, over = torch.Generator().manual_seed(seed + 1), 0, torch.zeros(tasks, dtype=torch.bool)
    while not over.all():
        if env.spec.actions:
            actions = torch.randint(env.spec.actions, (tasks,), generator=chance)
        else:
            actions = 2.4 * torch.rand(tasks, env.spec.action_size, generator=chance) - 1.2
        noise = torch.rand(tasks, max(env.step_draws, env.start_draws), generator=chance)
        step = env.step(actions, noise)
        rows = [r.step(a, u) for r, a, u in zip(plain, actions.tolist(), noise.tolist(), strict=True)]
        columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
        torch.testing.assert_close(step.observation, columns[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(step.reward, columns[1], atol=1e-6, rtol=0)
        for got, wanted in zip(step[2:], columns[2:], strict=True):
            assert torch.equal(got, wanted)
        over, count = step.trial_over, count + 1
    return count
