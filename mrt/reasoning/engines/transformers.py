"""A Hugging Face causal LM as an engine: a prefix goes through the model once, whatever is asked at its boundaries.

`prefill` keeps the keys and values of every row. A branch is (row, cut, suffix): the first `cut` tokens of a row, then
the suffix. Its answers are sampled (`answers`) or scored (`score`) behind the row, masked beyond the cut, with position
ids that go on from the cut; nothing before the cut is computed again, and nothing of it is copied for a branch. Counts
are positions through the model without padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mrt.errors import ConfigError
from mrt.reasoning.engines.attention import attention_of, unshareable
from mrt.reasoning.engines.base import Answers, Branch
from mrt.reasoning.engines.cache import Kept, Prefix, join_rows, keep_row, stack_rows
from mrt.reasoning.engines.counted import CountedEngine
from mrt.reasoning.engines.noise import Noise
from mrt.reasoning.engines.pruning import Pruned, score_levels
from mrt.reasoning.engines.sampling import Draws, Sampling, draw
from mrt.reasoning.engines.scoring import score_tree
from mrt.reasoning.engines.streams import WASTE, Rows, Streams, enter, shares
from mrt.reasoning.engines.trie import Trie
from mrt.runs.plan import MAX_POSITIONS

PASS = 2048  # positions of a prefill at one time: what layers compute on the way takes as much as keys and values


class TransformersEngine(CountedEngine):
    """`mrt.reasoning.engines.base.Engine` on a model whose past is its keys and values, with full, sliding or chunked
    attention.

    Raises:
        ConfigError: for a model with other states, which `mrt.reasoning.engines.opening.engine_on` gives an engine that
            shares nothing.
    """

    def __init__(self, model: Any, pad_id: int, max_positions: int = MAX_POSITIONS) -> None:
        super().__init__(model, pad_id, max_positions)
        attention = attention_of(model)
        if attention is None:
            raise ConfigError(f"{unshareable(model)}: open it with engine_on, or set use_vllm=true")
        self.attention = attention

    def prefill(self, sequences: Sequence[Sequence[int]], purpose: str = "sampled") -> Prefix:
        """Forward passes over right-padded `sequences` (each of at least one token); no logits are computed."""
        parts = []
        longest = max(map(len, sequences))
        step = max(1, PASS // longest)
        for start in range(0, len(sequences), step):
            parts.append(self._pass(sequences[start : start + step], longest))
        self._ran(purpose, sum(map(len, sequences)))
        return stack_rows(parts)

    def _pass(self, sequences: Sequence[Sequence[int]], width: int) -> Prefix:
        ids, lengths = self._pad(sequences, width)
        cache = DynamicCache()  # of keys and values in full, whatever the model's window: a cut may lie far back
        with self.passes.running():
            last = self.passes.hidden(
                torch.arange(len(ids), device=ids.device),
                lengths - 1,
                input_ids=ids,
                past_key_values=cache,
                use_cache=True,
            )
        return Prefix(cache, lengths, last)

    def answers(
        self,
        prefix: Prefix,
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
        """As `Engine.answers`; with `keep` come the keys and values of all but a stop token, for `restore`."""
        results: list[Answers] = [Answers() for _ in branches]
        self.counts.asked += n * sum(branch.cut + len(branch.suffix) for branch in branches)
        shared = not keep and shares(branches, n, max_new_tokens)
        for chunk in (
            self._together(prefix, branches, n * max_new_tokens) if shared else self._apart(branches, n, max_new_tokens)
        ):
            part, width = [branches[i] for i in chunk], prefix.width
            sinks = [results[i] for i in chunk for _ in range(n)]
            own = tuple(one for i in chunk for one in noise[i]) if noise else ()
            with self.passes.running():
                try:
                    at_once = not (shared or states or part[0].suffix)  # nothing runs before they part: one copy
                    entering = [b for b in part for _ in range(n if at_once else 1)]
                    with self.passes.heard() as heard:
                        streams = self._enter(prefix, entering, purpose, shared)
                    if states:
                        for i, state in zip(chunk, heard[-1], strict=True):
                            results[i].state = state
                    streams.repeat(1 if at_once else n, own_rows=not shared)
                    draws = Draws(max_new_tokens, tuple(stop_ids), sampling, own)
                    decoding = _Decoding(self, streams, draws, own_rows=not shared, keep=keep)
                    self.positions[purpose] += decoding.run()
                finally:
                    prefix.shorten(width)
            self.counts.decoded += decoding.give(sinks)
        return results

    def restore(self, rows: Sequence[Kept]) -> Prefix:
        """Rows that were sampled with `keep`, as a prefix for branches; nothing runs through the model."""
        return join_rows(rows)

    def score(
        self,
        prefix: Prefix,
        branches: Sequence[Branch],
        continuations: Sequence[Sequence[Sequence[int]]],
        tolerance: float = 0.0,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
    ) -> list[Tensor]:
        """As `Engine.score`.

        The continuations of a branch form a trie: a shared beginning runs through the model once, under a tree mask in
        which every node sees its prefix, the suffix and its own ancestors. With a `tolerance` the trie runs level by
        level, and unlikely parts of it are pruned: the summed probability of a branch is then low by at most that.
        """
        results: list[Tensor] = [torch.zeros(0, dtype=torch.float64)] * len(branches)
        known: dict[tuple[Any, ...], Trie] = {}  # the boundaries of one problem share their trie
        tries = []
        for branch, group in zip(branches, continuations, strict=True):
            key = (branch.suffix, *map(tuple, group))
            if key not in known:
                known[key] = Trie.build(branch.suffix, group)
            tries.append(known[key])
            self.counts.asked += sum(branch.cut + len(branch.suffix) + len(one) - 1 for one in group)
        wanted = [i for i, trie in enumerate(tries) if trie.paths]
        for chunk in self._parts([branches[i] for i in wanted], [tries[i] for i in wanted], together=tolerance > 0):
            part, those = [branches[wanted[i]] for i in chunk], [tries[wanted[i]] for i in chunk]
            with self.passes.running(), self.passes.drawing(sampling):
                if tolerance:
                    rows = sorted({branch.row for branch in part})
                    pruned = Pruned(self.passes, self.attention, prefix, rows)
                    scores, count = score_levels(pruned, part, those, tolerance)
                else:
                    scores, count = score_tree(self.passes, self.attention, prefix, part, those)
            self._ran("probed", count)
            for i, one in zip(chunk, scores, strict=True):
                results[wanted[i]] = one
        return results

    def _parts(self, branches: Sequence[Branch], tries: Sequence[Trie], together: bool) -> Iterator[list[int]]:
        """Indices of branches in chunks of rows. With `together` all branches of a row are in one chunk; else a row
        whose tries are many times its prefix comes in several.
        """
        rows: dict[tuple[int, int], list[int]] = {}
        for row in sorted({branch.row for branch in branches}):
            mine = [i for i, branch in enumerate(branches) if branch.row == row]
            most = WASTE * max(branches[i].cut for i in mine)
            turn, size = 0, 0
            for i in mine:
                if size and size + len(tries[i].tokens) > most and not together:
                    turn, size = turn + 1, 0
                size += len(tries[i].tokens)
                rows.setdefault((turn, row), []).append(i)
        for turn in sorted({turn for turn, _ in rows}):
            members = [rows[key] for key in sorted(rows) if key[0] == turn]
            longest = [max(branches[i].cut for i in row) + sum(len(tries[i].tokens) for i in row) for row in members]
            yield from ([i for r in chunk for i in members[r]] for chunk in self._side_by_side(longest))

    def _side_by_side(self, sizes: Sequence[int]) -> Iterator[list[int]]:
        """Neighbours in chunks below `max_positions`, each as wide as its widest."""
        chunk: list[int] = []
        for i, size in enumerate(sizes):
            if chunk and (len(chunk) + 1) * max(size, max(sizes[k] for k in chunk)) > self.max_positions:
                yield chunk
                chunk = []
            chunk.append(i)
        if chunk:
            yield chunk

    def _apart(self, branches: Sequence[Branch], n: int, max_new_tokens: int) -> Iterator[list[int]]:
        """Indices of branches in chunks whose streams have a row each."""
        yield from self.chunks([branch.cut + len(branch.suffix) + max_new_tokens for branch in branches], n)

    def _together(self, prefix: Prefix, branches: Sequence[Branch], each: int) -> Iterator[list[int]]:
        """Indices of branches in chunks of whole rows, with all that their streams write."""
        members = [[i for i, b in enumerate(branches) if b.row == row] for row in sorted({b.row for b in branches})]
        sizes = [prefix.width + sum(each + len(branches[i].suffix) for i in row) for row in members]
        for chunk in self._side_by_side(sizes):
            yield [i for r in chunk for i in members[r]]

    def _enter(self, prefix: Prefix, branches: list[Branch], purpose: str, shared: bool) -> Streams:
        """The streams of all branches, behind their suffixes."""
        rows, places = self._rows(prefix, branches, shared)
        if branches[0].suffix:
            self._ran(purpose, sum(len(branch.suffix) for branch in branches))
            return enter(self.passes, self.attention, rows, places, branches)
        ends = prefix.lengths.tolist()
        if prefix.last is None or any(branch.suffix or branch.cut != ends[branch.row] for branch in branches):
            raise ValueError("a branch without a suffix must cut at the end of its row, and none may have one then")
        number = torch.arange(len(branches), device=self.device)
        cut = torch.tensor([branch.cut for branch in branches], device=self.device)
        logits = self.passes.of_hidden(prefix.last[[branch.row for branch in branches]])
        return Streams(rows, torch.tensor(places, device=self.device), cut, number, number, cut, logits)

    def _rows(self, prefix: Prefix, branches: Sequence[Branch], shared: bool) -> tuple[Rows, list[int]]:
        """Rows to write behind, and the place of each branch's row among them."""
        if not shared:
            cache = prefix.copy_of([branch.row for branch in branches], max(branch.cut for branch in branches))
            return Rows.of(cache, len(branches), self.device), list(range(len(branches)))
        rows = sorted({branch.row for branch in branches})
        place = {row: i for i, row in enumerate(rows)}
        places = [place[branch.row] for branch in branches]
        if len(rows) == len(prefix.lengths):
            return Rows.of(prefix.cache, len(rows), self.device, prefix), places
        cache = prefix.copy_of(rows, max(branch.cut for branch in branches))
        return Rows.of(cache, len(rows), self.device), places


class _Decoding:
    """Streams that are decoded token by token; finished ones leave once a quarter of them is done."""

    def __init__(
        self, engine: TransformersEngine, streams: Streams, draws: Draws, *, own_rows: bool, keep: bool
    ) -> None:
        self.engine, self.streams, self.draws, self.own_rows, self.keep = engine, streams, draws, own_rows, keep
        count = len(streams.row)
        self.tokens: list[list[int]] = [[] for _ in range(count)]
        self.logprobs: list[list[float]] = [[] for _ in range(count)]
        self.ended = [False] * count
        self.kept: list[Kept | None] = [None] * count
        self.alive = list(range(count))
        self.given = streams.next.tolist()
        self.shared = int(streams.cut.max())

    def run(self) -> int:
        """Decodes to the end; the positions that were fed."""
        fed, streams, limit = 0, self.streams, self.draws.max_new_tokens
        stops = torch.tensor(list(self.draws.stop_ids), device=self.engine.device)
        running = torch.ones(len(self.alive), dtype=torch.bool, device=self.engine.device)
        for step in range(limit):
            begin = self.draws.begin(self.alive, step, self.engine.device)
            token, logprob = draw(streams.logits, self.draws.sampling, begin)
            stopped = torch.isin(token, stops)
            drawn = (self.alive, token.tolist(), logprob.tolist(), stopped.tolist(), running.tolist())
            for stream, one, score, end, live in zip(*drawn, strict=True):
                if live:
                    self.tokens[stream].append(one)
                    self.logprobs[stream].append(score)
                    self.ended[stream] = end
            running &= ~stopped
            left = int(running.sum())
            if left == 0 or (step == limit - 1 and not self.keep):
                break
            if left <= 0.75 * len(running):
                self._harvest((~running).nonzero()[:, 0].tolist())
                stay = running.nonzero()[:, 0]
                streams.select(stay, self.own_rows)
                self.alive, token, running = [self.alive[i] for i in stay.tolist()], token[stay], running[stay]
            fed += left  # the last token of a cut row runs only where its keys are kept
            if not self.own_rows and self._may_part():
                streams.part()
                self.own_rows = True
            streams.advance(self.engine.passes, self.engine.attention, token)
        self._harvest(range(len(self.alive)))
        return fed

    def _may_part(self) -> bool:
        """Whether streams that share rows should part, and rows of their own fit."""
        longest = max(self.given) + self.draws.max_new_tokens
        return self.streams.should_part(self.shared) and len(self.alive) * longest <= self.engine.max_positions

    def _harvest(self, places: Sequence[int]) -> None:
        for place in places if self.keep else ():
            stream = self.alive[place]
            length = self.given[stream] + len(self.tokens[stream]) - self.ended[stream]
            columns = self.streams.keys_of(place)[:length]
            self.kept[stream] = keep_row(self.streams.rows.cache, int(self.streams.row[place]), columns)

    def give(self, sinks: Sequence[Answers]) -> int:
        """Hands every stream's tokens to its answers; how many tokens there are."""
        streams = zip(sinks, self.tokens, self.logprobs, self.ended, self.kept, strict=True)
        for sink, tokens, logprobs, ended, kept in streams:
            sink.ids.append(tokens)
            sink.logprobs.append(logprobs)
            sink.stopped.append(ended)
            if kept is not None:
                sink.kept.append(kept)
        return sum(map(len, self.tokens))
