"""A model that needs no download: a Qwen3 of half a million parameters and a tokenizer for worked arithmetic.

It is saved and loaded like any other model, so what runs on it runs on Qwen3 or DeepSeek-R1-Distill: only `model=`
differs.

A number from 0 to 99 is one token and so is every sign. Text and token ids stand for each other one to one, which the
exact probes rely on (the chance of an answer is the chance of its one spelling): two numbers in a row are written
with a space, so the ids (1, 5) read "1 5" and never "15". Whatever the vocabulary cannot write becomes <unk>; nothing
is dropped silently.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mrt.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

MAX_NUMBER = 99
EMBEDDING_STD = 0.1
PAD, UNK, END, USER = "<pad>", "<unk>", "<|end|>", "<|user|>"
OPEN, CLOSE, BOX, BOX_END = "<think>", "</think>", "\\boxed{", "}"
WAIT = "\n\nWait"  # opens an episode: one of the paper's cues behind a blank line
RIGHT, WRONG = "✓", "✗"
SIGNS = ("+", "-", "*", "/", "(", ")", "=", ",", "~")
TARGETS = tuple(
    f"->{n}" for n in range(MAX_NUMBER + 1)
)  # a target is one token, told from a number by its very embedding
SPECIAL = (PAD, UNK, END, USER)
WORDS = (OPEN, CLOSE, BOX, BOX_END, WAIT, RIGHT, WRONG, *SIGNS, *TARGETS)

# As short as a chat can be: `<|user|>3 5 7->22<think>` is the whole prompt. The thought is opened by the generation
# prompt.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "{%- if message.reasoning_content -%}"
    "{{- '<think>' + message.reasoning_content + '</think>' -}}"
    "{%- endif -%}"
    "{{- message.content + '<|end|>' -}}"
    "{%- else -%}"
    "{{- '<|user|>' + message.content -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "{{- '<think>' -}}"
    "{%- if enable_thinking is defined and not enable_thinking -%}{{- '</think>' -}}{%- endif -%}"
    "{%- endif -%}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, about 220 tokens. `decode(encode(s)) == s` for every text that the vocabulary can write."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    # A number's token carries a mark in front (▁15), by which the decoder tells the ids (1, 5) from the id (15).
    names = [*SPECIAL, *WORDS, *(f"▁{n}" for n in range(MAX_NUMBER + 1))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"(?<=\d) (?=\d)"), "removed"),
            pre_tokenizers.Split(Regex(r"\d+"), "isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Fuse(), decoders.Replace(Regex(r"(?<=\d)▁"), " "), decoders.Replace("▁", "")]
    )
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in SPECIAL])
    tokenizer.add_tokens([AddedToken(name, normalized=False, special=False) for name in WORDS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNK,
        eos_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )


def build_model(
    tokenizer: PreTrainedTokenizerFast, hidden: int = 128, layers: int = 3, heads: int = 4, seed: int = 0
) -> Qwen3ForCausalLM:
    """A Qwen3 with fresh weights, half a million parameters as it stands; float32, tied embeddings.

    Random weights of standard deviation 1/sqrt(hidden), save that the numbers' embeddings are waves of their value,
    so that near numbers begin near each other. Both make the arithmetic learnable in two minutes on a CPU (with the
    usual 0.02 and nothing known of numbers, a warm start takes about three times as long). The weights depend on
    `seed` alone: the global random state is neither read nor moved. Raises ConfigError where `heads` does not divide
    `hidden` into heads of even size.
    """
    import torch
    from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

    if min(hidden, layers, heads) < 1 or hidden % (2 * heads):
        raise ConfigError(
            f"the tiny model needs hidden divisible by 2 * heads, got hidden={hidden}, heads={heads}, layers={layers}"
        )
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        head_dim=hidden // heads,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=hidden**-0.5,
        dtype="float32",
        **tokens,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
        embeddings = model.model.embed_tokens.weight
        with torch.no_grad():
            embeddings.normal_(std=EMBEDDING_STD)
            numbers = tokenizer.convert_tokens_to_ids([f"▁{n}" for n in range(MAX_NUMBER + 1)])
            waves = number_waves(hidden) * EMBEDDING_STD
            embeddings[numbers] = waves
            # A target is its number, in a direction of its own.
            embeddings[tokenizer.convert_tokens_to_ids(list(TARGETS))] = waves + torch.randn(hidden) * EMBEDDING_STD
    # Sampling from the model's own distribution, which the probes assume.
    model.generation_config = GenerationConfig(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, **tokens)
    return model


def number_waves(width: int) -> torch.Tensor:
    """(100, width) features of the numbers 0..99, about unit variance, turned by a random rotation.

    One half are cosines and sines of n with periods from 2 to 200, in which addition is a rotation (as trained
    networks find by themselves, Nanda et al. 2023, arXiv 2301.05217); the other half the same of log n, for
    multiplication.
    """
    import torch

    n = torch.arange(MAX_NUMBER + 1, dtype=torch.float32)[:, None]
    quarter = width // 4
    linear = 2 * math.pi * n / torch.logspace(math.log10(2), math.log10(200), quarter)
    logarithmic = 2 * math.pi * n.clamp(min=0.5).log() / torch.logspace(-1, 1, width // 2 - quarter)
    waves = torch.cat([linear.cos(), linear.sin(), logarithmic.cos(), logarithmic.sin()], dim=1)
    rotation, _ = torch.linalg.qr(torch.randn(width, width))
    return waves @ rotation * math.sqrt(2)


def save_tiny(path: str | Path, seed: int = 0, hidden: int = 128, layers: int = 3, heads: int = 4) -> Path:
    """Writes model and tokenizer to the folder `path` as `from_pretrained` reads them, and returns it."""
    path = Path(path)
    tokenizer = build_tokenizer()
    build_model(tokenizer, hidden, layers, heads, seed).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
