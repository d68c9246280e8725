"""Continuations of many branches scored in one pass under a tree mask, on keys and values that nobody copies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mrt.reasoning.engines.attention import Attention
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.cache import Prefix
from mrt.reasoning.engines.passes import Passes
from mrt.reasoning.engines.pruning import padded
from mrt.reasoning.engines.trie import Trie


def score_tree(
    passes: Passes, attention: Attention, prefix: Prefix, branches: Sequence[Branch], tries: Sequence[Trie]
) -> tuple[list[Tensor], int]:
    """One pass over suffix and trie of every branch: every node sees its prefix and its own ancestors.

    Returns:
        the log-probabilities (continuations,) of each branch, and the positions that ran.
    """
    rows = sorted({branch.row for branch in branches})
    cache, device = prefix.passing(rows, max(branch.cut for branch in branches)), passes.device
    width, place = cache.get_seq_length(), {row: i for i, row in enumerate(rows)}
    starts, sizes = [], [0] * len(rows)
    for branch, trie in zip(branches, tries, strict=True):
        starts.append(sizes[place[branch.row]])
        sizes[place[branch.row]] += len(trie.tokens)
    nodes = max(sizes)
    ids, positions, cuts = (torch.zeros(len(rows), nodes, dtype=torch.long) for _ in range(3))
    sees = torch.zeros(len(rows), nodes, width + nodes, dtype=torch.bool)
    seen, after = {id(trie): trie.ancestors() for trie in tries}, {id(trie): trie.wanted() for trie in tries}
    asked: tuple[list[int], list[int]] = ([], [])
    wanted: list[list[int]] = []
    for branch, trie, start in zip(branches, tries, starts, strict=True):
        row, end = place[branch.row], start + len(trie.tokens)
        ids[row, start:end] = torch.tensor(trie.tokens)
        positions[row, start:end] = branch.cut + torch.tensor(trie.depth)
        cuts[row, start:end] = branch.cut
        sees[row, start:end, width + start : width + end] = seen[id(trie)]
        for node, tokens in after[id(trie)].items():
            asked[0].append(row)
            asked[1].append(start + node)
            wanted.append(tokens)
    sees[:, :, :width] = torch.arange(width) < cuts[:, :, None]
    sees[:, torch.arange(nodes), width + torch.arange(nodes)] = True  # padding sees itself: no empty softmax row
    past = torch.cat([torch.arange(width).expand(len(rows), -1), positions], 1).to(device)
    asking = positions.to(device)
    hidden = passes.hidden(
        *(torch.tensor(index, device=device) for index in asked),
        input_ids=ids.to(device),
        attention_mask=attention.mask(sees.to(device), asking, past, passes.dtype),
        position_ids=asking,
        past_key_values=cache,
        use_cache=True,
    )
    picked = iter(passes.logprobs(hidden, padded(wanted, device)).tolist())
    scores = []
    for trie in tries:
        known: dict[tuple[int, int], float] = {}
        for node, tokens in after[id(trie)].items():
            known |= {(node, token): value for token, value in zip(tokens, next(picked), strict=False)}
        scores.append(trie.sums(known))
    return scores, sum(len(trie.tokens) for trie in tries)
