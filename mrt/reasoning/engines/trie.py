"""Continuations of one prefix as a trie: what they share runs through the model once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Trie:
    """A suffix (a chain) and, behind it, continuations that share their beginnings.

    `tokens[i]` is the token of node i, `parents[i]` the node before it (-1 for the first), `depth[i]` its distance from
    the prefix, `paths` the nodes of every continuation followed by its last token.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depth: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    root: int  # the last node of the suffix

    @staticmethod
    def build(suffix: Sequence[int], continuations: Sequence[Sequence[int]]) -> Trie:
        """The last token of a continuation needs no position: its probability is read from its parent.

        Raises:
            ValueError: for an empty suffix (the parent's logits would lie in the prefix) or an empty continuation.
        """
        if not suffix or any(not continuation for continuation in continuations):
            raise ValueError("a trie needs a suffix and continuations of at least one token")
        tokens, parents = list(suffix), [i - 1 for i in range(len(suffix))]
        depth = list(range(len(suffix)))
        children: dict[tuple[int, int], int] = {}
        paths = []
        for continuation in continuations:
            node, path = len(suffix) - 1, []
            for token in continuation[:-1]:
                if (node, token) not in children:
                    children[node, token] = len(tokens)
                    tokens.append(token)
                    parents.append(node)
                    depth.append(depth[node] + 1)
                node = children[node, token]
                path.append(node)
            paths.append((*path, continuation[-1]))
        return Trie(tuple(tokens), tuple(parents), tuple(depth), tuple(paths), len(suffix) - 1)

    def ancestors(self) -> Tensor:
        """(nodes, nodes) bool: whom a node sees, itself included."""
        sees = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                sees[node] |= sees[parent]
        return sees

    def children(self) -> dict[int, list[int]]:
        """The nodes behind each node, from the root on."""
        behind: dict[int, list[int]] = {}
        for node in range(self.root + 1, len(self.tokens)):
            behind.setdefault(self.parents[node], []).append(node)
        return behind

    def leaves(self) -> dict[int, list[tuple[int, int]]]:
        """The (continuation, its last token) that end behind each node."""
        ends: dict[int, list[tuple[int, int]]] = {}
        for index, (*nodes, last) in enumerate(self.paths):
            ends.setdefault(nodes[-1] if nodes else self.root, []).append((index, last))
        return ends

    def wanted(self) -> dict[int, list[int]]:
        """The tokens whose log-probability after each node is asked for, without repetition."""
        found: dict[int, dict[int, None]] = {}
        for path in self.paths:
            for node, token in self.steps(path):
                found.setdefault(node, {})[token] = None
        return {node: list(tokens) for node, tokens in found.items()}

    def steps(self, path: Sequence[int]) -> list[tuple[int, int]]:
        """The (node, token behind it) of one of `paths`."""
        *nodes, last = path
        return list(zip([self.root, *nodes], [*(self.tokens[node] for node in nodes), last], strict=True))

    def sums(self, known: Mapping[tuple[int, int], float]) -> Tensor:
        """(continuations,) float64: `known` log-probabilities of (node, token behind it), summed along each path."""
        return torch.tensor([sum(known[step] for step in self.steps(path)) for path in self.paths], dtype=torch.float64)
