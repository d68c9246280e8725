"""Exact Bayes-optimal values of bandits and of the two-step task, by dynamic programming. Numpy, float64.

A value is the expected sum of rewards over a trial of n pulls, the task drawn from p(M), for the policy that is best
for that p(M). The regret against the best arm is `best arm known` - value; `*_known` give the former.

Where a pull of either arm is equally informative (dependent arms, two-step), the belief moves in the same way under
every policy, so the greedy policy is Bayes-optimal and its value is a sum over the distribution of beliefs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from mrt.control.envs.bandits import DependentBandit

Arms = tuple[tuple[int, int], ...]  # (successes, failures) of the arms pulled so far, sorted


def bernoulli_known(arms: int, pulls: int) -> float:
    """n E[max p_i] = n k/(k+1) for p_i ~ U[0, 1]."""
    return pulls * arms / (arms + 1)


def bernoulli_value(arms: int, pulls: int, index: Callable[[int, int, int], float] | None = None) -> float:
    """Value of n pulls of k Bernoulli arms, p_i ~ U[0, 1]: V(b) = max_i E[r_i + V(b')] over products of Betas.

    Two arms go to n = 100 and beyond in a second; more arms over all multisets of counts, a second at n = 12.

    Args:
        index: instead of the best policy, the one that pulls an arm of largest index(successes, failures, pulls left),
            ties at random. Its value is exact as well.
    """
    if arms == 2 and index is None:
        return _two_arms(pulls)

    def pull(state: Arms, arm: tuple[int, int], left: int) -> float:
        """Expected reward of this pull and of all that follow."""
        wins, losses = arm
        rest = list(state)
        if arm in rest:
            rest.remove(arm)
        mean = (wins + 1) / (wins + losses + 2)
        won = value(tuple(sorted([*rest, (wins + 1, losses)])), left - 1)
        lost = value(tuple(sorted([*rest, (wins, losses + 1)])), left - 1)
        return mean * (1 + won) + (1 - mean) * lost

    @cache
    def value(state: Arms, left: int) -> float:
        if not left:
            return 0.0
        fresh = arms - len(state)
        choices = {*state, (0, 0)} if fresh else set(state)
        if index is None:
            return max(pull(state, arm, left) for arm in choices)
        scores = {arm: index(*arm, left) for arm in choices}
        best = [arm for arm in choices if scores[arm] >= max(scores.values()) - 1e-9]
        count = [state.count(arm) or fresh for arm in best]
        return sum(n * pull(state, arm, left) for n, arm in zip(count, best, strict=True)) / sum(count)

    return value((), pulls)


def _two_arms(pulls: int) -> float:
    """Backwards over t; after t pulls, n1 of the first arm, values[n1][s1, s2] for s1 and s2 successes."""
    values = [np.zeros((n1 + 1, pulls - n1 + 1)) for n1 in range(pulls + 1)]
    for t in reversed(range(pulls)):
        before = []
        for n1 in range(t + 1):
            n2 = t - n1
            first = ((np.arange(n1 + 1) + 1) / (n1 + 2))[:, None]
            second = ((np.arange(n2 + 1) + 1) / (n2 + 2))[None, :]
            pull_first = first * (1 + values[n1 + 1][1:]) + (1 - first) * values[n1 + 1][:-1]
            pull_second = second * (1 + values[n1][:, 1:]) + (1 - second) * values[n1][:, :-1]
            before.append(np.maximum(pull_first, pull_second))
        values = before
    return float(values[0][0, 0])


def dependent_known(kind: str, pulls: int) -> float:
    """n E[max(p_1, 1 - p_1)]: 0.75 a pull for "uniform", the better probability otherwise."""
    return pulls * DependentBandit.BETTER.get(kind, 0.75)


def dependent_value(kind: str, pulls: int) -> float:
    """Value of n pulls of the two dependent arms of `DependentBandit`: kind "uniform", "easy", "medium" or "hard".

    A success of arm 1 or a failure of arm 2 speaks for arm 1; a of t pulls do. Uniform: p_1 | a ~ Beta(a+1, t-a+1) and
    a is uniform on 0..t, so the pull after is worth E max((a+1)/(t+2), 1 - (a+1)/(t+2)).
    """
    if kind == "uniform":
        means = [(np.arange(t + 1) + 1) / (t + 2) for t in range(pulls)]
        return float(sum(np.maximum(mean, 1 - mean).mean() for mean in means))
    better = DependentBandit.BETTER[kind]
    return _two_hypotheses(better, pulls, better, 1 - better)


def _two_hypotheses(likelihood: float, pulls: int, right: float, wrong: float) -> float:
    """Sum over pulls of E[P(likelier) right + P(other) wrong]: each pull gives one bit, true with chance `likelihood`.

    `joint[h, a]`: probability of hypothesis h and a bits for hypothesis 0.
    """
    joint, total = np.full((2, 1), 0.5), 0.0
    for _ in range(pulls):
        likelier = joint.max(0).sum()
        total += likelier * right + (1 - likelier) * wrong
        chance = np.array([[likelihood], [1 - likelihood]])
        joint = np.pad(joint * chance, ((0, 0), (1, 0))) + np.pad(joint * (1 - chance), ((0, 0), (0, 1)))
    return float(total)


def two_step_value(choices: int, common: float = 0.75, high: float = 0.9) -> float:
    """Value of `TwoStep`: whichever second-stage state was reached, its reward is one bit about which of them is rich,
    true with chance `high`; so exploration cannot help and each choice aims at the likelier one.
    """
    right = common * high + (1 - common) * (1 - high)
    return _two_hypotheses(high, choices, right, 1 - right)


def informative_value(pulls: int = 5, ask: bool = True) -> float:
    """Value of `InformativeBandit`; with `ask=False` the best that can be had without ever pulling arm 11.

    States are the sets of arms that were found not to be the target (bit mask), the rest being equally likely. A pull
    of an arm in doubt finds the target with chance 1/m of m; then every pull pays 5.
    """
    numbers = np.arange(10)

    @cache
    def value(excluded: int, left: int) -> float:
        if not left:
            return 0.0
        doubt = [int(i) for i in numbers if not excluded >> i & 1]
        if len(doubt) == 1:
            return 5.0 * left
        found = 1 / len(doubt)
        choices = [found * 5 * left + (1 - found) * (1 + value(excluded | 1 << i, left - 1)) for i in doubt]
        choices.append(1 + value(excluded, left - 1) if excluded else 0.0)  # an arm known to pay 1
        choices.append(float(np.mean([(i + 1) / 10 for i in doubt])) + 5 * (left - 1) if ask else 0.0)
        return max(choices)

    return value(0, pulls)


def object_choice_value(choices: int = 6) -> float:
    """Value of `ObjectChoice`: a guess, then always right."""
    return choices - 0.5


@lru_cache(maxsize=4)
def gittins_table(horizon: int, grid: int = 256) -> NDArray[np.float32]:
    """Finite-horizon Gittins indices of a Bernoulli arm with a uniform prior (Niño-Mora 2011, INFORMS J. Comput. 23).

    The index of an arm with s successes, f failures and m pulls left is the price lambda per pull at which it is just
    worth while to go on: max over stopping times tau <= m of E[sum r - lambda tau] = 0, at least one pull. That maximum
    is computed for a grid of prices, for all arms at once, and falls in lambda; the root lies between two grid points
    (linear interpolation, error below 1e-4).

    Args:
        horizon: n; memory grows as n^3 (4 MB at 100), time as n^3 (seconds at 100).

    Returns:
        (n+1, n+1, n+1) float32: [m, s, f], meaningful for m >= 1 and s + f + m <= n, else 0.
    """
    table = np.zeros((horizon + 1, horizon + 1, horizon + 1), dtype=np.float32)
    price = np.linspace(0.0, 1.0, grid)
    after = np.zeros((grid, horizon + 1, horizon + 1))
    for left in range(1, horizon + 1):
        size = horizon - left + 1  # s and f from 0 to size - 1
        wins, losses = np.arange(size)[:, None], np.arange(size)[None, :]
        mean = (wins + 1) / (wins + losses + 2)
        go_on = mean * after[:, 1 : size + 1, :size] + (1 - mean) * after[:, :size, 1 : size + 1]
        go_on += mean - price[:, None, None]
        low = np.clip((go_on > 0).sum(0) - 1, 0, grid - 2)[None]  # the last price that is still worth paying
        here, there = (np.take_along_axis(go_on, place, 0)[0] for place in (low, low + 1))
        table[left, :size, :size] = (low[0] + here / (here - there)) * (price[1] - price[0])
        after = np.maximum(go_on, 0.0)
    return table
