"""How loud the gradient of a decision is beside its noise, for outcome and progress credit, against the number K of
episodes; and what three logits learn from it.

    python -m evals.reasoning.episodes_theory           prints both tables in a minute; no language model is trained
    python -m evals.reasoning.episodes_theory --json

A scripted policy with useless and harmful episodes plays problems like those of `cycles`, J being exact: 1 where the
best so far is the best of all. Its decisions have one logit each: take the next step or repeat the last one, keep the
best or overwrite it, go on or stop. Loudness is (mean gradient)^2 / variance over groups of eight traces, by the
project's own credits: its inverse is the number of groups for a ratio of 1.

What to expect: all decisions share R, whose variance is that of a coin, and every trace adds K scores times R: the
outcome's noise grows with K. Progress pays an episode only for what J does in it, which is seldom anything, so its
noise does not grow. Learning with Adam shows it only while noise decides: with many groups an update, or once the
logits are saturated, both credits arrive at the same policy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mrt.credit.outcome import outcome
from mrt.credit.progress import progress
from mrt.trials import Trials

GROUP, ALPHA = 8, 10.0
ARMS = ("grpo", "mrt")
RATES = (0.05, 0.1, 0.2)
DECISIONS = ("next or repeat", "keep or overwrite", "go on or stop")


@dataclass(frozen=True)
class Shares:
    """What the scripted policy does: useless and harmful episodes, and giving up before an episode."""

    repeat: float = 0.5
    overwrite: float = 0.1
    stop: float = 0.04


def play(k: int, groups: int, shares: Shares, generator: torch.Generator) -> tuple[Trials, Tensor]:
    """Traces of at most 1.25 K episodes, one step each, and the scores (B, T, 3) of the three decisions: the derivative
    of the log-probability of what was done by the logit of the first alternative."""
    rows, limit = groups * GROUP, k * 5 // 4
    order = torch.rand(groups, k, generator=generator).argsort(1).repeat_interleave(GROUP, 0)  # k - 1: the best of all
    at = torch.full((rows,), -1)
    best = torch.full((rows,), -1)
    going = torch.ones(rows, dtype=torch.bool)
    scores, mask = torch.zeros(rows, limit, 3), torch.zeros(rows, limit, dtype=torch.bool)
    values = torch.zeros(rows, limit + 1)

    def drawn(chance: float) -> Tensor:
        return torch.rand(rows, generator=generator) < chance

    for t in range(limit):
        ends = drawn(shares.stop) & (at >= 0)
        asked = going & (at >= 0)
        scores[:, t, 2] = asked * torch.where(ends, shares.stop - 1, shares.stop)
        going &= ~ends
        mask[:, t] = asked | going
        again = drawn(shares.repeat) & (at >= 0)
        scores[:, t, 0] = (going & (at >= 0)) * torch.where(again, shares.repeat - 1, shares.repeat)
        at = torch.where(going & ~again, at + 1, at)
        value = order.gather(1, (at % k)[:, None])[:, 0]
        lower = going & ~again & (value < best)
        lost = lower & drawn(shares.overwrite)
        scores[:, t, 1] = lower * torch.where(lost, shares.overwrite - 1, shares.overwrite)
        best = torch.where(going & ~again, torch.where(lost, value, torch.maximum(value, best)), best)
        values[:, t + 1] = best == k - 1
    rewards = torch.zeros(rows, limit)
    rewards[:, -1] = values[:, -1]
    trials = Trials(
        actions=torch.zeros(rows, limit, dtype=torch.long),
        rewards=rewards,
        mask=mask,
        episode=torch.arange(limit).expand(rows, limit),
        group=torch.arange(groups).repeat_interleave(GROUP),
        stop_values=values,
        stop_value_se=torch.zeros_like(values),
    )
    return trials, scores


def loudness(weights: Tensor, scores: Tensor) -> list[float]:
    """(mean)^2 / variance over groups of the policy gradient of each decision."""
    gradient = (weights[:, :, None] * scores).sum(1).reshape(-1, GROUP, scores.shape[2]).sum(1)
    return (gradient.mean(0) ** 2 / gradient.var(0)).tolist()


def figures(
    dial: Sequence[int],
    groups: int = 10_000,
    shares: Shares = Shares(),
    seed: int = 0,
) -> list[dict[str, Any]]:
    """One line a K: accuracy, the loudness of each decision under both credits, and their ratio."""
    lines = []
    for k in dial:
        trials, scores = play(k, groups, shares, torch.Generator().manual_seed(seed))
        grpo = loudness(outcome(trials), scores)
        mrt = loudness(progress(trials, ALPHA), scores)
        lines.append(
            {
                "length": k,
                "accuracy": float(trials.returns.mean()),
                "grpo": dict(zip(DECISIONS, grpo, strict=True)),
                "mrt": dict(zip(DECISIONS, mrt, strict=True)),
                "ratio": {name: b / a for name, a, b in zip(DECISIONS, grpo, mrt, strict=True)},
            }
        )
    return lines


def learned(k: int, arm: str, rate: float, seed: int, updates: int = 20, groups: int = 2) -> np.ndarray:
    """(1.25 K + 1,) J after every episode, for what `updates` steps of Adam on the three logits make of a policy that
    repeats three episodes in four."""
    begin = Shares(repeat=0.75, overwrite=0.15)
    chances = torch.tensor([begin.repeat, begin.overwrite, begin.stop])
    logits = torch.nn.Parameter(torch.log((1 - chances) / chances))
    adam = torch.optim.Adam([logits], lr=rate)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(updates):
        trials, scores = play(k, groups, Shares(*torch.sigmoid(-logits.detach()).tolist()), generator)
        weights = outcome(trials) if arm == "grpo" else progress(trials, ALPHA)
        logits.grad = -(weights[:, :, None] * scores).sum((0, 1)) / trials.mask.sum()
        adam.step()
    trials, _ = play(k, 500, Shares(*torch.sigmoid(-logits.detach()).tolist()), torch.Generator().manual_seed(1))
    assert trials.stop_values is not None
    return trials.stop_values.mean(0).numpy()


def learning(dial: Sequence[int], seeds: int = 5) -> list[dict[str, Any]]:
    """One line a K: both arms at the best of the same learning rates, and GRPO's episodes over MRT's at equal J."""
    lines = []
    for k in dial:
        line: dict[str, Any] = {"length": k}
        curves = {}
        for arm in ARMS:
            tried = {rate: np.mean([learned(k, arm, rate, seed) for seed in range(seeds)], axis=0) for rate in RATES}
            best = max(tried, key=lambda rate: float(tried[rate].mean()))
            curves[arm] = np.maximum.accumulate(tried[best])
            line[arm] = {"rate": best, "accuracy": float(tried[best][-1]), "regret": float(1 - tried[best].mean())}
        level = min(curve[-1] for curve in curves.values())
        needed = {arm: float(np.interp(level, curve, np.arange(len(curve)))) for arm, curve in curves.items()}
        lines.append(line | {"episodes_at_equal_accuracy": needed["grpo"] / needed["mrt"]})
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """The figures as text."""
    text = [f"{'K':<5}{'accuracy':<10}" + "".join(f"{name:<32}" for name in DECISIONS)]
    text.append(" " * 15 + f"{'GRPO':<8}{'MRT':<8}{'ratio':<16}" * 3)
    for line in lines:
        parts = "".join(f"{line['grpo'][n]:<8.3f}{line['mrt'][n]:<8.3f}{line['ratio'][n]:<16.1f}" for n in DECISIONS)
        text.append(f"{line['length']:<5}{line['accuracy']:<10.2f}{parts}")
    return "\n".join(text)


def learning_table(lines: Sequence[Mapping[str, Any]]) -> str:
    """What the logits learned, as text."""
    text = [f"{'K':<5}{'GRPO: accuracy, regret, rate':<32}{'MRT':<32}episodes at equal accuracy"]
    for line in lines:
        arms = [f"{line[arm]['accuracy']:.2f}  {line[arm]['regret']:.3f}  {line[arm]['rate']}" for arm in ARMS]
        text.append(f"{line['length']:<5}{arms[0]:<32}{arms[1]:<32}{line['episodes_at_equal_accuracy']:.2f}")
    return "\n".join(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 0."""
    described = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog="python -m evals.reasoning.episodes_theory", description=described)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--groups", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    ns = parser.parse_args(argv)
    lines, after = figures(ns.lengths, ns.groups), learning(ns.lengths)
    if ns.json:
        print(json.dumps({"loudness": lines, "learning": after}, indent=2))
    else:
        print(f"{table(lines)}\n\n{learning_table(after)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
