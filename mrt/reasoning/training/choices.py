"""The sampler and the probe that the arguments of a trainer name."""

from __future__ import annotations

from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.base import Probe
from mrt.reasoning.probes.table import make_probe
from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.trial import Segment
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.continued import Continued
from mrt.reasoning.training.mixed import Mixed, PrefixPool
from mrt.reasoning.training.samplers import Budgeted, Plain, Sampler


def sampler_of(args: MRTConfig, fmt: ThinkFormat, segment: Segment, pool: PrefixPool) -> Sampler:
    """Mixed groups, thoughts within a budget, or whole completions."""
    if args.rollout == "mixed":
        return Mixed(fmt, segment, pool, args.train_forced)
    if args.thinking_budget is not None:
        return Budgeted(fmt, segment, args.thinking_budget)
    return Plain(fmt, segment)


def probe_of(args: MRTConfig, sampling: Sampling) -> Probe:
    """The probe that measures J; `continue` the one that goes on as the rows of a batch do."""
    if args.probe == "continue":
        return Continued(args.probe_samples, sampling, args.thinking_room, int(args.max_completion_length or 1))
    return make_probe(args.probe, args.probe_samples, args.probe_tolerance, sampling, args.probe_weights)
