"""What both engines on transformers have in common: passes that are counted, chunks, and scores of whole sequences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mrt.reasoning.engines.base import Counts
from mrt.reasoning.engines.passes import Passes
from mrt.runs.plan import MAX_POSITIONS


class CountedEngine:
    """One model, counted. `positions` holds how many positions each purpose has run through it so far.

    `max_positions` bounds the keys and values that are at work at one time, in positions of all rows together.
    """

    def __init__(self, model: Any, pad_id: int, max_positions: int = MAX_POSITIONS) -> None:
        self.passes, self.pad_id, self.max_positions = Passes(model), pad_id, max_positions
        self.model = model
        self.positions: dict[str, int] = {"sampled": 0, "probed": 0}
        self.counts = Counts()

    @property
    def device(self) -> torch.device:
        return self.passes.device

    def chunks(self, lengths: Sequence[int], rows_each: int = 1) -> Iterator[list[int]]:
        """Row indices in chunks of similar length, each below `max_positions` with `rows_each` copies of a row."""
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        chunk: list[int] = []
        for i in order:
            if chunk and (len(chunk) + 1) * rows_each * max(1, lengths[i]) > self.max_positions:
                yield chunk
                chunk = []
            chunk.append(i)
        if chunk:
            yield chunk

    def token_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """As `Engine.token_logprobs`, in a plain pass of its own that shares nothing."""
        return self._tails(sequences, [len(sequence) - 1 for sequence in sequences])

    def _tails(self, sequences: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[Tensor]:
        """Log-probabilities of the last `sizes[i]` tokens of each sequence, float64 (sizes[i],).

        Rows are padded on the right, where a causal model does not look: no mask is needed.
        """
        results: list[Tensor] = [torch.zeros(0, dtype=torch.float64)] * len(sequences)
        for chunk in self.chunks([len(sequence) for sequence in sequences]):
            ids, lengths = self._pad([sequences[i] for i in chunk])
            each = torch.tensor([sizes[i] for i in chunk], device=self.device)
            rows = torch.arange(len(chunk), device=self.device).repeat_interleave(each)
            starts = (each.cumsum(0) - each).repeat_interleave(each)
            columns = (lengths - each).repeat_interleave(each) + torch.arange(len(rows), device=self.device) - starts
            with self.passes.running():
                hidden = self.passes.hidden(rows, columns - 1, input_ids=ids, use_cache=False)
                picked = self.passes.logprobs(hidden, ids[rows, columns][:, None])[:, 0].cpu()
            for i, one in zip(chunk, picked.split(each.tolist()), strict=True):
                results[i] = one
        return results

    def _ran(self, purpose: str, count: int) -> None:
        """Notes given tokens that went through the model."""
        self.positions[purpose] += count
        self.counts.prefilled += count

    def _pad(self, sequences: Sequence[Sequence[int]], width: int = 0) -> tuple[Tensor, Tensor]:
        lengths = [len(sequence) for sequence in sequences]
        width = max(width, max(lengths))
        ids = [[*sequence, *[self.pad_id] * (width - len(sequence))] for sequence in sequences]
        return torch.tensor(ids, device=self.device), torch.tensor(lengths, device=self.device)
