"""Any Hugging Face causal LM as an engine: a prefix goes through the model once, whatever is asked at its boundaries.

`prefill` keeps the keys and values of every row. A branch is (row, cut, suffix): the first `cut` tokens of a row, then
the suffix. Its answers are sampled (`answers`) or scored (`score`) on a copy of the row's keys and values, masked
beyond the cut, with position ids that go on from the cut; nothing before the cut is computed again. Counts are
positions through the model without padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mrt.reasoning.engines.base import Answers, Branch, Counts
from mrt.reasoning.engines.cache import Kept, State, growing_cache, join_rows, keep_row
from mrt.reasoning.engines.prefix import Prefix
from mrt.reasoning.engines.sampling import Sampling, draw
from mrt.reasoning.engines.scoring import score_levels, score_tree
from mrt.reasoning.engines.trie import Trie


class TransformersEngine:
    """One model, counted. `positions` holds how many positions each purpose has run through it so far.

    `max_positions` bounds the keys and values that are at work at one time, in positions of all rows together.
    """

    def __init__(self, model: Any, pad_id: int, max_positions: int = 65_536) -> None:
        self.model, self.pad_id, self.max_positions = model, pad_id, max_positions
        self.positions: dict[str, int] = {"sampled": 0, "probed": 0}
        self.counts = Counts()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Evaluation mode (no dropout) without gradients, whatever the trainer was doing."""
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            self.model.train(training)

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

    def prefill(self, sequences: Sequence[Sequence[int]], purpose: str = "sampled") -> Prefix:
        """One forward pass over right-padded `sequences` (each of at least one token)."""
        ids, lengths = self._pad(sequences)
        mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        with self._running():
            out = self.model(
                input_ids=ids,
                attention_mask=mask.long(),
                past_key_values=DynamicCache(),
                use_cache=True,
                logits_to_keep=1 if bool((lengths == lengths[0]).all()) else 0,
            )
        self._ran(purpose, int(lengths.sum()))
        last = torch.zeros_like(lengths) if out.logits.shape[1] == 1 else lengths - 1
        ends = out.logits[torch.arange(len(lengths), device=ids.device), last]
        return Prefix(out.past_key_values, lengths, ends)

    def answers(
        self,
        prefix: Prefix,
        branches: Sequence[Branch],
        n: int,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
        purpose: str = "probed",
        keep: bool = False,
    ) -> list[Answers]:
        """As `Engine.answers`; with `keep` come the keys and values of all but a stop token, for `restore`."""
        results: list[Answers] = [Answers() for _ in branches]
        self.counts.asked += n * sum(branch.cut + len(branch.suffix) for branch in branches)
        cost = [(branch.cut + len(branch.suffix) + max_new_tokens) for branch in branches]
        for chunk in self.chunks(cost, n):
            part = [branches[i] for i in chunk]
            with self._running():
                state = self._enter(prefix, part, purpose)
                state.repeat(n)
                sinks = [results[i] for i in chunk for _ in range(n)]
                self._decode(state, sinks, max_new_tokens, stop_ids, sampling, purpose, keep)
        return results

    def restore(self, rows: Sequence[Kept]) -> Prefix:
        """Rows that were sampled with `keep`, as a prefix for branches; nothing runs through the model."""
        cache, lengths = join_rows(rows)
        return Prefix(cache, lengths, None)

    def score(
        self,
        prefix: Prefix,
        branches: Sequence[Branch],
        continuations: Sequence[Sequence[Sequence[int]]],
        tolerance: float = 0.0,
    ) -> list[Tensor]:
        """As `Engine.score`.

        The continuations of a branch form a trie: a shared beginning runs through the model once, under a tree mask in
        which every node sees its prefix, the suffix and its own ancestors. With a `tolerance` the trie runs level by
        level, and unlikely parts of it are let go: the summed probability of a branch is then low by at most that.
        """
        results: list[Tensor] = [torch.zeros(0)] * len(branches)
        known: dict[tuple[Any, ...], Trie] = {}  # the boundaries of one problem share their trie
        tries = []
        for branch, group in zip(branches, continuations, strict=True):
            key = (branch.suffix, *map(tuple, group))
            if key not in known:
                known[key] = Trie.build(branch.suffix, group)
            tries.append(known[key])
            self.counts.asked += sum(branch.cut + len(branch.suffix) + len(one) - 1 for one in group)
        for chunk in self._parts(branches, tries, together=tolerance > 0):
            with self._running():
                part, those = [branches[i] for i in chunk], [tries[i] for i in chunk]
                if tolerance:
                    scores, count = score_levels(self, prefix, part, those, tolerance)
                else:
                    scores, count = score_tree(self, prefix, part, those)
            self._ran("probed", count)
            for i, one in zip(chunk, scores, strict=True):
                results[i] = one
        return results

    def token_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """As `Engine.token_logprobs`, in a plain pass of its own that shares nothing."""
        results: list[Tensor] = [torch.zeros(0)] * len(sequences)
        for chunk in self.chunks([len(sequence) for sequence in sequences]):
            ids, lengths = self._pad([sequences[i] for i in chunk])
            mask = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            with self._running():
                logits = self.model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].double()
            picked = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0].cpu()
            for row, i in enumerate(chunk):
                results[i] = picked[row, : len(sequences[i]) - 1]
        return results

    def _ran(self, purpose: str, count: int) -> None:
        """Notes given tokens that went through the model."""
        self.positions[purpose] += count
        self.counts.prefilled += count

    def _parts(self, branches: Sequence[Branch], tries: Sequence[Trie], together: bool) -> Iterator[list[int]]:
        """Indices of branches in chunks; with `together`, all those of a prefix row are in one."""
        sizes = [branch.cut + len(trie.tokens) for branch, trie in zip(branches, tries, strict=True)]
        if not together:
            yield from self.chunks(sizes)
            return
        rows: dict[int, list[int]] = {}
        for i, branch in enumerate(branches):
            rows.setdefault(branch.row, []).append(i)
        members = list(rows.values())
        longest = [max(branches[i].cut for i in row) + sum(len(tries[i].tokens) for i in row) for row in members]
        for chunk in self.chunks(longest):
            yield [i for r in chunk for i in members[r]]

    def _enter(self, prefix: Prefix, branches: list[Branch], purpose: str) -> State:
        """The state of every branch after its suffix: cache, key mask, next position, next logits."""
        cache, cuts = self.gather(prefix, branches)
        width = cache.get_seq_length()
        mask = torch.arange(width, device=self.device) < cuts[:, None]
        if not branches[0].suffix:
            if prefix.ends is None or any(
                branch.suffix or branch.cut != int(prefix.lengths[branch.row]) for branch in branches
            ):
                raise ValueError("a branch without a suffix must cut at the end of its row, and none may have one then")
            rows = torch.tensor([branch.row for branch in branches], device=self.device)
            return State(cache, mask, cuts, prefix.ends[rows])
        ids, lengths = self._pad([branch.suffix for branch in branches])
        fresh = torch.arange(ids.shape[1], device=self.device)
        mask = torch.cat([mask, fresh < lengths[:, None]], 1)
        out = self.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=cuts[:, None] + fresh,
            past_key_values=cache,
            use_cache=True,
        )
        self._ran(purpose, int(lengths.sum()))
        logits = out.logits[torch.arange(len(branches), device=self.device), lengths - 1]
        return State(out.past_key_values, mask, cuts + lengths, logits)

    def _decode(
        self,
        state: State,
        sinks: list[Answers],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling,
        purpose: str,
        keep: bool,
    ) -> None:
        """Token by token; finished rows leave the batch once a quarter of it is done."""
        stops = torch.tensor(list(stop_ids), device=self.device)
        tokens: list[list[int]] = [[] for _ in sinks]
        scores: list[list[float]] = [[] for _ in sinks]
        ended = [False] * len(sinks)
        kept: list[Kept | None] = [None] * len(sinks)
        alive = torch.arange(len(sinks), device=self.device)
        running = torch.ones(len(sinks), dtype=torch.bool, device=self.device)
        given = state.mask.sum(1).tolist()

        def harvest(places: list[int]) -> None:
            for place in places if keep else ():
                row = int(alive[place])
                length = given[row] + len(tokens[row]) - ended[row]
                kept[row] = keep_row(state.cache, place, state.mask[place].nonzero()[:length, 0])

        for step in range(max_new_tokens):
            token, logprob = draw(state.logits, sampling)
            stopped = torch.isin(token, stops)
            rows, ids, lps, ends, live = (x.tolist() for x in (alive, token, logprob, stopped, running))
            for row, one, lp, end, is_live in zip(rows, ids, lps, ends, live, strict=True):
                if is_live:
                    tokens[row].append(one)
                    scores[row].append(lp)
                    ended[row] = end
            running &= ~stopped
            left = int(running.sum())
            if left == 0 or (step == max_new_tokens - 1 and not keep):
                break
            if left <= 0.75 * len(running):
                harvest((~running).nonzero()[:, 0].tolist())
                stay = running.nonzero()[:, 0]
                state.select(stay)
                alive, token, running = alive[stay], token[stay], running[stay]
            self.positions[purpose] += left  # the last token of a cut row runs only where its keys are kept
            state.advance(self.model, token)
        harvest(list(range(len(alive))))
        for sink, ids_, scores_, end, row_kept in zip(sinks, tokens, scores, ended, kept, strict=True):
            sink.ids.append(ids_)
            sink.logprobs.append(scores_)
            sink.stopped.append(end)
            self.counts.decoded += len(ids_)
            if row_kept is not None:
                sink.kept.append(row_kept)

    def gather(self, prefix: Prefix, branches: list[Branch]) -> tuple[DynamicCache, Tensor]:
        """A copy of the rows' keys and values, as wide as the longest cut, and the cuts (branches,)."""
        cuts = torch.tensor([branch.cut for branch in branches], device=self.device)
        return self.rows_of(prefix, [branch.row for branch in branches], int(cuts.max())), cuts

    def rows_of(self, prefix: Prefix, rows: Sequence[int], width: int) -> DynamicCache:
        """A copy of the first `width` keys and values of these rows."""
        index = torch.tensor(rows, device=self.device)
        layers: list[Any] = list(prefix.cache.layers)
        return growing_cache(
            [
                (layer.keys[:, :, :width].index_select(0, index), layer.values[:, :, :width].index_select(0, index))
                for layer in layers
            ]
        )

    def _pad(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        lengths = torch.tensor([len(sequence) for sequence in sequences], device=self.device)
        ids = torch.full((len(sequences), int(lengths.max())), self.pad_id, device=self.device)
        for row, sequence in enumerate(sequences):
            ids[row, : len(sequence)] = torch.tensor(list(sequence), device=self.device)
        return ids, lengths
