"""Continuations scored level by level, where small masses are pruned: the likely part of a trie is all that runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mrt.reasoning.engines.attention import Attention
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.cache import Prefix
from mrt.reasoning.engines.passes import Passes
from mrt.reasoning.engines.trie import Trie


@dataclass
class _Walk:
    """How far one branch has come: the nodes that run next, the log-mass that reached each, and what may be pruned."""

    row: int  # of the cache
    cut: int
    trie: Trie
    children: dict[int, list[int]]
    leaves: dict[int, list[tuple[int, int]]]
    spare: float
    scores: Tensor
    front: list[int]
    mass: dict[int, float]
    columns: dict[int, int] = field(default_factory=dict)  # where a node's keys lie in the cache

    def wanted(self, node: int) -> list[int]:
        """The tokens whose probability after `node` is asked for: those of its children, then those that end there."""
        after = [self.trie.tokens[child] for child in self.children.get(node, ())]
        return after + [token for _, token in self.leaves.get(node, ())]

    def expand(self, node: int, logprobs: Sequence[float]) -> list[tuple[float, int]]:
        """Scores what ends behind `node` and returns its children with the log-mass that reaches each."""
        reached, children = self.mass[node], self.children.get(node, [])
        ends = zip(self.leaves.get(node, ()), logprobs[len(children) :], strict=False)
        for (index, _), logprob in ends:
            self.scores[index] = reached + logprob
        return [(reached + logprob, child) for child, logprob in zip(children, logprobs, strict=False)]

    def advance(self, candidates: list[tuple[float, int]]) -> None:
        """The next front: the candidates save those whose mass together still fits into what may be pruned."""
        candidates.sort()
        gone = 0
        for reached, _ in candidates:
            if math.exp(reached) > self.spare:
                break
            self.spare -= math.exp(reached)
            gone += 1
        self.front = sorted(node for _, node in candidates[gone:])
        self.mass = {node: reached for reached, node in candidates[gone:]}

    def path(self, node: int) -> list[int]:
        """Cache columns of `node` and its ancestors."""
        found = []
        while node >= 0:
            found.append(self.columns[node])
            node = self.trie.parents[node]
        return found


class Pruned:
    """Rows of a prefix with the nodes that ran behind them so far. `close` cuts the prefix back to what it was.

    All branches of a row are packed behind it under one tree mask. Where all rows of the prefix are asked about they
    are written to in place, until half of them are done.
    """

    def __init__(self, passes: Passes, attention: Attention, prefix: Prefix, rows: Sequence[int]) -> None:
        self.passes, self.attention, self.prefix, self.rows = passes, attention, prefix, list(rows)
        self.width = prefix.width
        self.own = len(rows) == len(prefix.lengths)
        self.cache = prefix.cache if self.own else prefix.copy_of(rows, self.width)
        self.positions = torch.arange(self.width).expand(len(rows), -1)

    def close(self) -> None:
        """Forgets the nodes."""
        self.prefix.shorten(self.width)

    def keep(self, alive: Sequence[int]) -> None:
        """Only these places of `rows` go on."""
        if self.own:
            self.cache, self.own = (
                self.prefix.copy_of([self.rows[i] for i in alive], self.cache.get_seq_length()),
                False,
            )
        else:
            self.cache.batch_select_indices(torch.tensor(list(alive), device=self.passes.device))
        self.positions, self.rows = self.positions[list(alive)], [self.rows[i] for i in alive]

    def run(self, walks: Sequence[_Walk]) -> list[list[list[float]]]:
        """One pass over the fronts; for every walk and node of its front the log-probabilities of `wanted(node)`."""
        starts, sizes = [], [0] * len(self.rows)
        for walk in walks:
            starts.append(sizes[walk.row])
            sizes[walk.row] += len(walk.front)
        used, widest = self.positions.shape[1], max(sizes)
        # Lists first, one tensor each afterwards: writing single elements of tensors takes longer than the model.
        ids, positions, cuts = ([[0] * widest for _ in self.rows] for _ in range(3))
        wanted: list[list[int]] = []
        asked: tuple[list[int], list[int]] = ([], [])
        at: tuple[list[int], list[int], list[int]] = ([], [], [])
        for walk, start in zip(walks, starts, strict=True):
            row = walk.row
            for query, node in enumerate(walk.front, start):
                walk.columns[node] = used + query
                ids[row][query] = walk.trie.tokens[node]
                positions[row][query] = walk.cut + walk.trie.depth[node]
                cuts[row][query] = walk.cut
                asked[0].append(row)
                asked[1].append(query)
                wanted.append(walk.wanted(node))
                path = walk.path(node)
                at[0].extend([row] * len(path))
                at[1].extend([query] * len(path))
                at[2].extend(path)
        sees = torch.zeros(len(self.rows), widest, used + widest, dtype=torch.bool)
        sees[:, :, : self.width] = torch.arange(self.width) < torch.tensor(cuts)[:, :, None]
        sees[at] = True
        picked = iter(self._pass(torch.tensor(ids), torch.tensor(positions), sees, asked, wanted))
        return [[next(picked) for _ in walk.front] for walk in walks]

    def _pass(
        self,
        ids: Tensor,
        positions: Tensor,
        sees: Tensor,
        asked: tuple[list[int], list[int]],
        wanted: Sequence[Sequence[int]],
    ) -> list[list[float]]:
        new = torch.arange(ids.shape[1])
        sees[:, new, self.positions.shape[1] + new] = True  # padding sees itself: no empty softmax row
        self.positions = torch.cat([self.positions, positions], 1)
        if self.own:
            self.prefix.reserve(len(new))
        device = self.passes.device
        asking, past = positions.to(device), self.positions.to(device)
        hidden = self.passes.hidden(
            *(torch.tensor(index, device=device) for index in asked),
            input_ids=ids.to(device),
            attention_mask=self.attention.mask(sees.to(device), asking, past, self.passes.dtype),
            position_ids=asking,
            past_key_values=self.cache,
            use_cache=True,
        )
        return self.passes.logprobs(hidden, padded(wanted, device)).tolist()


def score_levels(
    pruned: Pruned, branches: Sequence[Branch], tries: Sequence[Trie], tolerance: float
) -> tuple[list[Tensor], int]:
    """The tries a level at a time.

    At each level the least likely nodes are pruned, as long as the probability that reached all that was pruned in a
    branch is at most `tolerance`: the summed probability is low by no more than that.

    Returns:
        the log-probabilities (continuations,) of each branch, -inf for what was pruned, and the positions that ran.
    """
    walks = _walks(branches, tries, {row: i for i, row in enumerate(pruned.rows)}, tolerance)
    results, ran = [walk.scores for walk in walks], 0
    try:
        while walks := [walk for walk in walks if walk.front]:
            alive = sorted({walk.row for walk in walks})
            if len(alive) <= 0.5 * len(pruned.rows):
                pruned.keep(alive)
                place = {row: i for i, row in enumerate(alive)}
                for walk in walks:
                    walk.row = place[walk.row]
            for walk, after in zip(walks, pruned.run(walks), strict=True):
                ran += len(walk.front)
                reached = [(node, one) for node, one in zip(walk.front, after, strict=True) if node in walk.mass]
                walk.advance([pair for node, one in reached for pair in walk.expand(node, one)])
    finally:
        pruned.close()
    return results, ran


def _walks(
    branches: Sequence[Branch], tries: Sequence[Trie], place: Mapping[int, int], tolerance: float
) -> list[_Walk]:
    children, leaves = {id(t): t.children() for t in tries}, {id(t): t.leaves() for t in tries}
    return [
        _Walk(
            row=place[branch.row],
            cut=branch.cut,
            trie=trie,
            children=children[id(trie)],
            leaves=leaves[id(trie)],
            spare=tolerance,
            scores=torch.full((len(trie.paths),), -math.inf, dtype=torch.float64),
            front=list(range(trie.root + 1)),
            mass={trie.root: 0.0},
        )
        for branch, trie in zip(branches, tries, strict=True)
    ]


def padded(wanted: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """(n, most) of token ids, zeros behind short rows."""
    most = max(1, *(len(tokens) for tokens in wanted), 1)
    return torch.tensor([[*tokens, *[0] * (most - len(tokens))] for tokens in wanted], device=device)
