"""Keys and values of a batch of prefixes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import DynamicCache


@dataclass
class Prefix:
    """Keys and values of some rows, right-padded to one length; `lengths` (rows,) tells what is real.

    `ends` (rows, V) are the logits after the last token of each row, for branches without a suffix that cut there;
    None where the rows come from acting.
    """

    cache: DynamicCache
    lengths: Tensor
    ends: Tensor | None
