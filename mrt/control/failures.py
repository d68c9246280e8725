"""Failures that look healthy in a loss curve, by name.

constant action: the policy plays one action everywhere, whatever the task (random's return, an entropy near 0; Wang et
al.'s setting with gamma 0.99 and lambda 0.3 ends there). Cure: lower gamma, higher lambda, more entropy.

never explores: a task holds an action whose only worth is what it tells, and the policy never takes it (11.00 instead
of 20.55 on the informative arm). Cure: show the reward as a one-hot vector, more entropy at first.
"""

from __future__ import annotations

import torch

from mrt.control.envs.base import TensorEnv
from mrt.trials import Trials

CONSTANT = 0.99  # share of all steps on one action
NEVER = 0.01  # share of the trials that ever ask

CURES = {
    "constant action": "lower gamma, raise lambda or the entropy weight, or collect more trials an update",
    "never explores": "show the reward as a one-hot vector, or raise the entropy weight at the start",
}


def shares(env: TensorEnv, trials: Trials) -> dict[str, float]:
    """What the names above are decided by: the share of all steps on the commonest action, and of the trials that ever
    take the environment's `informative_action`; {} for continuous actions.
    """
    if not env.spec.actions:
        return {}
    counts = torch.bincount(trials.actions[trials.mask], minlength=env.spec.actions)
    found = {"actions/commonest": float(counts.max() / counts.sum().clamp(min=1))}
    informative = getattr(env, "informative_action", None)
    if informative is not None:
        asked = ((trials.actions == informative) & trials.mask).any(1)
        found["actions/informative"] = float(asked.float().mean())
    return found


def failures(measured: dict[str, float]) -> list[str]:
    """The names of the failures that these shares show."""
    named = []
    if measured.get("actions/commonest", 0.0) > CONSTANT:
        named.append("constant action")
    if measured.get("actions/informative", 1.0) < NEVER:
        named.append("never explores")
    return named
