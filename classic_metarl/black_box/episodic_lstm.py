"""Episodic LSTM: working memory that is reinstated from a dictionary of earlier episodes (Ritter, Wang, Kurth-Nelson,
Jayakumar, Blundell, Pascanu and Botvinick 2018, "Been there, done that", arXiv 1805.09692).

A standard LSTM forgets what it found out as soon as the next task begins. Here the cell at the end of every episode is
stored under that episode's context, and a further gate adds what is found under the present context:

    i, f, o, r = sigmoid(W [x_t, h_(t-1)] + b)        u = tanh(W_u [x_t, h_(t-1)] + b_u)
    m_t = sum_i w_i c_i,   w_i = k(p_t, p_i) / sum_j k(p_t, p_j),   k(p, q) = 1 / (|p - q|^2 + delta)
    c_t = f c_(t-1) + i u + r tanh(m_t)               h_t = o tanh(c_t)

(section 3; the kernel is that of the differentiable neural dictionary, Pritzel et al. 2017, 1703.01988, equation 5).
No gradient passes through what is stored; it reaches the reinstatement gate, and a learned key. m_t is 0 while the
dictionary is empty. It is written at the closing row of an episode, when the last reward has been seen, and the working
memory (h, c) is cleared before the next: what is needed later must go through the dictionary.

Here episodes are those of a trial, which meets the same context again; the dictionary dies with the trial.

Deviations: tanh around m_t is that of the published re-implementation (the cell is not squashed as it is stored). A
full dictionary forgets its oldest entry.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from classic_metarl.memory.dictionary import kernel_weights
from mrt.control.memories import Inputs, Memory
from mrt.errors import ConfigError, nearest

KEYS = ("observation", "learned")


class Episodic(NamedTuple):
    """State of B trials: working memory `hidden`, `cell` (B, size); `keys` (B, S, P) and `cells` (B, S, size) of the
    dictionary, `written` (B,) entries so far; `ended` (B,) whether the step before closed an episode.
    """

    hidden: Tensor
    cell: Tensor
    keys: Tensor
    cells: Tensor
    written: Tensor
    ended: Tensor


class EpisodicLSTM(Memory):
    """An LSTM with a differentiable neural dictionary.

    Args:
        slots: S entries of the dictionary.
        key: observation | learned: the context is the observation itself (or its columns `context`), or a learned map
            of the embedded step.
        context: [first, last) columns of the observation that are the context; all of them when left out.
        key_size: width of a learned key.
        neighbours: how many nearest entries are read; 0 reads all.
        clear: the working memory ends with its episode, as in the paper.

    Raises:
        ConfigError: for an unknown key, or no slots.
    """

    def __init__(
        self,
        size: int,
        *,
        slots: int = 32,
        key: str = "observation",
        context: tuple[int, int] | list[int] | None = None,
        key_size: int = 16,
        neighbours: int = 0,
        clear: bool = True,
    ) -> None:
        super().__init__(size)
        if key not in KEYS:
            raise ConfigError(f"key={key!r} is not a key of the dictionary; {nearest(str(key), KEYS)}")
        if slots < 1 or neighbours < 0:
            raise ConfigError(f"slots={slots} must be at least 1 and neighbours={neighbours} at least 0")
        self.slots, self.context, self.neighbours, self.clear = slots, context, neighbours, clear
        self.key = nn.Linear(size, key_size) if key == "learned" else None
        self.input, self.recurrent = nn.Linear(size, 5 * size), nn.Linear(size, 5 * size, bias=False)
        for gate in self.recurrent.weight.data.chunk(5):
            nn.init.orthogonal_(gate)
        with torch.no_grad():  # remember at first, as is usual of LSTMs
            self.input.bias[size : 2 * size] = 1.0

    def init_state(self, rows: int) -> None:
        """The dictionary is as wide as the first key that is seen: it is made then."""
        return None

    def step(self, x: Tensor, seen: Inputs, state: Episodic | None) -> tuple[Tensor, Episodic]:
        key = self._key(x, seen)
        state = self._begin(key) if state is None else state
        state = self._tick(self.input(x), key, seen["done"] > 0.5, state)
        return state.hidden, state

    def forward(self, x: Tensor, seen: Inputs) -> Tensor:
        key, gates, done = self._key(x, seen), self.input(x), seen["done"] > 0.5
        state, outputs = self._begin(key[:, 0]), []
        for t in range(x.shape[1]):
            state = self._tick(gates[:, t], key[:, t], done[:, t], state)
            outputs.append(state.hidden)
        return torch.stack(outputs, 1)

    def fork(self, state: Any, rows: Tensor) -> Any:
        return None if state is None else Episodic(*(part[rows] for part in state))

    def _key(self, x: Tensor, seen: Inputs) -> Tensor:
        if self.key is not None:
            return self.key(x)
        first, last = self.context or (0, seen["observation"].shape[-1])
        return seen["observation"][..., first:last]

    def _begin(self, key: Tensor) -> Episodic:
        rows, width = key.shape
        zeros = self.recurrent.weight.new_zeros
        written = torch.zeros(rows, dtype=torch.long, device=key.device)
        return Episodic(
            hidden=zeros(rows, self.size),
            cell=zeros(rows, self.size),
            keys=zeros(rows, self.slots, width),
            cells=zeros(rows, self.slots, self.size),
            written=written,
            ended=torch.zeros_like(written, dtype=torch.bool),
        )

    def _tick(self, gates: Tensor, key: Tensor, done: Tensor, state: Episodic) -> Episodic:
        """One step of the equations above; gates (B, 5 size) are those of the input alone."""
        hidden, cell = state.hidden, state.cell
        if self.clear:
            kept = ~state.ended[:, None]
            hidden, cell = hidden * kept, cell * kept
        *opened, new = (gates + self.recurrent(hidden)).chunk(5, -1)
        take, keep, show, reinstate = (torch.sigmoid(gate) for gate in opened)
        found = self._read(key, state)
        cell = keep * cell + take * torch.tanh(new) + reinstate * torch.tanh(found)
        keys, cells, written = state.keys, state.cells, state.written
        if bool(done.any()):  # a written entry replaces the oldest; rows that go on keep theirs
            slot = torch.arange(self.slots, device=key.device) == (written % self.slots)[:, None]
            here = (slot & done[:, None])[..., None]
            keys = torch.where(here, key.detach()[:, None], keys)
            cells = torch.where(here, cell.detach()[:, None], cells)
            written = written + done
        return Episodic(show * torch.tanh(cell), cell, keys, cells, written, done)

    def _read(self, key: Tensor, state: Episodic) -> Tensor:
        """(B, size) the weighted mean of the stored cells; 0 from an empty dictionary."""
        distance = (state.keys - key[:, None]).square().sum(-1)
        empty = torch.arange(self.slots, device=key.device) >= state.written[:, None]
        weight = kernel_weights(distance.masked_fill(empty, torch.inf), self.neighbours)
        return (weight[..., None] * state.cells).sum(1)
