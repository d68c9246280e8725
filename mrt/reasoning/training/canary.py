"""The sync canary: whether an engine that holds a copy of the weights samples from the weights that are trained.

A synchronisation that goes wrong (a layer left out, an adapter that stays stale, a tensor in the wrong place) raises no
error: samples simply come from another model. So after every synchronisation the log-probabilities of fixed token
sequences are computed twice, by the engine and by the weights being trained, and the run ends when they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mrt.errors import SyncError
from mrt.reasoning.engines.base import Branch, Engine
from mrt.training.meeting import Meetings

LENGTHS = (24, 24, 24, 144)  # the last is longer than a block of any engine's prefix cache
# Mean absolute difference, nats a token: float32 on a CPU, on an accelerator (TF32), and half precision.
EXACT, FAST, HALF = 2e-5, 2e-3, 0.05
MOVED = 0.1  # an engine has to follow at least this share of the way that the trained weights went


@dataclass
class SyncCanary:
    """Fixed sequences, and what engine and trained weights said of them last time.

    Args:
        sequences: token ids; `canary_sequences` draws some.
        tolerance: largest mean absolute difference of log-probabilities, nats a token.
    """

    sequences: Sequence[Sequence[int]]
    tolerance: float
    syncs: int = 0
    _engine: Tensor | None = field(default=None, repr=False)
    _trained: Tensor | None = field(default=None, repr=False)

    def check(self, engine: Engine, trained: Engine, step: int) -> dict[str, float]:
        """Compares both after a synchronisation.

        Returns:
            sync/difference (mean absolute difference, nats a token), sync/largest, and sync/moved (how far the trained
            weights have moved since the last check, NaN at the first).

        Raises:
            SyncError: when they differ by more than the tolerance or are not finite; when the engine did not move
                although the trained weights did.
        """
        (theirs, reused), (ours, expected) = (self._ask(one) for one in (engine, trained))
        gap, behind = (theirs - ours).abs(), (reused - expected).abs()
        mean, largest = float(torch.stack([gap.mean(), behind.mean()]).max()), float(torch.cat([gap, behind]).max())
        moved = followed = float("nan")
        if self._engine is not None and self._trained is not None:
            moved = float((ours - self._trained).abs().mean())
            followed = float((theirs - self._engine).abs().mean())
        before, self._engine, self._trained = self.syncs, theirs, ours
        self.syncs += 1
        if not mean <= self.tolerance:
            raise SyncError(
                f"after the synchronisation at step {step} the engine gives the fixed prompts other log-probabilities "
                f"than the weights being trained: {mean:.2e} nats a token on average (tolerance {self.tolerance:.0e}), "
                f"{largest:.2e} at most, {before} synchronisations were right. Samples would come from another model. "
                "Look for layers, adapters or tensors that were not transferred, or for a prefix cache not emptied"
            )
        if moved > 0 and followed < MOVED * moved and self._still(moved):
            raise SyncError(
                f"the weights being trained moved by {moved:.2e} nats a token up to step {step}, the engine's by "
                f"{followed:.2e}: it still samples from older weights. Look at how the weights are transferred"
            )
        return {"sync/difference": mean, "sync/largest": largest, "sync/moved": moved}

    def _ask(self, engine: Engine) -> tuple[Tensor, Tensor]:
        """Log-probabilities of every token in a pass of its own, and of each last token behind a reused prefix."""
        whole = torch.cat(engine.token_logprobs(self.sequences))
        branches = [Branch(row, len(one) - 2, (one[-2],)) for row, one in enumerate(self.sequences)]
        last = engine.score(engine.prefill(self.sequences), branches, [[[one[-1]]] for one in self.sequences])
        return whole, torch.cat(last)

    def _still(self, moved: float) -> bool:
        """Whether a movement is more than rounding."""
        return moved > self.tolerance * 1e-3


def canary_sequences(vocabulary: int, prompts: Sequence[Sequence[int]] = (), longest: int = 1024) -> list[list[int]]:
    """The first prompts as they are, and random token ids from a seed of their own: always the same ones.

    Args:
        vocabulary: number of token ids.
        longest: sequences are cut to this many tokens.
    """
    generator = torch.Generator().manual_seed(0)
    random = [torch.randint(vocabulary, (length,), generator=generator).tolist() for length in LENGTHS]
    return [list(one)[:longest] for one in (*random, *prompts[:4]) if len(one) > 2]


def tolerance_for(dtype: torch.dtype, device: str = "cpu") -> float:
    """What two right implementations may differ by in this precision: mean absolute difference, nats a token."""
    if dtype in (torch.float32, torch.float64):
        return EXACT if device == "cpu" else FAST
    return HALF


@dataclass
class WatchedSync:
    """TRL's `sync_weights`, and what has to be true afterwards: the prefix cache is empty, nobody asks before that, and
    every `every`-th time (0: never) the canary agrees.

    Args:
        transfer: moves the weights; all processes take part.
        reset: empties the engine's prefix cache; None on a process that has none to empty.
        check: lets the canary compare, and says what is wrong, or nothing.
        meetings: of all processes; None where there is one.
    """

    transfer: Callable[[], None]
    reset: Callable[[], None] | None
    check: Callable[[], str]
    meetings: Meetings | None = None
    every: int = 1
    syncs: int = 0

    def __call__(self) -> None:
        self.transfer()
        if self.reset is not None:
            self.reset()
        if self.meetings is not None:
            self.meetings.meet("vLLM has the new weights")
        due = self.every > 0 and self.syncs % self.every == 0
        self.syncs += 1
        if due:
            wrong = self.check()
            heard = self.meetings.meet("the sync canary", wrong) if self.meetings else [wrong]
            if any(heard):
                raise SyncError(next(one for one in heard if one))


def watch_syncs(trainer: Any, tolerance: float | None) -> SyncCanary | None:
    """Watches every synchronisation of a TRL trainer's vLLM, and logs sync/*; None where `sync_check_every` is 0.

    The fixed sequences are random ids and the first prompts of the training data. A server is asked by the main process
    only; the weights being trained are gathered by all.
    """
    from mrt.reasoning.engines.vllm import of_trainer

    generation, main = trainer.vllm_generation, trainer.accelerator.is_main_process
    every, served = int(getattr(trainer.args, "sync_check_every", 1)), generation.mode == "server"
    canary = _canary_of(trainer, tolerance) if every > 0 else None

    def check() -> str:
        return "" if canary is None else _compare(trainer, canary, asks=main or not served)

    def reset() -> None:
        of_trainer(trainer).backend.reset_prefix_cache()

    generation.sync_weights = WatchedSync(
        transfer=generation.sync_weights,
        reset=reset if main or not served else None,
        check=check,
        meetings=Meetings.of_world(),
        every=every,
    )
    return canary


def _canary_of(trainer: Any, tolerance: float | None) -> SyncCanary:
    from mrt.reasoning.engines.vllm_setup import precision

    model = trainer.accelerator.unwrap_model(trainer.model)
    first = [trainer.train_dataset[i]["prompt"] for i in range(min(4, len(trainer.train_dataset)))]
    prompts, _, _ = trainer._tokenize_prompts(first)
    longest = trainer.args.vllm_max_model_length or getattr(model.config, "max_position_embeddings", 1024)
    if tolerance is None:
        precisions = (model.dtype, precision(trainer.vllm_generation))
        tolerance = max(tolerance_for(dtype, model.device.type) for dtype in precisions)
    return SyncCanary(canary_sequences(model.config.vocab_size, prompts, int(longest) - 1), tolerance)


def _compare(trainer: Any, canary: SyncCanary, asks: bool) -> str:
    """What the canary found wrong, or nothing; logs its metrics where this process asks."""
    from mrt.reasoning.engines.attach import engine_of, own_engine

    with own_engine(trainer) as trained:
        if not asks:
            return ""
        with engine_of(trainer) as engine:
            try:
                metrics = canary.check(engine, trained, trainer.state.global_step)
            except SyncError as error:
                return str(error)
    for name, value in metrics.items():
        trainer.log_metric(name, value)
    return ""
