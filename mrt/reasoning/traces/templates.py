"""What a chat template and a vocabulary can write, and thinking in plain text for models without think tags."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mrt.errors import ConfigError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

Messages = Sequence[Mapping[str, Any]]
Tags = tuple[str, str]
QUESTION = {"role": "user", "content": "Q"}
PLAIN_TAGS: Tags = ("<think>", "</think>")
_BRACKETED = [(f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")]
TAGS = (*_BRACKETED, ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|begin_of_thought|>", "<|end_of_thought|>"))
THINKING = ("auto", "tags", "text")

_MARK = "{#- thinking in text -#}"
INSTRUCTION = (
    "Think step by step between <think> and </think>. After </think> give the final answer inside \\\\boxed{}."
)
_ROLES = (
    "{%- for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
_AS_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{%- set messages = [{'role': 'system', 'content': '" + INSTRUCTION + "'}] + messages %}{% endif %}"
)
_IN_FIRST = (
    "{%- set first = {'role': messages[0]['role'], 'content': '" + INSTRUCTION + "\\n\\n' + messages[0]['content']} %}"
    "{%- set messages = [first] + messages[1:] %}"
)
_OPENED = "{%- if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"


def prepare_thinking(tokenizer: Tokenizer, thinking: str = "auto", tags: Sequence[str] | None = None) -> Tags:
    """The tags between which the model thinks. For a model without any, the template is changed: it thinks in text.

    Args:
        thinking: `tags`, those of template or vocabulary; `text`, `<think>` and `</think>` in ordinary tokens, which a
            system prompt (or, where the template takes none, the first message) explains and the generation prompt
            opens; `auto`, tags where there are some, else text. A checkpoint keeps the template.
        tags: your own pair.

    Raises:
        ConfigError: for an unknown mode, a malformed pair, and `tags` where the model has none.
    """
    if thinking not in THINKING:
        raise ConfigError(f"thinking={thinking!r} is not possible here; {nearest(str(thinking), THINKING)}")
    if tags:
        if len(tags) != 2 or not all(isinstance(tag, str) and tag for tag in tags):
            raise ConfigError(f"think_tags must be the opening and the closing tag, got {list(tags)}")
        return tags[0], tags[1]
    written = _MARK in (tokenizer.chat_template or "")
    if written or (thinking == "auto" and has_tags(tokenizer)) or thinking == "tags":
        return PLAIN_TAGS if written else find_tags(tokenizer)
    base = tokenizer.chat_template and tokenizer.get_chat_template()
    for explained in (_AS_SYSTEM, _IN_FIRST):
        tokenizer.chat_template = _MARK + explained + (base or _ROLES) + _OPENED
        try:
            text = apply(tokenizer, [QUESTION], add_generation_prompt=True)
        except ConfigError:  # a template without a system role
            continue
        if PLAIN_TAGS[1] in text:
            return PLAIN_TAGS
    raise ConfigError(f"the chat template of {name_of(tokenizer)} takes no instruction to think: give think_tags")


def has_tags(tokenizer: Tokenizer) -> bool:
    """Whether template or vocabulary have think tags."""
    try:
        find_tags(tokenizer)
    except ConfigError:
        return False
    return True


def find_tags(tokenizer: Tokenizer) -> Tags:
    """The pair of tags that the template writes, or whose first its prompts end with, or else one of single tokens;
    ConfigError where there is none.
    """
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    if not template:
        raise ConfigError(
            f"{name_of(tokenizer)} has no chat template: use an instruction-tuned model, or give it one, or let it "
            "think in text (thinking=text)"
        )
    written = [pair for pair in TAGS if pair[1] in template]
    opened = [pair for pair in TAGS if pair[0] in template]
    single = [pair for pair in TAGS if None not in (single_id(tokenizer, pair[0]), single_id(tokenizer, pair[1]))]
    if not written and opened:
        prompt = apply(tokenizer, [QUESTION], add_generation_prompt=True, enable_thinking=True, thinking=True)
        opened = [pair for pair in opened if prompt.rstrip().endswith(pair[0])]
    found = written or opened or single
    if found:
        return found[0]
    raise ConfigError(
        f"{name_of(tokenizer)} has no think tags in its chat template or vocabulary: use a reasoning model (Qwen3, "
        "DeepSeek-R1-Distill, the built-in tiny model) or a chat template with <think> and </think>, or let it think "
        "in text (thinking=text)"
    )


def name_of(tokenizer: Tokenizer) -> str:
    """The tokenizer as an error names it."""
    return f"tokenizer '{tokenizer.name_or_path or type(tokenizer).__name__}'"


def prompt_text(tokenizer: Tokenizer, messages: Messages, closing: str, thinking: bool) -> str:
    """The prompt by the template. Raises ConfigError where it closes the thought although thinking was asked for."""
    # Templates name the switch differently (Qwen3, SmolLM3, GLM: enable_thinking; DeepSeek-V3.1, Granite: thinking).
    text = apply(tokenizer, messages, add_generation_prompt=True, enable_thinking=thinking, thinking=thinking)
    if thinking and text.rstrip().endswith(closing):
        raise ConfigError(
            f"the chat template of {name_of(tokenizer)} closes the thought in its generation prompt, although thinking "
            "was asked for: use the template of the model's thinking variant"
        )
    return text


def apply(tokenizer: Tokenizer, messages: Messages, **options: Any) -> str:
    """The text of a conversation. Raises ConfigError where the template refuses it."""
    from jinja2.exceptions import TemplateError

    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **options))
    except TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ConfigError(f"the chat template of {name_of(tokenizer)} refuses the roles {roles}: {error}") from error


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of `text` without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def single_id(tokenizer: Tokenizer, text: str) -> int | None:
    """The id of the token that is exactly `text`, or None."""
    i = tokenizer.convert_tokens_to_ids(text)
    return i if isinstance(i, int) and tokenizer.convert_ids_to_tokens(i) == text else None


def writable(tokenizer: Tokenizer, text: str) -> bool:
    """Whether the vocabulary can write `text`: encoded and decoded it is the same, a leading space apart."""
    ids = encode(tokenizer, text)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        return False
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).strip(" ") == text.strip(" ")


def newlines(tokenizer: Tokenizer, opening: str, closing: str) -> tuple[str, str]:
    """White space before and after the close tag, as the template writes it around a thought.

    A template that passes a thought through, or strips it from the history, does not tell; then it is a newline and
    a blank line, as Qwen3 and R1 were trained to write, if the vocabulary has them.
    """
    shape = re.compile(rf"{re.escape(opening)}\s*REASON(\s*){re.escape(closing)}(\s*)ANSWER")
    in_field = {"role": "assistant", "content": "ANSWER", "reasoning_content": "REASON"}
    in_text = {"role": "assistant", "content": f"{opening}REASON{closing}ANSWER"}
    for turn in (in_text, in_field):
        match = shape.search(apply(tokenizer, [QUESTION, turn]))
        if match and (match[1] or match[2]):
            return match[1], match[2]
    return ("\n", "\n\n") if writable(tokenizer, "\n\n") else ("", "")


def end_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The added token with which the template ends the assistant's turn, and end of text."""
    text = apply(tokenizer, [QUESTION, {"role": "assistant", "content": "ANSWER"}])
    tail = encode(tokenizer, text.partition("ANSWER")[2])
    turn = [i for i in tail[:1] if i in tokenizer.get_added_vocab().values()]
    ends = [*turn, tokenizer.eos_token_id, single_id(tokenizer, "<|endoftext|>")]
    found = tuple(dict.fromkeys(i for i in ends if isinstance(i, int)))
    if not found:
        raise ConfigError(f"{name_of(tokenizer)} has no token that ends an answer: set tokenizer.eos_token")
    return found
