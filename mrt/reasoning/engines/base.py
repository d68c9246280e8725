"""The engine: everything that rollouts, probes and the sync canary ask of whatever runs the model, stated once.

`TransformersEngine` runs the trainer's own weights in this process. `VLLMEngine` asks a vLLM that lives in this process
(colocate) or behind a server, which holds a copy of the weights that has to be synchronised.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from mrt.reasoning.engines.noise import Noise
from mrt.reasoning.engines.sampling import Sampling


@dataclass(frozen=True)
class Branch:
    """The first `cut` tokens of prefix row `row`, then `suffix`."""

    row: int
    cut: int
    suffix: tuple[int, ...] = ()


@dataclass
class Answers:
    """What one branch gave: token ids of each sample, their log-probabilities under the sampling distribution, whether
    each ended at a stop token (kept as its last id) and not at the limit, and where asked for what `restore` takes, and
    the hidden state (width,) at the end of the branch."""

    ids: list[list[int]] = field(default_factory=list)
    logprobs: list[list[float]] = field(default_factory=list)
    stopped: list[bool] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)
    state: Tensor | None = None


@dataclass
class Counts:
    """Tokens that went through an engine.

    `asked` is what an engine without any sharing would have run for given tokens: prefix and suffix anew for every
    answer, and for every continuation that is scored. `prefilled` is what really ran of them, `decoded` the tokens that
    were sampled.
    """

    asked: int = 0
    prefilled: int = 0
    decoded: int = 0

    @property
    def reused(self) -> int:
        """Given tokens whose keys and values were there already."""
        return max(0, self.asked - self.prefilled)

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.asked + other.asked, self.prefilled + other.prefilled, self.decoded + other.decoded)

    def metrics(self, accelerator: Any = None) -> dict[str, float]:
        """engine/prefilled, engine/reused and engine/decoded as they are logged, summed over the processes."""
        values = torch.tensor([self.prefilled, self.reused, self.decoded], dtype=torch.float64)
        if accelerator is not None and accelerator.num_processes > 1:
            values = accelerator.reduce(values.float().to(accelerator.device), "sum")
        names = ("engine/prefilled", "engine/reused", "engine/decoded")
        return dict(zip(names, values.tolist(), strict=True))


class Engine(Protocol):
    """Prefixes, and branches behind them. What `prefill` and `restore` return is the engine's own business.

    `positions` counts positions through the model by purpose (`sampled`, `probed`), padding excluded; `counts` the
    tokens behind them. `max_positions` bounds what is at work at one time, in positions of all rows together.
    """

    positions: dict[str, int]
    counts: Counts
    max_positions: int

    def chunks(self, lengths: Sequence[int], rows_each: int = 1) -> Iterator[list[int]]:
        """Row indices in chunks that fit, each with `rows_each` copies of a row."""
        ...

    def prefill(self, sequences: Sequence[Sequence[int]], purpose: str = "sampled") -> Any:
        """Makes rows of token ids, each of at least one, the prefixes of branches."""
        ...

    def restore(self, rows: Sequence[Any]) -> Any:
        """Prefixes from `Answers.kept`: nothing runs through the model again."""
        ...

    def answers(
        self,
        prefix: Any,
        branches: Sequence[Branch],
        n: int,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        *,
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
        purpose: str = "probed",
        keep: bool = False,
        noise: Sequence[Sequence[Noise]] | None = None,
        states: bool = False,
    ) -> list[Answers]:
        """`n` continuations of every branch, each ended by a stop token or after `max_new_tokens`.

        With `noise`, `n` a branch, continuations with equal noise are coupled: each keeps its law, and they are the
        same where their distributions are. `states` asks for `Answers.state`. An engine that cannot do either raises
        ConfigError.
        `keep` asks for `Answers.kept`; an engine with a prefix cache of its own may leave it empty.
        """
        ...

    def score(
        self,
        prefix: Any,
        branches: Sequence[Branch],
        continuations: Sequence[Sequence[Sequence[int]]],
        tolerance: float = 0.0,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
    ) -> list[Tensor]:
        """Log-probability of every continuation of every branch, float64 (continuations,) a branch: at temperature 1,
        or as `sampling` draws them.

        With a `tolerance` unlikely continuations may be pruned (-inf), up to that much probability a branch.
        """
        ...

    def token_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """Log-probability (temperature 1) of every token behind the first, float64 (length - 1,) a sequence."""
        ...
