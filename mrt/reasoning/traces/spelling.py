r"""The ways in which a model can write one answer and the brace behind it.

A vocabulary that merges braces with their neighbours (`{\`, `{-`, `}$`, `}}`) has many token sequences for one answer:
which one a model writes follows from what it writes next. The probability of the answer is the sum over all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from mrt.reasoning.traces.prompts import ThinkFormat
from mrt.reasoning.traces.segmentation import token_bytes
from mrt.reasoning.traces.templates import encode_behind


def spellings(answer: str, fmt: ThinkFormat) -> list[list[int]]:
    """Every token sequence that writes `answer` and closes its box, as the vocabulary spells any text that begins so.

    Only the last token may hold more than the closing brace. No sequence is the beginning of another: their
    probabilities add up. One sequence where no token merges a brace with anything else.
    """
    if not fmt.answer_close_text:
        return [[*encode_behind(fmt.tokenizer, [answer])[0], *fmt.end_ids[:1]]]
    body = answer + fmt.answer_close_text
    if not fmt.brace_ids:
        return encode_behind(fmt.tokenizer, [body])
    found: dict[tuple[int, ...], None] = {}
    tails = _tails(fmt.tokenizer)
    heads: list[tuple[list[int], str]] = [([], fmt.answer_open_text + body)]
    if fmt.answer_open_text:  # the opening brace may stand alone, however the vocabulary would merge it
        heads.append((encode_behind(fmt.tokenizer, [fmt.answer_open_text])[0], body))
    for head, text in heads:
        for ids in encode_behind(fmt.tokenizer, [text + tail for tail in tails]):
            found.setdefault((*head, *_up_to(ids, len(text.encode()), fmt.tokenizer)))
    return [list(ids) for ids in _prefix_free(list(found))]


@lru_cache(maxsize=8)
def _tails(tokenizer: Any) -> tuple[str, ...]:
    """What tokens hold behind a closing brace, each once, and nothing at all."""
    found = {"": None}
    ids = [i for token, i in tokenizer.get_vocab().items() if "}" in token]
    for piece in token_bytes(ids, tokenizer):
        text = piece.decode("utf-8", "ignore")
        for place, character in enumerate(text):
            if character == "}":
                found.setdefault(text[place + 1 :])
    return tuple(found)


def _up_to(ids: Sequence[int], length: int, tokenizer: Any) -> list[int]:
    """The first tokens of `ids`, as many as hold the first `length` bytes."""
    ends = np.cumsum([len(piece) for piece in token_bytes(ids, tokenizer)])
    return list(ids[: int(np.searchsorted(ends, length)) + 1])


def _prefix_free(sequences: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Those that do not begin with another one."""
    known = set(sequences)
    return [one for one in sequences if not any(one[:n] in known for n in range(1, len(one)))]
