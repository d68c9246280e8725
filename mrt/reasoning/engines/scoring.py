"""Continuations of many branches scored: all at once under a tree mask, or level by level where small masses are let
go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import DynamicCache

from mrt.reasoning.engines.trie import Trie

if TYPE_CHECKING:
    from mrt.reasoning.engines.prefix import Prefix
    from mrt.reasoning.engines.transformers import Branch, TransformersEngine


def score_tree(
    engine: TransformersEngine, prefix: Prefix, branches: list[Branch], tries: list[Trie]
) -> tuple[list[Tensor], int]:
    """One pass over suffix and trie of every branch: every node sees its prefix and its own ancestors.

    Returns:
        the log-probabilities (continuations,) of each branch, and the positions that ran.
    """
    cache, cuts = engine.gather(prefix, branches)
    device = engine.device
    width, nodes = cache.get_seq_length(), max(len(trie.tokens) for trie in tries)
    ids = torch.full((len(branches), nodes), engine.pad_id, device=device)
    positions = torch.zeros_like(ids)
    sees = torch.zeros(len(branches), nodes, width + nodes, dtype=torch.bool, device=device)
    sees[:, :, :width] = (torch.arange(width, device=device) < cuts[:, None])[:, None]
    seen = {id(trie): trie.ancestors().to(device) for trie in tries}
    for b, trie in enumerate(tries):
        size = len(trie.tokens)
        ids[b, :size] = torch.tensor(trie.tokens, device=device)
        positions[b, :size] = cuts[b] + torch.tensor(trie.depth, device=device)
        sees[b, :size, width : width + size] = seen[id(trie)]
    sees[:, torch.arange(nodes), width + torch.arange(nodes)] = True  # padding sees itself: no empty softmax row
    out = engine.model(
        input_ids=ids,
        attention_mask=_bias(sees, engine.dtype),
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
    )
    logprobs = out.logits.double().log_softmax(-1).cpu()
    return [trie.path_scores(logprobs[b]) for b, trie in enumerate(tries)], sum(len(trie.tokens) for trie in tries)


@dataclass
class _Walk:
    """How far one branch has come: the nodes that run next, the log-mass that reached each, and what may be let go."""

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
        """The next front: the candidates save those whose mass together still fits into what may be let go."""
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


def score_levels(
    engine: TransformersEngine, prefix: Prefix, branches: list[Branch], tries: list[Trie], tolerance: float
) -> tuple[list[Tensor], int]:
    """The tries a level at a time, all branches of a prefix row packed behind it under one tree mask.

    At each level the least likely nodes are let go, as long as the probability that reached all that was let go in a
    branch is at most `tolerance`: the summed probability is low by no more than that.

    Returns:
        the log-probabilities (continuations,) of each branch, -inf for what was let go, and the positions that ran.
    """
    rows = sorted({branch.row for branch in branches})
    cache = engine.rows_of(prefix, rows, max(branch.cut for branch in branches))
    width, place = cache.get_seq_length(), {row: i for i, row in enumerate(rows)}
    children, leaves = {id(t): t.children() for t in tries}, {id(t): t.leaves() for t in tries}
    walks = []
    for branch, trie in zip(branches, tries, strict=True):
        scores = torch.full((len(trie.paths),), -math.inf, dtype=torch.float64)
        suffix = list(range(trie.root + 1))
        known = (children[id(trie)], leaves[id(trie)], tolerance, scores)
        walks.append(_Walk(place[branch.row], branch.cut, trie, *known, front=suffix, mass={trie.root: 0.0}))
    results, ran = [walk.scores for walk in walks], 0
    while walks := [walk for walk in walks if walk.front]:
        alive = sorted({walk.row for walk in walks})
        if len(alive) <= 0.75 * len(rows):
            cache.batch_select_indices(torch.tensor(alive, device=engine.device))
            rows, place = alive, {row: i for i, row in enumerate(alive)}
            for walk in walks:
                walk.row = place[walk.row]
        logprobs = _run_fronts(engine, cache, len(rows), width, walks)
        for walk, after in zip(walks, logprobs, strict=True):
            ran += len(walk.front)
            reached = [(node, one) for node, one in zip(walk.front, after, strict=True) if node in walk.mass]
            walk.advance([pair for node, one in reached for pair in walk.expand(node, one)])
    return results, ran


def _run_fronts(
    engine: TransformersEngine, cache: DynamicCache, rows: int, width: int, walks: Sequence[_Walk]
) -> list[list[list[float]]]:
    """One pass over the fronts; for every walk and node of its front the log-probabilities of `wanted(node)`."""
    starts, sizes = [], [0] * rows
    for walk in walks:
        starts.append(sizes[walk.row])
        sizes[walk.row] += len(walk.front)
    used, widest = cache.get_seq_length(), max(sizes)
    most = max(1, *(len(walk.wanted(node)) for walk in walks for node in walk.front))
    # Lists first, one tensor each afterwards: writing single elements of tensors takes longer than the model.
    ids = [[engine.pad_id] * widest for _ in range(rows)]
    positions, cuts = ([[0] * widest for _ in range(rows)] for _ in range(2))
    tokens = [[[0] * most for _ in range(widest)] for _ in range(rows)]
    at: tuple[list[int], list[int], list[int]] = ([], [], [])
    for walk, start in zip(walks, starts, strict=True):
        row = walk.row
        for query, node in enumerate(walk.front, start):
            walk.columns[node] = used + query
            ids[row][query] = walk.trie.tokens[node]
            positions[row][query] = walk.cut + walk.trie.depth[node]
            cuts[row][query] = walk.cut
            wanted = walk.wanted(node)
            tokens[row][query][: len(wanted)] = wanted
            path = walk.path(node)
            at[0].extend([row] * len(path))
            at[1].extend([query] * len(path))
            at[2].extend(path)
    sees = torch.zeros(rows, widest, used + widest, dtype=torch.bool)
    sees[:, :, :width] = torch.arange(width) < torch.tensor(cuts)[:, :, None]
    sees[:, torch.arange(widest), used + torch.arange(widest)] = True  # padding sees itself: no empty softmax row
    sees[at] = True
    device = engine.device
    out = engine.model(
        input_ids=torch.tensor(ids, device=device),
        attention_mask=_bias(sees.to(device), engine.dtype),
        position_ids=torch.tensor(positions, device=device),
        past_key_values=cache,
        use_cache=True,
    )
    logits = out.logits.float()
    picked = (logits.gather(-1, torch.tensor(tokens, device=device)) - logits.logsumexp(-1, keepdim=True)).tolist()
    return [picked[walk.row][start : start + len(walk.front)] for walk, start in zip(walks, starts, strict=True)]


def _bias(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive 4-D mask (rows, 1, queries, keys) of a boolean one."""
    bias = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return bias.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]
