"""How far the engine that sampled and the weights being trained are apart, on the tokens that were sampled."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor


def gathered_mismatch(
    output: Mapping[str, Tensor], gather: Callable[[Tensor], Tensor] = lambda value: value
) -> dict[str, float]:
    """mismatch/kl and mismatch/ess of a batch of TRL's over all processes; {} where TRL did not compute both sides.

    With ratios r = p_trained / p_sampled of the sampled tokens, KL(sampled || trained) is estimated by the mean of
    r - 1 - log r, which is never negative and unbiased (k3 of Schulman, "Approximating KL divergence", 2020), and the
    effective sample size as a share is (sum r)^2 / (n sum r^2).

    Args:
        output: `sampling_per_token_logps` (B, T), under the distribution sampled from, NaN where it is not known;
            `old_per_token_logps` (B, T), the same tokens under the trained weights; `completion_mask` and `tool_mask`.

    Returns:
        NaN for a batch without a known token.
    """
    sampled, trained = output.get("sampling_per_token_logps"), output.get("old_per_token_logps")
    if sampled is None or trained is None:
        return {}
    mask = output["completion_mask"] * output.get("tool_mask", torch.ones_like(output["completion_mask"]))
    sums = torch.stack(_sums(sampled, trained, mask))
    return _from_sums(*gather(sums[None]).sum(0))


def _sums(sampled: Tensor, trained: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    known = mask.bool() & ~sampled.isnan()
    log_ratio = (trained.float() - sampled.float())[known].double()
    ratio = log_ratio.exp()
    count = known.sum().double()
    return (ratio - 1 - log_ratio).sum(), ratio.sum(), ratio.square().sum(), count


def _from_sums(k3: Tensor, first: Tensor, second: Tensor, count: Tensor) -> dict[str, float]:
    return {"mismatch/kl": float(k3 / count), "mismatch/ess": float(first.square() / (count * second))}
