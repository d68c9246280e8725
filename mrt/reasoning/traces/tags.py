"""The tags between which models think, and where one stands among token ids.

A tag may be one token, several special ones (the channels of GPT-OSS), or ordinary text. A closing tag is everything
up to the answer: behind `<|end|>` a GPT-OSS model may open another channel than `final`, and goes on thinking.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mrt.reasoning.traces.segmentation import token_bytes

Tags = tuple[str, str]
PLAIN_TAGS: Tags = ("<think>", "</think>")
HARMONY: Tags = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>")
COMMAND: Tags = ("<|START_THINKING|>", "<|END_THINKING|><|START_RESPONSE|>")
KIMI_K3: Tags = ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>")
GEMMA_4: Tags = ("<|channel>thought", "<channel|>")
_BRACKETED = [(f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")]
TAGS = (
    *_BRACKETED,
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    HARMONY,
    COMMAND,
    KIMI_K3,
    GEMMA_4,
)
# White space before and after the closing tag as these families were trained to write it: their templates pass a
# thought through, or leave it out.
SPACING: dict[str, tuple[str, str]] = {
    "[/THINK]": ("", ""),
    HARMONY[1]: ("", ""),
    COMMAND[1]: ("", ""),
    KIMI_K3[1]: ("", ""),
    GEMMA_4[1]: ("\n", ""),
}


def tags_in(text: str) -> Tags:
    """The first pair of `TAGS` of which one stands in the text; the plain pair where there is none."""
    return next((pair for pair in TAGS if pair[0] in text or pair[1] in text), PLAIN_TAGS)


class TagSpan(NamedTuple):
    """Where a tag of at least one token stands: its first token, the token behind its last, and the text that these two
    tokens hold beside it ("" but for a tag in ordinary tokens that is merged with its neighbours).
    """

    start: int
    end: int
    before: str = ""
    behind: str = ""


def find_tag(ids: Sequence[int], tag: Sequence[int], tokenizer: Any) -> TagSpan | None:
    """The first such tag; None where there is none.

    One of several tokens is looked for in the text, however the model spelt it in tokens.
    """
    if len(tag) == 1:
        return next((TagSpan(n, n + 1) for n, i in enumerate(ids) if i == tag[0]), None)
    text = b"".join(token_bytes(tag, tokenizer)).strip()
    pieces = token_bytes(ids, tokenizer)
    at = b"".join(pieces).find(text)
    if at < 0:
        return None
    first, last = token_at(pieces, at), token_at(pieces, at + len(text) - 1)
    joined = b"".join(pieces[first : last + 1])
    left = at - sum(map(len, pieces[:first]))
    before, behind = joined[:left], joined[left + len(text) :]
    return TagSpan(first, last + 1, before.decode("utf-8", "replace"), behind.decode("utf-8", "replace"))


def between_tags(ids: Sequence[int], tags: Sequence[Sequence[int]], tokenizer: Any) -> list[list[int]]:
    """The ids before, between and behind all such tags, in order."""
    pieces = token_bytes(ids, tokenizer)
    texts = [b"".join(token_bytes(tag, tokenizer)).strip() for tag in tags]
    parts, start = [], 0
    if texts:
        ends = np.cumsum([len(piece) for piece in pieces])
        for match in re.finditer(b"|".join(map(re.escape, texts)), b"".join(pieces)):
            first, last = np.searchsorted(ends, [match.start(), match.end() - 1], side="right").tolist()
            parts.append(list(ids[start:first]))
            start = last + 1
    return [*parts, list(ids[start:])]


def token_at(pieces: Sequence[bytes], byte: int) -> int:
    """The token that holds this byte of the joined pieces."""
    return int(np.searchsorted(np.cumsum([len(piece) for piece in pieces]), byte, side="right"))
