"""SPAE's potential in the place of J: what forced answers tell of correctness and of confidence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mrt.errors import ConfigError
from mrt.reasoning.engines.attach import sampling_of
from mrt.reasoning.engines.base import Engine
from mrt.reasoning.probes.base import Judge, Probe, Probed, Trace
from mrt.reasoning.probes.forced import Forced, Sampled, force_answers, judge_answers, mean_and_error, probed
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.training.trainer import MRTTrainer


class SPAETrainer(MRTTrainer):
    """Potential = 1.5 Acc Conf + 0.5 Acc - Conf at every boundary, from `probe_samples` forced answers (5 in the paper,
    of at most 10 tokens), and its differences as progress: SPAE (Wu et al. 2026, 2601.03823). A confident wrong state
    has potential -1, a confident right one +1.

    `progress_late` is the penalty once the potential has passed 0.9. Deviations: Acc is the share of right answers, not
    the mean probability of the gold answer's tokens; Conf is the mean of exp(mean log-probability of the answer's
    tokens), whose expectation the paper has as exp(-mean entropy); differences are added to the advantage as MRT's are.

    Raises:
        ConfigError: for a probe that draws no answers, and another credit than progress.
    """

    def make_probe(self) -> Probe:
        if self.args.probe not in ("sampled", "coupled") or self.args.credit != "progress":
            raise ConfigError("SPAE's potential needs credit=progress and probe=sampled or coupled")
        return Potential(self.args.probe_samples, sampling_of(self), self.args.probe == "coupled")


@dataclass(frozen=True)
class Potential(Sampled):
    """The potential of every boundary, in [-1, 1]; its standard error is that of Acc times 1.5 Conf + 0.5."""

    def __call__(self, engine: Engine, fmt: ThinkFormat, traces: Sequence[Trace], judge: Judge) -> list[Probed]:
        forced = force_answers(engine, fmt, traces, self.samples, self.sampling, coupled=self.coupled)
        judged = judge_answers(fmt, traces, forced, judge)
        return [
            probed([potential(*cut) for cut in zip(answers, rewards, strict=True)], answers, rewards)
            for answers, rewards in zip(forced, judged, strict=True)
        ]


def potential(answers: Sequence[Forced], rewards: Sequence[float | None]) -> tuple[float, float]:
    """(potential, standard error) of one boundary; NaN where no answer could be scored."""
    accuracy, error = mean_and_error([reward for reward in rewards if reward is not None])
    confidence = sum(one.probability ** (1 / max(1, len(one.ids))) for one in answers) / max(1, len(answers))
    slope = 1.5 * confidence + 0.5
    return slope * accuracy - confidence, slope * error
