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

from mrt.reasoning.engines.cache import State
from mrt.reasoning.engines.trie import Trie

if TYPE_CHECKING:
    from mrt.reasoning.engines.transformers import Branch, Prefix, TransformersEngine


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
    """How far one branch has come: the nodes to run next with the log-mass that reached each, and what was let go."""

    trie: Trie
    scores: Tensor
    front: list[int]
    mass: dict[int, float]
    columns: dict[int, int] = field(default_factory=dict)  # where a node's keys lie in the cache
    spare: float = 0.0
    children: dict[int, list[int]] = field(default_factory=dict)
    leaves: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def expand(self, node: int, reached: float, logprobs: Tensor) -> list[tuple[float, int]]:
        """Scores what ends behind `node` and returns its children with the log-mass that reaches each."""
        for index, token in self.leaves.get(node, ()):
            self.scores[index] = reached + float(logprobs[token])
        return [(reached + float(logprobs[self.trie.tokens[child]]), child) for child in self.children.get(node, ())]

    def advance(self, candidates: list[tuple[float, int]]) -> None:
        """The next front: the candidates save those whose mass together still fits into what may be let go."""
        candidates.sort()
        kept = 0
        for reached, _ in candidates:
            if math.exp(reached) > self.spare:
                break
            self.spare -= math.exp(reached)
            kept += 1
        self.front = sorted(node for _, node in candidates[kept:])
        self.mass = {node: reached for reached, node in candidates[kept:]}

    def path(self, node: int) -> list[int]:
        """Cache columns of the ancestors of `node` behind the root."""
        found = []
        node = self.trie.parents[node]
        while node > self.trie.root:
            found.append(self.columns[node])
            node = self.trie.parents[node]
        return found


def score_levels(
    engine: TransformersEngine, prefix: Prefix, branches: list[Branch], tries: list[Trie], tolerance: float
) -> tuple[list[Tensor], int]:
    """The tries a level at a time. At each level the least likely nodes are let go, as long as the probability that
    reached all that was let go in a branch is at most `tolerance`: the summed probability is low by no more than that.

    Returns:
        the log-probabilities (continuations,) of each branch, -inf for what was let go, and the positions that ran.
    """
    state = engine.enter(prefix, branches, "probed", count=False)
    ran = sum(len(branch.suffix) for branch in branches)
    children, leaves = {id(t): t.children() for t in tries}, {id(t): t.leaves() for t in tries}
    walks = []
    logprobs = state.logits.double().log_softmax(-1).cpu()
    for trie, row in zip(tries, logprobs, strict=True):
        scores = torch.full((len(trie.paths),), -math.inf, dtype=torch.float64)
        walk = _Walk(trie, scores, [], {}, {}, tolerance, children[id(trie)], leaves[id(trie)])
        walk.advance(walk.expand(trie.root, 0.0, row))
        walks.append(walk)
    results = [walk.scores for walk in walks]
    while any(walk.front for walk in walks):
        keep = torch.tensor([i for i, walk in enumerate(walks) if walk.front])
        if len(keep) <= 0.75 * len(walks):
            state.select(keep.to(engine.device))
            walks = [walks[i] for i in keep.tolist()]
        logprobs, count = _run_level(engine, state, walks)
        ran += count
        for walk, row in zip(walks, logprobs, strict=True):
            behind = [pair for i, node in enumerate(walk.front) for pair in walk.expand(node, walk.mass[node], row[i])]
            walk.advance(behind)
    return results, ran


def _run_level(engine: TransformersEngine, state: State, walks: Sequence[_Walk]) -> tuple[Tensor, int]:
    """Runs the fronts; log-probabilities (branches, widest front, V) after their nodes, and how many nodes there were.

    `state.mask` knows prefix and suffix; the columns of earlier levels count only along a node's own path.
    """
    device, widest = engine.device, max(len(walk.front) for walk in walks)
    used = state.cache.get_seq_length()
    ids = torch.full((len(walks), widest), engine.pad_id)
    depth = torch.zeros_like(ids)
    sees = torch.zeros(len(walks), widest, used + widest, dtype=torch.bool)
    base = state.mask.shape[1]
    sees[:, :, :base] = state.mask.cpu()[:, None]
    own = torch.arange(widest)
    sees[:, own, used + own] = True
    for b, walk in enumerate(walks):
        for i, node in enumerate(walk.front):
            ids[b, i] = walk.trie.tokens[node]
            depth[b, i] = walk.trie.depth[node] - walk.trie.root - 1
            sees[b, i, walk.path(node)] = True
            walk.columns[node] = used + i
    out = engine.model(
        input_ids=ids.to(device),
        attention_mask=_bias(sees.to(device), engine.dtype),
        position_ids=state.position[:, None] + depth.to(device),
        past_key_values=state.cache,
        use_cache=True,
    )
    state.cache = out.past_key_values
    return out.logits.double().log_softmax(-1).cpu(), sum(len(walk.front) for walk in walks)


def _bias(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive 4-D mask (rows, 1, queries, keys) of a boolean one."""
    bias = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return bias.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]
