"""Any causal LM as an engine that shares nothing: for states that are no keys and values at known positions.

Recurrent layers (Mamba, Qwen3-Next, LFM2) keep one state for all that they have read, which cannot be cut back to a
boundary. So every branch is read anew, and only branches of one length run together: nothing is padded, no mask is
needed, and the model's own cache is used as the model uses it. Right for every architecture, at the price of a pass
over prefix and suffix for each branch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Answers, Branch
from mrt.reasoning.engines.counted import CountedEngine
from mrt.reasoning.engines.noise import Noise
from mrt.reasoning.engines.sampling import Draws, Sampling, draw

CACHES = ("past_key_values", "cache_params", "state")  # what models call the cache that they give back


class UnsharedEngine(CountedEngine):
    """`mrt.reasoning.engines.base.Engine`; a prefix is its token ids, and `Answers.kept` stays empty."""

    def prefill(self, sequences: Sequence[Sequence[int]], purpose: str = "sampled") -> list[tuple[int, ...]]:
        """The rows as they are."""
        return [tuple(sequence) for sequence in sequences]

    def restore(self, rows: Sequence[Any]) -> Any:
        """Raises RuntimeError: `Answers.kept` is empty here, so there is nothing to restore."""
        raise RuntimeError("this engine keeps nothing: prefill the rows instead")

    def answers(
        self,
        prefix: list[tuple[int, ...]],
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
        """As `Engine.answers`; branches of one length together."""
        if states:
            raise ConfigError("this engine gives no hidden states. Cure: another probe than 'learned'")
        results: list[Answers] = [Answers() for _ in branches]
        given = [(*prefix[branch.row][: branch.cut], *branch.suffix) for branch in branches]
        self.counts.asked += n * sum(map(len, given))
        for chunk in self._alike([len(ids) for ids in given], n, max_new_tokens):
            ids = torch.tensor([given[i] for i in chunk for _ in range(n)], device=self.device)
            own = tuple(one for i in chunk for one in noise[i]) if noise else ()
            draws = Draws(max_new_tokens, tuple(stop_ids), sampling, own)
            with self.passes.running():
                self._decode(ids, [results[i] for i in chunk for _ in range(n)], draws, purpose)
        return results

    def score(
        self,
        prefix: list[tuple[int, ...]],
        branches: Sequence[Branch],
        continuations: Sequence[Sequence[Sequence[int]]],
        tolerance: float = 0.0,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
    ) -> list[Tensor]:
        """As `Engine.score`, a whole pass for every continuation; `tolerance` saves nothing here and is not used."""
        sequences, sizes = [], []
        for branch, group in zip(branches, continuations, strict=True):
            for one in group:
                sequences.append([*prefix[branch.row][: branch.cut], *branch.suffix, *one])
                sizes.append(len(one))
        given = sum(map(len, sequences)) - len(sequences)  # a last token is scored, and has no need to run
        self.counts.asked += given
        self._ran("probed", given)
        with self.passes.drawing(sampling):
            sums = iter([one.sum() for one in self._tails(sequences, sizes)])
        return [torch.tensor([float(next(sums)) for _ in group], dtype=torch.float64) for group in continuations]

    def _alike(self, lengths: Sequence[int], n: int, more: int) -> Iterator[list[int]]:
        """Indices of rows of one length, in chunks that fit."""
        for length in sorted(set(lengths)):
            mine = [i for i, one in enumerate(lengths) if one == length]
            yield from ([mine[k] for k in chunk] for chunk in self.chunks([length + more] * len(mine), n))

    def _decode(self, ids: Tensor, sinks: Sequence[Answers], draws: Draws, purpose: str) -> None:
        """Token by token, all rows to the end of the last."""
        count, device = len(ids), self.device
        rows, first = torch.arange(count, device=device), torch.full((count,), ids.shape[1] - 1, device=device)
        self._ran(purpose, ids.numel())
        out = self.passes.output(rows, first, input_ids=ids, use_cache=True)
        name = next(name for name in CACHES if getattr(out, name, None) is not None)
        stops = torch.tensor(list(draws.stop_ids), device=device)
        running = [True] * count
        for sink in sinks:
            sink.ids.append([])
            sink.logprobs.append([])
            sink.stopped.append(False)
        for step in range(draws.max_new_tokens):
            token, logprob = draw(out.logits[0], draws.sampling, draws.begin(range(count), step, device))
            drawn = zip(token.tolist(), logprob.tolist(), torch.isin(token, stops).tolist(), strict=True)
            places: dict[int, int] = {}
            for row, (one, score, stopped) in enumerate(drawn):
                sink = sinks[row]
                place = places[id(sink)] = places.get(id(sink), -1) + 1  # rows of one branch lie side by side
                if running[row]:
                    sink.ids[place].append(one)
                    sink.logprobs[place].append(score)
                    sink.stopped[place] = stopped
                    running[row] = not stopped
                    self.counts.decoded += 1
            left = sum(running)
            if not left or step == draws.max_new_tokens - 1:
                return
            self.positions[purpose] += left
            again: dict[str, Any] = {name: getattr(out, name)}
            out = self.passes.output(rows, torch.zeros_like(rows), input_ids=token[:, None], use_cache=True, **again)
