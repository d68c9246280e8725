"""Probes by name, with their options."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from mrt.errors import ConfigError, nearest
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.probes.allocated import Allocated
from mrt.reasoning.probes.base import Probe
from mrt.reasoning.probes.forced import Greedy, Sampled, Shrunk
from mrt.reasoning.probes.gold import Gold
from mrt.reasoning.probes.learned import Learned
from mrt.reasoning.probes.pooled import Pooled
from mrt.reasoning.probes.reference import Reference

PROBES: dict[str, Callable[..., Probe]] = {
    "coupled": partial(Sampled, coupled=True),
    "sampled": Sampled,
    "pooled": Pooled,
    "allocated": Allocated,
    "shrunk": Shrunk,
    "greedy": Greedy,
    "gold": Gold,
    "reference": Reference,
    "learned": Learned,
    "learned_alone": partial(Learned, alone=True),
}
SAMPLING = ("coupled", "sampled", "pooled", "allocated", "shrunk", "learned", "learned_alone")
"""Probes that draw several answers a boundary."""


WEIGHTS = ("uniform", "horvitz_thompson")


def make_probe(
    name: str,
    samples: int = 4,
    tolerance: float = 0.0,
    sampling: Sampling | None = None,
    weights: str = "uniform",
) -> Probe:
    """The probe called `name`: `samples` forced answers a boundary where it samples, drawn by `sampling` (temperature 1
    where it is not given), `tolerance` of the gold one, `weights` of the answers of `coupled` and `sampled`.
    """
    if weights not in WEIGHTS:
        raise ConfigError(f"probe_weights='{weights}' is unknown; {nearest(weights, set(WEIGHTS))}")
    if weights != "uniform" and name not in ("coupled", "sampled"):
        raise ConfigError(f"probe='{name}' would ignore probe_weights='{weights}'. Cure: probe='coupled' or 'sampled'")
    if name not in PROBES:
        raise ConfigError(f"probe '{name}' is unknown; {nearest(name, set(PROBES))}")
    if name in SAMPLING:
        if samples < 1:
            raise ConfigError(f"probe_samples must be at least 1, got {samples}")
        weighed = {} if weights == "uniform" else {"weights": weights}
        return PROBES[name](samples=samples, sampling=sampling or Sampling(), **weighed)
    if name == "gold":
        if not 0 <= tolerance < 1:
            raise ConfigError(f"probe_tolerance must be at least 0 and below 1, got {tolerance}")
        return PROBES[name](tolerance=tolerance)
    return PROBES[name]()
