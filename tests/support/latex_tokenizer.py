"""Small BPE tokenizers trained on LaTeX.

A byte-level one splits and merges braces, signs and digits as Qwen's does. One as sentencepiece makes them (Gemma,
Mistral) has bytes for what it does not know, and puts a space before a text.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parents[1] / "fixtures" / "templates"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ANSWERS = (
    r"\frac{1}{2}", "-3", "(1, 2)", r"\sqrt{2}", "42", r"\{1, 2\}", "x+1", r"-\frac{3}{4}", r"\text{no}", "[0, 1)",
    r"\frac{\sqrt{3}}{2}", r"50\%", "0.5", r"(-1, \frac{1}{3})",
)  # fmt: skip
ENDINGS = ("", "$", ".", "$.", "\n", "$$", "**", " and so", ")", "}", "\\]", "$, ")
TEXT = [
    f"Wait, let me think.\n\n**Final Answer**\n$\\boxed{{{answer}}}{ending}\n\nso ${answer}{ending} = {{{answer}}}"
    for answer in ANSWERS
    for ending in ENDINGS
]


@lru_cache
def small_vocabulary(kind: str = "bytes") -> str:
    """In the format of `tokenizers`: "bytes" or "sentencepiece"."""
    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(QWEN), behavior="isolated")
    if kind == "bytes":
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        tokenizer.decoder = decoders.ByteLevel()
    else:
        whole, alphabet = pre_tokenizers.Metaspace(prepend_scheme="first"), []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, whole])
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    texts = TEXT if kind == "bytes" else [text.replace("\n", " ") for text in TEXT]
    tokenizer.train_from_iterator(texts, trainer)
    return str(tokenizer.to_str()) if kind == "bytes" else _with_bytes(tokenizer)


def _with_bytes(trained: Tokenizer) -> str:
    """As sentencepiece's: one word is a whole text, and 256 tokens stand for single bytes."""
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    merges = [tuple(pair) for pair in model["merges"]]
    vocabulary = {name: i for i, name in enumerate(names)}
    return as_sentencepiece(
        Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    )


def as_sentencepiece(tokenizer: Tokenizer) -> str:
    """In the format of `tokenizers`, with the space before a text, and bytes put together again in decoding."""
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return str(tokenizer.to_str())


def tokenizer_of(
    vocabulary: str, special: Sequence[str], added: Sequence[str] = (), marked_special: bool = False
) -> Any:
    """A fresh one with these special tokens, and with the tags as added tokens (`marked_special`: as special ones,
    which decoding skips).
    """
    tokenizer = Tokenizer.from_str(vocabulary)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in (*special, "<|pad|>")])
    add = tokenizer.add_special_tokens if marked_special else tokenizer.add_tokens
    add([AddedToken(token, normalized=False, special=marked_special) for token in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def latex_tokenizer(
    template: str | None = "qwen3", added: tuple[str, ...] = ("<think>", "</think>"), marked_special: bool = False
) -> Any:
    """A byte-level one with the chat template of that name or text."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    fast = tokenizer_of(small_vocabulary(), special, added, marked_special)
    fast.eos_token, fast.pad_token = "<|im_end|>", "<|pad|>"
    path = TEMPLATES / f"{template}.jinja"
    fast.chat_template = path.read_text() if template and path.is_file() else template
    return fast


def small_llama(tokenizer: Any, hidden: int = 32, layers: int = 1) -> Any:
    """An untrained Llama of a few thousand parameters for that vocabulary."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=2 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            max_position_embeddings=512,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )
