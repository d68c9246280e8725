"""A GRU over whole trials on the CPU, forward and backward in one pass each.

`torch.nn.GRU` differentiates step by step through every small operation there, and at the sizes of meta-RL (hundreds of
trials, tens of units) these cost more than its matrix products. Here the backward pass is written out, and rows are the
last dimension, so that every gate is one contiguous block. Equations are those of `torch.nn.GRU`:

    r, z = sigmoid(W_i x + b_i + W_h h + b_h)     n = tanh(W_in x + b_in + r (W_hn h + b_hn))     h' = (1 - z) n + z h

Cho et al. 2014, 1406.1078, with the reset gate after the product, as cuDNN has it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TANH, SIGMOID = torch.ops.aten.tanh_backward, torch.ops.aten.sigmoid_backward


def gru(cell: nn.GRU, x: Tensor, embed: nn.Linear) -> Tensor:
    """The outputs (B, T, H) of `cell` from a zero state over `embed(x)`, x (B, T, I): what `cell(embed(x))[0]` is.

    The result is a view with B as its innermost dimension.
    """
    steps = x.permute(1, 2, 0).contiguous()
    for layer in range(cell.num_layers):
        steps = _Layer.apply(steps, *weights_of(cell, layer, None if layer else embed))
    return steps.permute(2, 0, 1)


def weights_of(cell: nn.GRU, layer: int, embed: nn.Linear | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_i, W_h, b_i, b_h of one layer; with `embed`, W_i and b_i are those of both linear maps at once."""
    names = (f"weight_ih_l{layer}", f"weight_hh_l{layer}", f"bias_ih_l{layer}", f"bias_hh_l{layer}")
    w_i, w_h, b_i, b_h = (getattr(cell, name) for name in names)
    if embed is not None:
        w_i, b_i = w_i @ embed.weight, torch.addmv(b_i, w_i, embed.bias)
    return w_i, w_h, b_i, b_h


class _Layer(torch.autograd.Function):
    """One layer over x (T, I, B) -> (T, H, B)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> Tensor:
        w_i, w_h, b_i, b_h = weights
        size, (steps, _, rows) = w_h.shape[1], x.shape
        bias = b_i.clone()
        bias[: 2 * size] += b_h[: 2 * size]
        gates = torch.baddbmm(bias[:, None], w_i.expand(steps, -1, -1), x)  # r, z, n of every step
        inner = x.new_empty(steps, size, rows)  # W_hn h + b_hn
        out = x.new_zeros(steps + 1, size, rows)  # out[t + 1] follows step t
        reset_update, new_weight, new_bias = w_h[: 2 * size], w_h[2 * size :], b_h[2 * size :, None]
        for gate, within, h, after in zip(gates, inner, out[:-1], out[1:], strict=True):
            both, new = gate[: 2 * size], gate[2 * size :]
            both.addmm_(reset_update, h).sigmoid_()
            torch.addmm(new_bias, new_weight, h, out=within)
            new.addcmul_(both[:size], within).tanh_()
            torch.lerp(new, h, both[size:], out=after)
        ctx.save_for_backward(x, w_i, w_h, b_i, b_h)
        ctx.kept = (gates, inner, out)
        return out[1:]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w_i, w_h, b_i, b_h = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted: through the plain form
            given = [value for value in (x, w_i, w_h, b_i, b_h) if value.requires_grad]
            found = iter(torch.autograd.grad(_plain(x, w_i, w_h, b_i, b_h), given, grad, create_graph=True))
            return tuple(next(found) if needed else None for needed in ctx.needs_input_grad)
        gates, inner, out = ctx.kept
        size, rows = w_h.shape[1], x.shape[2]
        own = x.new_empty(3 * size, rows)  # the gradient of W_h h + b_h, then that of W_i x + b_i
        back, kept, fresh, some = (x.new_zeros(size, rows) for _ in range(4))
        g_wi, g_wh, g_bi, g_bn = (torch.zeros_like(w) for w in (w_i, w_h, b_i, b_h[:size]))
        g_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        across = w_h.t()
        for t in range(len(x) - 1, -1, -1):
            reset, update, new = gates[t].view(3, size, rows).unbind()
            back += grad[t]
            torch.mul(back, update, out=kept)
            torch.sub(back, kept, out=fresh)
            TANH.grad_input(fresh, new, grad_input=fresh)
            torch.sub(out[t], new, out=some).mul_(back)
            SIGMOID.grad_input(some, update, grad_input=own[size : 2 * size])
            torch.mul(fresh, inner[t], out=some)
            SIGMOID.grad_input(some, reset, grad_input=own[:size])
            torch.mul(fresh, reset, out=own[2 * size :])
            torch.addmm(kept, across, own, out=back)
            g_wh.addmm_(own, out[t].t())
            g_bn += own[2 * size :].sum(1)
            own[2 * size :] = fresh
            g_wi.addmm_(own, x[t].t())
            g_bi += own.sum(1)
            if g_x is not None:
                torch.mm(w_i.t(), own, out=g_x[t])
        return g_x, g_wi, g_wh, g_bi, torch.cat([g_bi[: 2 * size], g_bn])


def _plain(x: Tensor, w_i: Tensor, w_h: Tensor, b_i: Tensor, b_h: Tensor) -> Tensor:
    """The same layer by differentiable operations."""
    h, outs = x.new_zeros(w_h.shape[1], x.shape[2]), []
    for step in x:
        (r_x, z_x, n_x), (r_h, z_h, n_h) = (
            (w @ v + b[:, None]).chunk(3) for w, v, b in ((w_i, step, b_i), (w_h, h, b_h))
        )
        h = torch.lerp(torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h), h, torch.sigmoid(z_x + z_h))
        outs.append(h)
    return torch.stack(outs)
