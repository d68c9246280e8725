"""Passes through a causal LM that compute logits at the positions that are asked for, and nowhere else.

A hook before the head sees the hidden states of all positions and hands on the ones asked for. What models do to the
logits afterwards (scaling, capping) stays theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPast

from mrt.reasoning.engines.attention import IMPLEMENTATIONS, check_text_model
from mrt.reasoning.engines.sampling import Sampling, shaped

SLICE = 2**24  # logits that are in memory at one time where more are asked for


class _Hidden(BaseModelOutputWithPast):
    """Hidden states in place of a decoder's whole output; what else a head looks for is not there."""

    def __getattr__(self, name: str) -> None:
        return None


class Passes:
    """One model, run without gradients and without dropout."""

    def __init__(self, model: Any) -> None:
        check_text_model(model)
        self.model = model
        self.inner = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.head = self.inner.get_output_embeddings()
        self.decoder = getattr(self.inner, self.inner.base_model_prefix, None) or self.inner.model
        self.vocabulary = int(self.head.weight.shape[0]) if hasattr(self.head, "weight") else 0
        self.sampling = Sampling()

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    @contextmanager
    def running(self) -> Iterator[None]:
        """Evaluation mode without gradients, whatever a trainer was doing, and attention that takes our masks."""
        training, configs = self.model.training, {id(c): c for c in self._configs()}.values()
        before = [config._attn_implementation for config in configs]
        ours = IMPLEMENTATIONS[0] if getattr(self.inner, "_supports_sdpa", True) else IMPLEMENTATIONS[1]
        self.model.eval()
        try:
            for config, one in zip(configs, before, strict=True):
                if one not in IMPLEMENTATIONS:
                    config._attn_implementation = ours
            with torch.no_grad():
                yield
        finally:
            for config, one in zip(configs, before, strict=True):
                if config._attn_implementation != one:
                    config._attn_implementation = one
            self.model.train(training)

    @contextmanager
    def heard(self) -> Iterator[list[Tensor]]:
        """The hidden states (n, width) that the head is given while the context lasts, a tensor a pass."""
        found: list[Tensor] = []
        hook = self.head.register_forward_hook(lambda module, args, out: found.append(args[0].flatten(0, -2)))
        try:
            yield found
        finally:
            hook.remove()

    @contextmanager
    def drawing(self, sampling: Sampling) -> Iterator[None]:
        """Log-probabilities are those of the distribution that `sampling` draws from."""
        before, self.sampling = self.sampling, sampling
        try:
            yield
        finally:
            self.sampling = before

    def _configs(self) -> list[Any]:
        return [self.inner.config, self.inner.config.get_text_config(decoder=True)]

    def hidden(self, rows: Tensor, columns: Tensor, **inputs: Any) -> Tensor:
        """Runs the model; the last hidden states (n, width) at (rows[i], columns[i])."""
        found: list[Tensor] = []

        def pick(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            found.append(args[0][rows, columns])
            return (args[0][:1, :0], *args[1:])

        hook = self.head.register_forward_pre_hook(pick)
        try:
            self.model(**inputs)
        finally:
            hook.remove()
        return found[0]

    def logits(self, rows: Tensor, columns: Tensor, **inputs: Any) -> Tensor:
        """Runs the model; the logits (n, V) at (rows[i], columns[i])."""
        return self.output(rows, columns, **inputs).logits[0]

    def output(self, rows: Tensor, columns: Tensor, **inputs: Any) -> Any:
        """Runs the model; its whole output, with logits (1, n, V) at (rows[i], columns[i])."""

        def pick(module: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (args[0][rows, columns][None], *args[1:])

        hook = self.head.register_forward_pre_hook(pick)
        try:
            return self.model(**inputs)
        finally:
            hook.remove()

    def of_hidden(self, hidden: Tensor) -> Tensor:
        """Logits (n, V) of hidden states (n, width): only the head runs, and what the model does behind it."""
        forward = self.decoder.__dict__.get("forward")
        self.decoder.forward = lambda *args, **kwargs: _Hidden(last_hidden_state=hidden[None])
        try:
            return self.inner(input_ids=torch.zeros(1, len(hidden), dtype=torch.long, device=hidden.device)).logits[0]
        finally:
            if forward is None:
                del self.decoder.forward
            else:
                self.decoder.forward = forward

    def logprobs(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """(n, m) log-probabilities of `tokens` (n, m) after hidden states (n, width): float64, on the device; at
        temperature 1, or within `drawing` as that draws them.
        """
        found = []
        step = max(1, SLICE // max(self.vocabulary, 1))
        for start in range(0, len(hidden), step):
            logits = shaped(self.of_hidden(hidden[start : start + step]).double(), self.sampling)
            picked = logits.gather(-1, tokens[start : start + step])
            found.append(picked - logits.logsumexp(-1, keepdim=True))
        return torch.cat(found) if found else tokens.double()
