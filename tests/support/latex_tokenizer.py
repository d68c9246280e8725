"""A small byte-level BPE tokenizer trained on LaTeX: it splits and merges braces, signs and digits as Qwen's does."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parents[1] / "fixtures" / "templates"
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
ANSWERS = (
    r"\frac{1}{2}", "-3", "(1, 2)", r"\sqrt{2}", "42", r"\{1, 2\}", "x+1", r"-\frac{3}{4}", r"\text{no}", "[0, 1)",
    r"\frac{\sqrt{3}}{2}",
)  # fmt: skip
ENDINGS = ("", "$", ".", "$.", "\n", "$$", "**", " and so", ")", "}", "\\]", "$, ")
TEXT = [
    f"Wait, let me think.\n\n**Final Answer**\n$\\boxed{{{answer}}}{ending}\n\nso ${answer}{ending} = {{{answer}}}"
    for answer in ANSWERS
    for ending in ENDINGS
]


@lru_cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, trainer)
    return str(tokenizer.to_str())


def latex_tokenizer(
    template: str | None = "qwen3", added: tuple[str, ...] = ("<think>", "</think>"), marked_special: bool = False
) -> Any:
    """A fresh one, with the chat template of that name or text and the tags as added tokens (`marked_special`: as
    special ones, which decoding skips).
    """
    tokenizer = Tokenizer.from_str(_trained())
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|pad|>")
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    add = tokenizer.add_special_tokens if marked_special else tokenizer.add_tokens
    add([AddedToken(token, normalized=False, special=marked_special) for token in added])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|pad|>")
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
