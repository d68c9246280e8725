"""Plain references for the oracles: slow, short, and written from the definition."""

import math
from collections.abc import Callable, Sequence
from functools import cache

Numbers = Sequence[float]


def index_policy_value(arms: int, pulls: int, index: Callable[[int, int, int], float]) -> float:
    """Exact value of pulling the first arm of largest index(successes, failures, pulls so far)."""

    @cache
    def value(state: tuple[tuple[int, int], ...]) -> float:
        done = sum(s + f for s, f in state)
        if done == pulls:
            return 0.0
        scores = [index(s, f, done) for s, f in state]
        arm = next(i for i in range(arms) if scores[i] >= max(scores) - 1e-9)
        s, f = state[arm]
        before, after, mean = state[:arm], state[arm + 1 :], (s + 1) / (s + f + 2)
        return mean * (1 + value((*before, (s + 1, f), *after))) + (1 - mean) * value((*before, (s, f + 1), *after))

    return value(((0, 0),) * arms)


def two_armed_value(pulls: int, chance_of_first: Callable[[int, int, int, int], float]) -> float:
    """Exact value of a two-armed policy that pulls the first arm with a chance that depends on (s1, f1, s2, f2)."""

    @cache
    def value(s1: int, f1: int, s2: int, f2: int) -> float:
        if s1 + f1 + s2 + f2 == pulls:
            return 0.0
        p1, p2 = (s1 + 1) / (s1 + f1 + 2), (s2 + 1) / (s2 + f2 + 2)
        first = p1 * (1 + value(s1 + 1, f1, s2, f2)) + (1 - p1) * value(s1, f1 + 1, s2, f2)
        second = p2 * (1 + value(s1, f1, s2 + 1, f2)) + (1 - p2) * value(s1, f1, s2, f2 + 1)
        chance = chance_of_first(s1, f1, s2, f2)
        return chance * first + (1 - chance) * second

    return value(0, 0, 0, 0)


def first_beta_is_larger(s1: int, f1: int, s2: int, f2: int) -> float:
    """P(X > Y) for X ~ Beta(s1 + 1, f1 + 1), Y ~ Beta(s2 + 1, f2 + 1): a finite sum over beta functions."""

    def log_beta(a: int, b: int) -> float:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)

    total = 0.0
    for i in range(s1 + 1):
        terms = log_beta(s2 + 1 + i, f1 + f2 + 2) - log_beta(1 + i, f1 + 1) - log_beta(s2 + 1, f2 + 1)
        total += math.exp(terms) / (f1 + 1 + i)
    return total


def gittins_index(wins: int, losses: int, left: int) -> float:
    """The price at which optimal stopping of one arm is worth nothing, by bisection."""

    def surplus(price: float) -> float:
        @cache
        def go_on(s: int, f: int, m: int) -> float:
            if m == 0:
                return 0.0
            mean = (s + 1) / (s + f + 2)
            later = mean * max(go_on(s + 1, f, m - 1), 0) + (1 - mean) * max(go_on(s, f + 1, m - 1), 0)
            return mean - price + later

        return go_on(wins, losses, left)

    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if surplus(middle) > 0 else (low, middle)
    return low


def plan(rewards, transitions, horizon: int, choose: Callable[[list[float]], float]) -> list[list[list[float]]]:
    """[step][state][action] values of one MDP given as nested lists; `choose` turns a state's values into its value."""
    layers, values = [], [0.0] * len(rewards)
    for _ in range(horizon):
        q = []
        for mean, chances in zip(rewards, transitions, strict=True):
            later = [sum(p * v for p, v in zip(row, values, strict=True)) for row in chances]
            q.append([reward + rest for reward, rest in zip(mean, later, strict=True)])
        layers.append(q)
        values = [choose(row) for row in q]
    return layers[::-1]


def optimistic_chances(chances: Numbers, values: Numbers, width: float) -> list[float]:
    """The distribution of largest expected value within L1 distance `width` (Jaksch et al. 2010, figure 2)."""
    order = sorted(range(len(values)), key=lambda state: -values[state])
    best = list(chances)
    best[order[0]] = min(1.0, chances[order[0]] + width / 2)
    for worst in reversed(order):
        surplus = sum(best) - 1
        if surplus <= 0:
            break
        best[worst] = max(0.0, best[worst] - surplus)
    return best
