"""MANN: a memory-augmented network reads the support set as a sequence, each image with the label of the one before.

    r_t = sum_i w^r_t(i) M_t(i), w^r = softmax of cosine(k_t, M_t(i))            (equations 2 to 4)
    w^u_t = gamma w^u_(t-1) + w^r_t + w^w_t                                      (equation 5)
    w^w_t = sigma(a) w^r_(t-1) + (1 - sigma(a)) w^lu_(t-1)                       (equation 7)
    M_t(i) = M_(t-1)(i) + w^w_t(i) k_t, the least used slot erased before        (equation 8)

Santoro, Bartunov, Botvinick, Wierstra & Lillicrap 2016, 1605.06065 (least recently used access).

Deviations: an embedding before the controller, as for all systems compared here; labels are those of the episode's
ways; queries branch off the memory after the whole support set, so that one query does not teach the next.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classic_metarl.inner.task_networks import embed
from classic_metarl.problems.images import one_hot
from classic_metarl.trainers.few_shot import EpisodicLearner, FewShotTrainer, Set

GAMMA = 0.95


class State(NamedTuple):
    """Of B sequences: controller (B, H) twice, memory (B, N, W), weights of reading and use (B, N)."""

    hidden: Tensor
    cell: Tensor
    memory: Tensor
    read: Tensor
    use: Tensor


class MANN(EpisodicLearner):
    """LSTM controller and external memory.

    Args:
        slots: N. width: W of a slot. hidden: H of the controller.
    """

    def __init__(self, family: Any, args: Any, slots: int = 32, width: int = 40, hidden: int = 128) -> None:
        super().__init__(family)
        self.net = family.embedding(args.hidden, args.activation)
        self.slots, self.width = slots, width
        self.controller = nn.LSTMCell(self.net.features + family.ways + width, hidden)
        self.key, self.gate = nn.Linear(hidden, width), nn.Linear(hidden, 1)
        self.out = nn.Linear(hidden + width, family.ways)

    def answer(self, support: Set, x: Tensor) -> Tensor:
        ways = self.family.ways  # type: ignore[attr-defined]
        images, queries = embed(self.net, support[0]), embed(self.net, x)
        labels = one_hot(support[1], ways)
        state = self._start(images)
        last = labels.new_zeros(len(labels), ways)
        for t in range(images.shape[1]):
            _, state = self._step(images[:, t], last, state)
            last = labels[:, t]
        tasks, n = queries.shape[:2]
        branched = State(*(part.repeat_interleave(n, 0) for part in state))
        outputs, _ = self._step(queries.flatten(0, 1), last.repeat_interleave(n, 0), branched)
        return outputs.unflatten(0, (tasks, n))

    def _start(self, like: Tensor) -> State:
        rows = len(like)
        zeros = like.new_zeros(rows, self.controller.hidden_size)
        memory = like.new_full((rows, self.slots, self.width), 1e-6)
        first = F.one_hot(torch.zeros(rows, dtype=torch.long, device=like.device), self.slots).to(like.dtype)
        return State(zeros, zeros, memory, first, first)

    def _step(self, image: Tensor, last: Tensor, state: State) -> tuple[Tensor, State]:
        """image (B, F), label of the image before (B, ways) -> logits (B, ways) and the state."""
        recalled = torch.einsum("bn,bnw->bw", state.read, state.memory)
        hidden, cell = self.controller(torch.cat([image, last, recalled], -1), (state.hidden, state.cell))
        key = torch.tanh(self.key(hidden))
        least = F.one_hot(state.use.argmin(-1), self.slots).to(key.dtype)
        gate = torch.sigmoid(self.gate(hidden))
        write = gate * state.read + (1 - gate) * least
        memory = state.memory * (1 - least)[..., None] + write[..., None] * key[:, None]
        read = (F.normalize(key, dim=-1)[:, None] * F.normalize(memory, dim=-1)).sum(-1).softmax(-1)
        use = GAMMA * state.use + read + write
        output = self.out(torch.cat([hidden, torch.einsum("bn,bnw->bw", read, memory)], -1))
        return output, State(hidden, cell, memory, read, use)


class MANNTrainer(FewShotTrainer):
    """MANN on image episodes."""

    @classmethod
    def build(cls, family: Any, args: Any) -> MANN:
        return MANN(family, args)
