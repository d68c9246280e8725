"""Closed forms for the hallway: what Bayes-optimal exploration is worth, and when reading the sign pays.

L is half the length of the hallway, m the length of the dead end, c the cost of a step, K the episodes of a trial.
"""

from __future__ import annotations

from mrt.control.envs.corridors import Hallway


def hallway_steps(half: int, dead_end: int = 0) -> tuple[int, int]:
    """Bayes-optimal expected steps to the goal, (first episode, later ones).

    Either try an end, L steps, and if wrong cross over, 3L in all: (L + 3L) / 2 = 2L. Or read the sign first, 2m there
    and back, then L. The sign is worth it if and only if 2m < L; for 2m = L both are as good. Later, L.
    """
    return (min(2 * half, 2 * dead_end + half) if dead_end else 2 * half), half


def hallway_bayes(env: Hallway, episodes: int | None = None) -> float:
    """Bayes-optimal return of a trial: (1 - first steps * c) + (K - 1) (1 - L c)."""
    first, later = hallway_steps(env.half, env.dead_end)
    count = env.spec.episodes if episodes is None else episodes
    return (1 - first * env.cost) + (count - 1) * (1 - later * env.cost)


def hallway_posterior_sampling(env: Hallway, episodes: int | None = None) -> float:
    """Return of posterior sampling, which draws an end and stays with it for the whole episode; never reads the sign.

    Right with chance 1/2: 1 - L c. Wrong: all the episode's steps for nothing. From then on it knows.
    """
    count = env.spec.episodes if episodes is None else episodes
    right = 1 - env.half * env.cost
    return (right - env.spec.episode_steps * env.cost) / 2 + (count - 1) * right
