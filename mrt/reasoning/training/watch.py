"""What is logged of a probed batch, and the gaming watch.

A policy can raise J without reasoning better: by committing to an answer at once, or by writing what only its own
prover understands. So J_0, the share of traces that answer at once, and the J of a held-out prover (the model as it was
before training) stand beside J.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.probes.run import probe_trials
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.rollout import Rollout
from mrt.trials import Trials

SMALL = 200_000_000
WATCHED = 32


def watch_metrics(record: Trials, trials: Sequence[Trial], budget: int) -> dict[str, float]:
    """progress/*, regret/*, probe/*, verifier/unscored and watch/* of one batch; NaN where nothing was measured.

    `regret/stop` is sum over j = 1..K of 1 - J_j, `regret/normalised` the share of the budget's area above J (oracle
    1).
    """
    from mrt.metrics.regret import cumulative_regret, nan_mean, progress, trace_regrets

    own = [i for i, trial in enumerate(trials) if not trial.forced]
    values = record.stop_values[own].double().cpu().numpy() if record.stop_values is not None else None
    answered = sum(not trials[i].ends for i in own) / max(len(own), 1)
    metrics = {
        "verifier/unscored": float((~record.scored).float().mean()),
        "watch/answer_at_once": answered,
        "completions/episodes": float(record.episodes[own].float().mean()) if own else math.nan,
    }
    if (record.fork_episode >= 0).any():
        metrics["rollout/prefix_age"] = float(record.prefix_age.float().mean())
        metrics["rollout/fork_episode"] = float(record.fork_episode.float().mean())
    if values is None or record.stop_value_se is None or _isnan(values).all():
        return metrics
    gained = progress(values)
    measured = gained[~_isnan(gained)]
    ends = [_last(row) for row in values]
    metrics |= {
        "probe/J0": float(nan_mean(values[:, 0])),
        "probe/JK": float(nan_mean(torch.tensor(ends).double().numpy())),
        "probe/se": float(nan_mean(record.stop_value_se[own].double().cpu().numpy().ravel())),
        "progress/mean": float(measured.mean()) if len(measured) else math.nan,
        "progress/negative_rate": float((measured < 0).mean()) if len(measured) else math.nan,
        "regret/stop": float(nan_mean(cumulative_regret(values, 1.0))),
    }
    known = [
        k for k, i in enumerate(own) if not math.isnan(values[k, 0]) and 0 <= _low(values[k]) <= _high(values[k]) <= 1
    ]
    if known:
        x = [[0.0, *map(float, trials[own[k]].ends)] for k in known]
        j = [values[k][: len(trials[own[k]].ends) + 1] for k in known]
        metrics["regret/normalised"] = float(nan_mean(trace_regrets(x, j, budget)))
    return metrics


class HeldOutProver:
    """The model as it was before training, asked at the last boundary of a few traces."""

    def __init__(self, frozen: Any | None) -> None:
        self.frozen = frozen

    @staticmethod
    def of(model: Any, choice: str) -> HeldOutProver | None:
        """None when not wanted. `auto`: the disabled adapter where there is one, a frozen copy of a small model, else
        none.
        """
        if choice == "none":
            return None
        if hasattr(model, "peft_config"):
            return HeldOutProver(None)
        if choice == "auto" and sum(p.numel() for p in model.parameters()) > SMALL:
            return None
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
        frozen.__dict__.pop("forward", None)  # TRL's own, which a copy would lead back to the model being trained
        return HeldOutProver(frozen)

    @contextmanager
    def _prover(self, model: Any) -> Iterator[Any]:
        if self.frozen is not None:
            yield self.frozen
        else:
            with model.disable_adapter():
                yield model

    def look(
        self,
        rollout: Rollout,
        model: Any,
        record: Trials,
        trials: Sequence[Trial],
        rows: Sequence[Mapping[str, Any]],
        output: Mapping[str, Tensor],
        tokenizer: Any,
    ) -> dict[str, float]:
        """watch/held_out_J at the last boundary, and watch/held_out_gap: how much more the policy's own prover makes of
        it.
        """
        chosen = [i for i, trial in enumerate(trials) if not trial.forced and _finite(trial.stop_values[-1:])][:WATCHED]
        if not chosen or rollout.probe is None:
            return {}
        prompts = [
            ids[mask.bool()].tolist() for ids, mask in zip(output["prompt_ids"], output["prompt_mask"], strict=True)
        ]
        copies = [replace(trials[i], stop_values=[], errors=[], fork=len(trials[i].ends)) for i in chosen]
        with self._prover(model) as prover, torch.random.fork_rng():
            engine = engine_on(prover, tokenizer.pad_token_id)
            probe_trials(
                engine,
                rollout.fmt,
                rollout.probe,
                replace(rollout.schedule, share=1.0),
                rollout.judge,
                [prompts[i] for i in chosen],
                copies,
                [rows[i] for i in chosen],
                torch.Generator().manual_seed(0),
            )
        theirs = [copy_.stop_values[-1] for copy_ in copies]
        ours = [trials[i].stop_values[-1] for i in chosen]
        pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if _finite([a, b])]
        if not pairs:
            return {}
        held_out = sum(b for _, b in pairs) / len(pairs)
        return {"watch/held_out_J": held_out, "watch/held_out_gap": sum(a for a, _ in pairs) / len(pairs) - held_out}


def _isnan(values: Any) -> Any:
    return values != values


def _finite(values: Sequence[float]) -> bool:
    return bool(values) and all(math.isfinite(value) for value in values)


def _measured(row: Any) -> list[float]:
    return [float(value) for value in row if value == value]


def _last(row: Any) -> float:
    return (_measured(row) or [math.nan])[-1]


def _low(row: Any) -> float:
    return min(_measured(row), default=math.nan)


def _high(row: Any) -> float:
    return max(_measured(row), default=math.nan)
