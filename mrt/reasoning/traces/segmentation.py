"""Where one episode of a thought ends and the next begins, in token positions.

A segmenter takes the ids of a thought and returns the exclusive end of every episode: strictly increasing, the last
one `len(ids)`, `[]` for an empty thought. Ids are never decoded and encoded again, so `join(split(ids, ends)) == ids`
for any ids. Text is looked at as bytes: every token stands for a known run of bytes, also where a character is spread
over several tokens, and a cut goes before the token that holds the first byte of a paragraph ("\\n\\nWait" as one token
opens the episode itself; after ".\\n\\n" the cut stands before "Wait").

Source of the cue rule: Qu et al. 2025 (arXiv 2503.07572), section 5, and the authors' notebook break_into_meta_steps.
Differences: a blank line may hold spaces and runs of blank lines count once; cues may come from any language.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mrt.errors import ConfigError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Paragraphs that begin with one of these open an episode. "en" is the paper's list.
CUES: dict[str, tuple[str, ...]] = {
    "en": (
        "Wait",
        "But wait",
        "Alternatively",
        "Is there another way to think about this?",
        "But let me double-check",
        "But hold on",
    ),
    "de": ("Warte", "Aber warte", "Moment", "Aber Moment", "Alternativ", "Gibt es einen anderen Weg", "Aber lass mich"),
    "es": ("Espera", "Pero espera", "Un momento", "Alternativamente", "¿Hay otra forma", "Pero déjame"),
    "fr": ("Attends", "Mais attends", "Attendez", "Mais attendez", "Sinon", "Alternativement", "Y a-t-il une autre"),
    "it": ("Aspetta", "Ma aspetta", "Un momento", "In alternativa", "C'è un altro modo", "Ma fammi"),
    "ja": ("待って", "ちょっと待", "しかし待", "でも待", "あるいは", "別の方法", "他の方法"),
    "pt": ("Espere", "Mas espere", "Espera", "Mas espera", "Alternativamente", "Há outra forma", "Mas deixe-me"),
    "zh": ("等等", "等一下", "但等等", "但是等等", "不过等等", "或者", "换一种", "有没有其他", "让我再检查", "再检查"),
}

_BLANK_LINES = re.compile(rb"\n[ \t\r]*\n\s*")
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Segmenter(Protocol):
    """Ids of a thought (without its tags) -> exclusive end of every episode."""

    def __call__(self, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[int]: ...


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """The reversible byte <-> printable character table of byte-level BPE (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table


def _decoder_kinds(tokenizer: "PreTrainedTokenizerBase") -> set[str]:
    """Names of the decoding steps of a fast tokenizer; empty for one written in Python."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return set()
    state = json.loads(decoder.__getstate__())
    return {step["type"] for step in [state, *state.get("decoders", [])]}


def _unique_bytes(ids: list[int], tokenizer: "PreTrainedTokenizerBase") -> list[bytes]:
    kinds = _decoder_kinds(tokenizer)
    valid = [0 <= i < 2**31 for i in ids]
    tokens = iter(tokenizer.convert_ids_to_tokens([i for i, ok in zip(ids, valid, strict=True) if ok]))
    table = _byte_of_character()
    pieces = []
    for i, ok in zip(ids, valid, strict=True):
        token = next(tokens) if ok else None
        if token is None:  # an id outside the vocabulary has no text
            pieces.append(b"")
        elif "ByteLevel" in kinds:
            # As the decoder itself: a token with any other character in it is an added one and stands for itself.
            known = all(character in table for character in token)
            pieces.append(bytes(table[character] for character in token) if known else token.encode("utf-8", "replace"))
        elif "ByteFallback" in kinds and (match := _BYTE_FALLBACK.fullmatch(token)):
            pieces.append(bytes([int(match[1], 16)]))
        elif kinds & {"ByteFallback", "Metaspace"}:
            pieces.append(token.replace("▁", " ").encode("utf-8", "replace"))
        else:
            text = tokenizer.decode([i], clean_up_tokenization_spaces=False)
            pieces.append(str(text).encode("utf-8", "replace"))
    return pieces


def token_bytes(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[bytes]:
    """The bytes that each token stands for, b"" for ids outside the vocabulary; one look-up per distinct id.

    Exact for byte-level BPE and for sentencepiece with byte fallback: joined and decoded they are the decoded text, and
    a character spread over several tokens leaves its bytes where they belong.
    """
    unique, inverse = np.unique(np.asarray(ids, dtype=np.int64), return_inverse=True)
    pieces = _unique_bytes(unique.tolist(), tokenizer)
    return [pieces[i] for i in inverse.tolist()]


def paragraph_starts(ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> tuple[bytes, list[tuple[int, int]]]:
    """The bytes of `ids`, and for every paragraph its (first byte, token that holds this byte).

    The first paragraph is whatever stands first, after leading white space. Linear in the number of bytes.
    """
    pieces = token_bytes(ids, tokenizer)
    data = b"".join(pieces)
    lengths = np.fromiter(map(len, pieces), dtype=np.int64, count=len(pieces))
    first = len(data) - len(data.lstrip())
    starts = [first, *(match.end() for match in _BLANK_LINES.finditer(data, first))]
    starts = [start for start in starts if start < len(data)]
    # Tokens without bytes share their start with the next one; the last of them is the one that holds the byte.
    tokens = np.searchsorted(np.cumsum(lengths) - lengths, starts, side="right") - 1
    return data, list(zip(starts, tokens.tolist(), strict=True))


@dataclass(frozen=True)
class Cues:
    """A paragraph that begins with a cue opens an episode (the paper's rule).

    It does not where it lies within `min_paragraphs` paragraphs of the previous cut; the first paragraph counts as one
    and never cuts. At most `max_episodes` episodes are cut, the rest of the thought belongs to the last. Then every
    `group_size` consecutive episodes become one. The paper cuts at most 49, 45 and 99 times and groups by 5, 3 and 10.
    `min_paragraphs=0` cuts at every cue. `cues` are your own, beside those of `language` (one or several keys of
    `CUES`, or None).
    """

    language: str | Sequence[str] | None = "en"
    cues: Sequence[str] = ()
    case_sensitive: bool = True
    min_paragraphs: int = 2
    max_episodes: int | None = None
    group_size: int = 1
    _openers: tuple[str, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        languages = [self.language] if isinstance(self.language, str) else list(self.language or ())
        for language in languages:
            if language not in CUES:
                raise ConfigError(f"no cues for language '{language}': {nearest(language, set(CUES))} Or give `cues`.")
        own = [self.cues] if isinstance(self.cues, str) else list(self.cues)
        openers = [cue for language in languages for cue in CUES[language]] + own
        if not openers or not all(isinstance(cue, str) and cue.strip() for cue in openers):
            raise ConfigError("Cues needs at least one cue and no empty one: name a `language` or give `cues`")
        _at_least("Cues", "min_paragraphs", self.min_paragraphs, 0)
        _at_least("Cues", "group_size", self.group_size, 1)
        if self.max_episodes is not None:
            _at_least("Cues", "max_episodes", self.max_episodes, 1)
        openers = [cue.lstrip() if self.case_sensitive else cue.lstrip().casefold() for cue in openers]
        object.__setattr__(self, "_openers", tuple(openers))

    def __call__(self, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        if len(ids) == 0:
            return []
        data, paragraphs = paragraph_starts(ids, tokenizer)
        head = 4 * max(map(len, self._openers))  # bytes enough for the longest cue
        cuts: list[int] = []
        previous = 0
        for number, (start, token) in enumerate(paragraphs):
            if self.max_episodes is not None and len(cuts) + 1 >= self.max_episodes:
                break
            if number - previous <= self.min_paragraphs or token <= (cuts[-1] if cuts else 0):
                continue
            text = data[start : start + head].decode("utf-8", "ignore")
            if (text if self.case_sensitive else text.casefold()).startswith(self._openers):
                cuts.append(token)
                previous = number
        ends = [*cuts, len(ids)]
        grouped = ends[self.group_size - 1 :: self.group_size]
        return grouped if grouped and grouped[-1] == len(ids) else [*grouped, len(ids)]


@dataclass(frozen=True)
class Paragraphs:
    """Consecutive paragraphs, grouped until they hold `min_tokens`; none longer than `max_tokens` (None: no limit).

    What is too long is cut at `max_tokens`, inside a paragraph where need be. Only the last episode may be shorter than
    `min_tokens`, and only where joining it to the one before would exceed `max_tokens`.
    """

    min_tokens: int = 32
    max_tokens: int | None = 512

    def __post_init__(self) -> None:
        _at_least("Paragraphs", "min_tokens", self.min_tokens, 1)
        if self.max_tokens is not None:
            _at_least("Paragraphs", "max_tokens", self.max_tokens, self.min_tokens)

    def __call__(self, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        if len(ids) == 0:
            return []
        _, paragraphs = paragraph_starts(ids, tokenizer)
        limit = len(ids) if self.max_tokens is None else self.max_tokens
        bounds = [0]
        for cut in [*(token for _, token in paragraphs), len(ids)]:
            while cut - bounds[-1] > limit:
                bounds.append(bounds[-1] + limit)
            if cut - bounds[-1] >= self.min_tokens:
                bounds.append(cut)
        if bounds[-1] < len(ids):
            if len(bounds) > 1 and len(ids) - bounds[-2] <= limit:
                bounds.pop()
            bounds.append(len(ids))
        return bounds[1:]


@dataclass(frozen=True)
class Blocks:
    """Blocks of `size` tokens; the last holds what is left."""

    size: int = 256

    def __post_init__(self) -> None:
        _at_least("Blocks", "size", self.size, 1)

    def __call__(self, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase | None" = None) -> list[int]:
        return [min(end, len(ids)) for end in range(self.size, len(ids) + self.size, self.size)]


@dataclass(frozen=True)
class Custom:
    """Your own function under the same contract, its answer checked at every call."""

    function: Callable[..., Sequence[int]]
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, ids: Sequence[int], tokenizer: "PreTrainedTokenizerBase") -> list[int]:
        ends = [int(end) for end in self.function(ids, tokenizer, **self.options)]
        check_ends(len(ids), ends)
        return ends


SEGMENTERS: dict[str, Callable[..., Segmenter]] = {"cues": Cues, "paragraphs": Paragraphs, "blocks": Blocks}


def make_segmenter(name_or_callable: str | Callable[..., Sequence[int]], **options: Any) -> Segmenter:
    """A segmenter by name with its options, or your own function (ids, tokenizer, **options) -> ends.

    Raises ConfigError for an unknown name or option, naming the nearest valid one.
    """
    if isinstance(name_or_callable, Cues | Paragraphs | Blocks | Custom) and not options:
        return name_or_callable
    if callable(name_or_callable):
        return Custom(name_or_callable, options)
    if name_or_callable not in SEGMENTERS:
        raise ConfigError(f"unknown segmenter '{name_or_callable}': {nearest(str(name_or_callable), set(SEGMENTERS))}")
    segmenter: Any = SEGMENTERS[name_or_callable]
    valid = {option.name for option in fields(segmenter) if option.init}
    for option in options:
        if option not in valid:
            raise ConfigError(f"segmenter '{name_or_callable}' has no option '{option}': {nearest(option, valid)}")
    return segmenter(**options)


def check_ends(length: int, ends: Sequence[int]) -> None:
    """Raises ConfigError unless `ends` increases strictly from above 0 and its last is `length` ([] for length 0)."""
    bounds = [0, *ends]
    if bounds[-1] != length or any(low >= high for low, high in pairwise(bounds)):
        raise ConfigError(
            f"a segmenter returned ends {list(ends)[:8]} for {length} tokens: they must increase strictly, begin above "
            f"0 and finish with {length} (and be [] for an empty thought)"
        )


def split(ids: Sequence[int], ends: Sequence[int]) -> list[list[int]]:
    """The episodes as lists of ids. Raises ConfigError where `ends` breaks the contract of a segmenter."""
    check_ends(len(ids), ends)
    return [list(ids[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def join(parts: Sequence[Sequence[int]]) -> list[int]:
    """The inverse of `split`."""
    return [i for part in parts for i in part]


def _at_least(owner: str, name: str, value: int, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{owner}: {name} must be a whole number of at least {least}, got {value!r}")
