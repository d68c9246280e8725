"""The grid, maze and navigation environments once more, in plain Python: one task, loops, no tensor.

A reference takes the uniform numbers of its task. `begin(u)` starts an episode, `step(action, clock)` plays one action,
`see(clock)` is the observation as a list. `Trial` adds what the base class adds: episodes, limits, the ignored action.
"""

import math
from itertools import permutations

import numpy as np
import torch

from mrt.control.envs.base import EnvTasks, uniforms


class Trial:
    """One trial of one task under the conventions of `TensorEnv.step`."""

    def __init__(self, reference, steps, episodes, u):
        self.reference, self.steps, self.episodes = reference, steps, episodes
        self.clock = self.episode = 0
        self.waiting = self.over = False
        reference.episode = 0
        reference.begin(u)

    def see(self):
        return [float(x) for x in self.reference.see(self.clock)]

    def step(self, action, u):
        """(observation, reward, terminated, truncated, fresh, trial over)"""
        if self.waiting:
            self.waiting, self.clock = False, 0
            self.episode += 1
            self.reference.episode = self.episode
            self.reference.begin(u)
            return self.see(), 0.0, False, False, True, False
        reward, terminated = self.reference.step(action, self.clock)
        self.clock += 1
        truncated = self.clock >= self.steps and not terminated
        self.over = (terminated or truncated) and self.episode == self.episodes - 1
        self.waiting = (terminated or truncated) and not self.over
        return self.see(), float(reward), terminated, truncated, False, self.over


def clip(value, low, high):
    return min(max(value, low), high)


class GridRoom:
    """Stay, up, right, down, left in a square room."""

    def __init__(self, size, encoding):
        self.size, self.encoding = size, encoding

    def cell(self, u):
        return divmod(int(float(u) * self.size * self.size), self.size)

    def walk(self, action):
        if action == 1:
            self.y = clip(self.y + 1, 0, self.size - 1)
        elif action == 2:
            self.x = clip(self.x + 1, 0, self.size - 1)
        elif action == 3:
            self.y = clip(self.y - 1, 0, self.size - 1)
        elif action == 4:
            self.x = clip(self.x - 1, 0, self.size - 1)
        return self.x, self.y

    def see(self, clock):
        if self.encoding == "xy":
            return [2 * self.x / (self.size - 1) - 1, 2 * self.y / (self.size - 1) - 1]
        return [float((x, y) == (self.x, self.y)) for x in range(self.size) for y in range(self.size)]


class GridNaviReference(GridRoom):
    def __init__(self, u, size=5, encoding="xy"):
        super().__init__(size, encoding)
        goals = [(x, y) for x in range(size) for y in range(size)]
        for near in ((0, 0), (0, 1), (1, 0), (1, 1)):
            goals.remove(near)
        self.goal = goals[int(float(u[0]) * len(goals))]

    def begin(self, u):
        self.x = self.y = 0

    def step(self, action, clock):
        return (1.0 if self.walk(action) == self.goal else -0.1), False


class DarkRoomReference(GridRoom):
    def __init__(self, u, size=9, start="centre", pays="every", encoding="one_hot"):
        super().__init__(size, encoding)
        self.goal, self.start, self.pays = self.cell(u[0]), start, pays
        self.drawn = self.cell(u[1]) if start == "task" else None

    def begin(self, u):
        places = {"centre": (self.size // 2, self.size // 2), "corner": (0, 0), "task": self.drawn}
        self.x, self.y = self.cell(u[0]) if self.start == "random" else places[self.start]
        self.found = False

    def step(self, action, clock):
        there = self.walk(action) == self.goal
        reward = float(there and not (self.pays == "once" and self.found))
        self.found = self.found or there
        return reward, there and self.pays == "ends"


class KeyToDoorReference(GridRoom):
    def __init__(self, u, size=9, start="centre", pays="once", aware=False, encoding="one_hot", steps=50):
        super().__init__(size, encoding)
        self.key, self.door, self.start, self.pays = self.cell(u[0]), self.cell(u[1]), start, pays
        self.aware, self.steps = aware, steps
        self.drawn = self.cell(u[2]) if start == "task" else None

    def begin(self, u):
        self.x, self.y = self.drawn if self.start == "task" else (self.size // 2, self.size // 2)
        self.has_key = self.opened = False

    def step(self, action, clock):
        place = self.walk(action)
        if not self.has_key:
            self.has_key = place == self.key
            return float(self.has_key), False
        if place != self.door:
            return 0.0, False
        first, self.opened = not self.opened, True
        return float(first or self.pays == "every"), first and self.pays == "ends"

    def see(self, clock):
        return super().see(clock) + ([float(self.has_key), clock / self.steps] if self.aware else [])


class TMazeReference:
    """Ni et al. 2023: a map of free tiles."""

    def __init__(self, u, kind="passive", corridor=10, penalty=None):
        self.side = 1 if float(u[0]) >= 0.5 else -1
        self.oracle = 1 if kind == "active" else 0
        self.steps = corridor + 2 * self.oracle + 1
        self.penalty = -1 / (self.steps - 1) if penalty is None else penalty
        self.end = corridor + self.oracle
        self.free = {(x, 0) for x in range(self.end + 1)} | {(self.end, 1), (self.end, -1)}

    def begin(self, u):
        self.x, self.y, self.visited = self.oracle, 0, False
        self.cue = self.side if self.x == 0 else 0
        self.visited = self.x == 0

    def step(self, action, clock):
        dx, dy = [(1, 0), (0, 1), (-1, 0), (0, -1)][action]
        if (self.x + dx, self.y + dy) in self.free:
            self.x, self.y = self.x + dx, self.y + dy
        self.cue = self.side if self.x == 0 and not self.visited else 0
        self.visited = self.visited or self.x == 0
        t = clock + 1
        if t == self.steps:
            return float(self.y == self.side), True
        return (self.penalty if self.x < t - self.oracle else 0.0), False

    def see(self, clock):
        return [1, self.y] if self.x == self.end else [0, self.cue]


class HallwayReference:
    def __init__(self, u, half=5, dead_end=0, cost=0.02):
        self.side = 1 if float(u[0]) >= 0.5 else -1
        self.half, self.dead_end, self.cost = half, dead_end, cost

    def begin(self, u):
        self.place = self.depth = 0

    def step(self, action, clock):
        if action == 0 and self.depth == 0 and self.place > -self.half:
            self.place -= 1
        elif action == 1 and self.depth == 0 and self.place < self.half:
            self.place += 1
        elif action == 2 and self.place == 0 and self.depth < self.dead_end:
            self.depth += 1
        elif action == 3 and self.depth > 0:
            self.depth -= 1
        found = self.place == self.side * self.half
        return (1.0 if found else 0.0) - self.cost, found

    def see(self, clock):
        at_sign = self.dead_end > 0 and self.depth == self.dead_end
        return [
            self.place / self.half,
            self.depth / self.dead_end if self.dead_end else 0,
            self.side if at_sign else 0,
        ]


class MazeReference:
    """The spanning tree comes from Kruskal's algorithm here; with distinct weights there is only one lightest tree."""

    STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))

    def __init__(self, u, size=4, view="symbolic", openings=0.0, pixels=12):
        self.size, self.view, self.pixels = size, view, pixels
        cells = [(x, y) for x in range(size) for y in range(size)]
        self.start = cells[int(float(u[0]) * len(cells))]
        others = [cell for cell in cells if cell != self.start]
        self.goal = others[int(float(u[1]) * len(others))]
        pairs = [((x, y), (x + dx, y + dy)) for x, y in cells for dx, dy in self.STEPS[:2]]
        pairs = [(a, b) for a, b in pairs if max(b) < size]
        weights, chances = u[2 : 2 + len(pairs)], u[2 + len(pairs) :]
        self.open = {frozenset(pair) for pair, chance in zip(pairs, chances, strict=True) if float(chance) < openings}
        group = {cell: {cell} for cell in cells}
        for _, (a, b) in sorted(zip(map(float, weights), pairs, strict=True)):
            if group[a] is not group[b]:
                self.open.add(frozenset((a, b)))
                group[a] |= group[b]
                for member in group[b]:
                    group[member] = group[a]

    def begin(self, u):
        self.cell, self.heading = self.start, 0

    def ahead(self, direction):
        return self.cell[0] + self.STEPS[direction][0], self.cell[1] + self.STEPS[direction][1]

    def step(self, action, clock):
        direction = action
        if self.view == "first_person":
            if action == 0:
                self.heading = (self.heading - 1) % 4
            if action == 1:
                self.heading = (self.heading + 1) % 4
            if action < 2:
                return -0.04, False
            direction = self.heading
        free = frozenset((self.cell, self.ahead(direction))) in self.open
        if free:
            self.cell = self.ahead(direction)
        there = self.cell == self.goal
        return float(there) - 0.04 - (0.0 if free else 0.001), there

    def solid(self, tx, ty):
        """Is this tile a wall? Cells are the tiles with two odd coordinates."""
        last = 2 * self.size
        if not (0 < tx < last and 0 < ty < last):
            return True
        if tx % 2 and ty % 2:
            return False
        if tx % 2 == 0 and ty % 2 == 0:
            return True
        a = ((tx - 1) // 2, (ty - 1) // 2)
        b = (a[0] + 1, a[1]) if tx % 2 == 0 else (a[0], a[1] + 1)
        return frozenset((a, b)) not in self.open

    def see(self, clock):
        if self.view == "symbolic":
            free = [frozenset((self.cell, self.ahead(d))) in self.open for d in range(4)]
            return free + [free[d] and self.ahead(d) == self.goal for d in range(4)]
        tx, ty = 2 * self.cell[0] + 1, 2 * self.cell[1] + 1
        target = (2 * self.goal[0] + 1, 2 * self.goal[1] + 1)
        if self.view == "top_down":
            tiles = [(tx + dx, ty + dy) for dx in range(-2, 3) for dy in range(-2, 3)]
            return [self.solid(*tile) for tile in tiles] + [tile == target for tile in tiles]
        return self.picture(tx, ty, target)

    def picture(self, tx, ty, target):
        """Every ray is followed border by border: the nearest crossing of a line x = k + 1/2 or y = k + 1/2."""
        dx, dy = self.STEPS[self.heading]
        red, green = [], []
        for column in range(self.pixels):
            shift = (2 * column + 1) / self.pixels - 1
            rx, ry = dx + shift * dy, dy - shift * dx
            crossings = [((k + 0.5) / abs(rx), "x") for k in range(4 * self.size)]
            crossings += [((k + 0.5) / abs(ry), "y") for k in range(4 * self.size)]
            x, y = tx, ty
            for crossing in sorted(crossings):
                depth, border = crossing
                if border == "x":
                    x += 1 if rx > 0 else -1
                else:
                    y += 1 if ry > 0 else -1
                if (x, y) == target or self.solid(x, y):
                    break
            light = (0.6 if border == "x" else 1.0) / (1 + depth)
            rows = [
                light if abs(r + 0.5 - self.pixels / 2) < self.pixels / (2 * depth) else 0 for r in range(self.pixels)
            ]
            green.append(rows)
            red.append([0] * self.pixels if (x, y) == target else rows)
        return [plane[c][r] for plane in (red, green, red) for r in range(self.pixels) for c in range(self.pixels)]


class BusReference:
    BUSES = ((4, 5), (5, 4), (3, 4), (4, 3))
    STOPS = ((0, 1), (0, 7), (8, 1), (8, 7))
    CORNERS = ((0, 0), (8, 8), (0, 8), (8, 0))

    def __init__(self, u, shows_map=False, steps=20, free_episodes=1):
        self.task = int(float(u[0]) * 24)
        self.shows_map, self.steps, self.free_episodes = shows_map, steps, free_episodes
        ends = list(permutations(self.STOPS))[self.task]
        self.lines = dict(zip(self.BUSES, ends, strict=True)) | dict(zip(ends, self.BUSES, strict=True))

    def begin(self, u):
        self.place = (4, 4)
        self.corner = self.CORNERS[int(float(u[0]) * 4)]

    def step(self, action, clock):
        x, y = self.place
        if action < 4:
            dx, dy = [(-1, 0), (0, 1), (1, 0), (0, -1)][action]
            self.place = (clip(x + dx, 0, 8), clip(y + dy, 0, 8))
        elif action == 5:
            self.place = self.lines.get(self.place, self.place)
        if self.episode < self.free_episodes:
            return 0.0, action == 6
        if self.place == self.corner:
            return 1.0, True
        if action == 6:
            return -0.1 * (1 + self.steps - clock - 1), True
        return -0.1, False

    def see(self, clock):
        told = self.corner if self.episode >= self.free_episodes else None
        seen = [x == self.place[0] for x in range(9)] + [y == self.place[1] for y in range(9)]
        seen += [self.place in self.lines] + [corner == told for corner in self.CORNERS]
        return seen + ([self.place == (7, 3) and task == self.task for task in range(24)] if self.shows_map else [])


F32 = np.float32  # scalars of the environments' own precision, rounded after each operation as theirs are


class PointReference:
    stride, reach = F32(0.1), F32(0)

    def begin(self, u):
        self.at = [(F32(2) * F32(x) - F32(1)) * self.reach for x in u] if self.reach else [F32(0), F32(0)]

    def away(self, place, goal):
        dx, dy = place[0] - goal[0], place[1] - goal[1]
        return np.sqrt(dx * dx + dy * dy)

    def step(self, action, clock):
        before = self.at
        moved = [F32(clip(float(a), -1.0, 1.0)) * self.stride for a in action]
        self.at = [x + m for x, m in zip(before, moved, strict=True)]
        return self.pay(self.away(before, self.goal), self.away(self.at, self.goal))

    def see(self, clock):
        return self.at


class PointRobotReference(PointReference):
    reach = F32(1)

    def __init__(self, u):
        self.goal = [F32(2) * F32(x) - F32(1) for x in u]

    def pay(self, before, after):
        return -after, False


class SemicircleReference(PointReference):
    def __init__(self, u, reward="sparse"):
        angle = float(u[0]) * math.pi
        self.goal, self.reward = [F32(math.cos(angle)), F32(math.sin(angle))], reward

    def pay(self, before, after):
        if self.reward == "dense":
            return -after, False
        return (F32(1) - after if after <= F32(0.2) else 0.0), False


class Navigation2DReference(PointReference):
    def __init__(self, u, squared=False):
        self.goal, self.squared = [F32(x) - F32(0.5) for x in u], squared

    def pay(self, before, after):
        near = all(abs(x - g) < F32(0.01) for x, g in zip(self.at, self.goal, strict=True))
        return (-after * after if self.squared else -after), near


class FourCornersReference(PointReference):
    stride, reach = F32(0.2), F32(0.2)
    CORNERS = ((-2, -2), (2, -2), (-2, 2), (2, 2))

    def __init__(self, u, reward="sparse"):
        self.goal, self.reward = [F32(x) for x in self.CORNERS[int(float(u[0]) * 4)]], reward

    def pay(self, before, after):
        if self.reward == "dense":
            return -after, False
        nearest = min(self.away(self.at, [F32(x) for x in corner]) for corner in self.CORNERS)
        if abs(self.at[0]) + abs(self.at[1]) < F32(0.5) or after > nearest:
            return 0.0, False
        return before - after, False


# ---- what every environment is held to


def random_actions(env, rows, generator):
    if env.spec.actions:
        return torch.randint(env.spec.actions, (rows,), generator=generator)
    return 2.4 * torch.rand(rows, env.spec.action_size, generator=generator) - 1.2  # some beyond the bounds


def assert_equal_play(env, make, tasks=30, seed=3):
    """Steps `env` and a reference for each task side by side, on the same numbers and random actions, to the end.

    Returns the rewards (steps, tasks), so that a test can see that something happened.
    """
    u = uniforms(seed, np.arange(tasks), env.task_draws)
    seen = env.reset(env.task_params(u), seed)
    first = torch.rand(tasks, env.start_draws, generator=torch.Generator().manual_seed(seed))
    trials = [
        Trial(make(row), env.spec.episode_steps, env.spec.episodes, start)
        for row, start in zip(u.numpy(), first.numpy(), strict=True)
    ]
    np.testing.assert_allclose(seen, [trial.see() for trial in trials], atol=1e-6)
    assert seen.shape == (tasks, env.spec.observation)
    assert seen.dtype is torch.float32
    generator, rewards = torch.Generator().manual_seed(seed + 1), []
    for _ in range(env.spec.trial_steps + env.spec.episodes - 1):
        actions = random_actions(env, tasks, generator)
        noise = torch.rand(tasks, max(env.start_draws, env.step_draws), generator=generator)
        live = [i for i in range(tasks) if not trials[i].over]
        step = env.step(actions, noise)
        expected = [trials[i].step(actions[i].tolist(), noise[i].numpy()) for i in live]
        for got, wanted in zip(step, zip(*expected, strict=True), strict=True):
            np.testing.assert_allclose(got[live].numpy().astype(np.float64), wanted, atol=1e-6)
        assert step.reward.dtype is torch.float32
        rewards.append(torch.zeros(tasks).index_put((torch.tensor(live),), step.reward[live]))
        if all(trial.over for trial in trials):
            break
    assert all(trial.over for trial in trials)
    return torch.stack(rewards)


def assert_same_tasks(env):
    """(seed, index) is one task, whatever the batch; another seed, another batch of them."""
    tasks = EnvTasks(env)
    batch = tasks.batch(7, range(50))
    for index in (0, 13, 49):
        alone, sampled = tasks.batch(7, [index]), tasks.sample(7, index)
        for name, value in batch.items():
            assert torch.equal(value[index], alone[name][0])
            assert torch.equal(value[index], sampled.data[name])
        assert sampled.key == env.task_key(batch, index)
    other = tasks.batch(8, range(50))
    assert any(not torch.equal(value, other[name]) for name, value in batch.items())


def assert_splits_are_disjoint(env, count=200):
    keys = {}
    for split in ("train", "test"):
        params = EnvTasks(env, split).batch(0, range(count))
        keys[split] = {env.task_key(params, row) for row in range(count)}
    assert keys["train"]
    assert keys["test"]
    assert not keys["train"] & keys["test"]


def assert_copies_go_on(env, rows=12):
    """A clone, and a selection of rows, go on exactly as the original does on the same numbers."""
    env.reset(EnvTasks(env).batch(5, range(rows)), seed=1)
    generator = torch.Generator().manual_seed(0)
    for _ in range(env.spec.episode_steps // 2):
        env.step(random_actions(env, rows, generator))
    chosen = torch.tensor([3, 3, 0, rows - 1])
    twin, some = env.clone(), env.select(chosen)
    for _ in range(env.spec.episode_steps + 2):  # across the end of an episode
        actions = random_actions(env, rows, generator)
        noise = torch.rand(rows, max(env.start_draws, env.step_draws), generator=generator)
        original = env.step(actions, noise)
        for mine, theirs, picked in zip(
            original, twin.step(actions, noise), some.step(actions[chosen], noise[chosen]), strict=True
        ):
            assert torch.equal(mine, theirs)
            assert torch.equal(mine[chosen], picked)
    actions = random_actions(env, rows, generator)
    for mine, theirs in zip(env.step(actions), twin.step(actions), strict=True):  # the same numbers drawn inside
        assert torch.equal(mine, theirs)


def assert_everything_is_the_same_everywhere(env):
    """The checks that hold for all environments."""
    assert_same_tasks(env)
    assert_copies_go_on(env)
    assert_splits_are_disjoint(env)
