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

from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.probes.learned import Learned
from mrt.reasoning.probes.run import ProbePlan, ProbeRequest, probe_trials
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.averages import Averages
from mrt.trials import Trials

SMALL = 200_000_000
WATCHED = 32


WATCHED_NAMES = (
    "verifier/unscored",
    "watch/answer_at_once",
    "completions/episodes",
    "probe/J0",
    "probe/JK",
    "probe/se",
    "progress/mean",
    "progress/negative_rate",
    "regret/stop",
    "regret/normalised",
)


def watch_metrics(record: Trials, trials: Sequence[Trial], budget: int) -> Averages:
    """progress/*, regret/*, probe/*, verifier/unscored and watch/* of one batch.

    `regret/stop` is sum over j = 1..K of 1 - J_j, `regret/normalised` the share of the budget's area above J (oracle
    1).
    """
    from mrt.metrics.regret import cumulative_regret, progress, trace_regrets

    found = Averages(WATCHED_NAMES)
    own = [i for i, trial in enumerate(trials) if not trial.forced]
    found.add("verifier/unscored", (~record.scored).float().tolist())
    found.add("watch/answer_at_once", [float(not trials[i].ends) for i in own])
    found.add("completions/episodes", record.episodes[own].float().tolist())
    if any(trial.fork >= 0 for trial in trials):
        found.add("rollout/prefix_age", record.prefix_age.float().tolist())
        found.add("rollout/fork_episode", record.fork_episode.float().tolist())
    if record.stop_values is None or record.stop_value_se is None or not own:
        return found
    values = record.stop_values[own].double().cpu().numpy()
    gained = progress(values).ravel().tolist()
    found.add("probe/J0", values[:, 0].tolist())
    found.add("probe/JK", [_last(row) for row in values])
    found.add("probe/se", record.stop_value_se[own].double().cpu().numpy().ravel().tolist())
    found.add("progress/mean", gained)
    found.add("progress/negative_rate", [float(one < 0) for one in gained if one == one])
    found.add("regret/stop", cumulative_regret(values, 1.0).ravel().tolist())
    known = [
        k for k, i in enumerate(own) if not math.isnan(values[k, 0]) and 0 <= _low(values[k]) <= _high(values[k]) <= 1
    ]
    if known:
        x = [[0.0, *map(float, trials[own[k]].ends)] for k in known]
        j = [values[k][: len(trials[own[k]].ends) + 1] for k in known]
        found.add("regret/normalised", trace_regrets(x, j, budget).ravel().tolist())
    return found


def accuracy_metrics(record: Trials, trials: Sequence[Trial], budget: int) -> Averages:
    """accuracy (share of the rewards above one half), and accuracy/at_B for five budgets of thinking tokens up to
    `budget`: the J of the last boundary by then, as an answer forced there would be right.
    """
    returns = record.returns.tolist()
    found = Averages()
    found.add("accuracy", [float(one > 0.5) for one in returns if one == one])
    for quarter in range(5):
        at = budget * quarter // 4
        held = [_held(trial, at) for trial in trials if trial.stop_values and not trial.forced]
        found.add(f"accuracy/at_{at}", held)
    return found


def _held(trial: Trial, at: int) -> float:
    """J of the last measured boundary within `at` thinking tokens."""
    ends = [0, *trial.ends]
    reached = [value for end, value in zip(ends, trial.stop_values, strict=True) if end <= at and value == value]
    return reached[-1] if reached else math.nan


class HeldOutProver:
    """The model as it was before training, asked at the last boundary of a few traces.

    `frozen` is a copy of a model; or `adapter` the weights of an adapter that had been trained before; or, with
    neither, the model is its own without its adapter.
    """

    def __init__(self, frozen: Any | None, adapter: Mapping[str, torch.Tensor] | None = None) -> None:
        self.frozen, self.adapter = frozen, adapter

    @staticmethod
    def of(model: Any, choice: str) -> HeldOutProver | None:
        """None when not wanted. `auto`: the adapter as it was (a fresh one is disabled) where there is one, a frozen
        copy of a small model, else none.
        """
        if choice == "none":
            return None
        if hasattr(model, "peft_config"):
            learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
            fresh = not any(bool(p.detach().any()) for name, p in learned.items() if "lora_B" in name)
            return HeldOutProver(None, None if fresh else {n: p.detach().clone() for n, p in learned.items()})
        if choice == "auto" and sum(p.numel() for p in model.parameters()) > SMALL:
            return None
        frozen = copy.deepcopy(model).eval().requires_grad_(False)
        for module in frozen.modules():  # TRL's patched forward runs the layers of the original, whoever holds it
            module.__dict__.pop("forward", None)
        return HeldOutProver(frozen)

    @contextmanager
    def _prover(self, model: Any) -> Iterator[Any]:
        if self.frozen is not None:
            yield self.frozen
        else:
            from trl.models.utils import disable_gradient_checkpointing

            before = model.disable_adapter() if self.adapter is None else _swapped(model, self.adapter)
            # Layers that recompute their activations keep no keys and values.
            with before, disable_gradient_checkpointing(model):
                yield model

    def look(self, plan: ProbePlan, model: Any, request: ProbeRequest, pad_id: int) -> Averages:
        """watch/held_out_J at the last boundary, and watch/held_out_gap: how much more the policy's own prover makes of
        it.
        """
        found = Averages(("watch/held_out_J", "watch/held_out_gap"))
        trials = request.trials
        chosen = [i for i, trial in enumerate(trials) if not trial.forced and _finite(trial.stop_values[-1:])][:WATCHED]
        if not chosen:
            return found
        copies = [replace(trials[i], stop_values=[], errors=[], fork=len(trials[i].ends)) for i in chosen]
        asked = ProbeRequest([request.prompts[i] for i in chosen], copies, [request.rows[i] for i in chosen])
        probe = plan.probe.plain if isinstance(plan.probe, Learned) else plan.probe
        plan = replace(plan, probe=probe, schedule=replace(plan.schedule, share=1.0))
        with self._prover(model) as prover, torch.random.fork_rng():
            probe_trials(engine_on(prover, pad_id), plan, asked, torch.Generator().manual_seed(0))
        pairs = [(trials[i].stop_values[-1], one.stop_values[-1]) for i, one in zip(chosen, copies, strict=True)]
        pairs = [(ours, theirs) for ours, theirs in pairs if _finite([ours, theirs])]
        found.add("watch/held_out_J", [theirs for _, theirs in pairs])
        found.add("watch/held_out_gap", [ours - theirs for ours, theirs in pairs])
        return found


@contextmanager
def _swapped(model: Any, weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The model with these weights in place of its own, which come back."""
    parameters = {name: p for name, p in model.named_parameters() if name in weights}
    own = {name: p.detach().clone() for name, p in parameters.items()}
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(weights[name])
    try:
        yield
    finally:
        with torch.no_grad():
            for name, p in parameters.items():
                p.copy_(own[name])


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
