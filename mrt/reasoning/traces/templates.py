"""What a chat template and a vocabulary can write, and thinking in plain text for models without think tags."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from mrt.errors import ConfigError, nearest
from mrt.reasoning.traces.segmentation import token_bytes
from mrt.reasoning.traces.tags import COMMAND, HARMONY, KIMI_K3, PLAIN_TAGS, SPACING, TAGS, Tags

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

Messages = Sequence[Mapping[str, Any]]
QUESTION = {"role": "user", "content": "QUESTION"}
# Templates name the switch differently (Qwen3, SmolLM3, GLM: enable_thinking; DeepSeek-V3.1, Granite, Kimi: thinking).
ASKED = {"add_generation_prompt": True, "enable_thinking": True, "thinking": True}
THINKING = ("auto", "tags", "text")

_MARK = "{#- thinking in text -#}"
INSTRUCTION = "Think step by step between <think> and </think>. After </think> give the final answer inside \\boxed{}."
_IN_JINJA = INSTRUCTION.replace("\\", "\\\\")
_ROLES = (
    "{%- for message in messages %}{{ message['role'].capitalize() + ': ' + message['content'] }}"
    "{%- if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{%- if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
_AS_SYSTEM = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{%- set messages = [{'role': 'system', 'content': '" + _IN_JINJA + "'}] + messages %}{% endif %}"
)
_IN_FIRST = (
    "{%- set first = {'role': messages[0]['role'], 'content': '" + _IN_JINJA + "\\n\\n' + messages[0]['content']} %}"
    "{%- set messages = [first] + messages[1:] %}"
)
_NATIVE = "{%- set thinking = true %}{%- set enable_thinking = true %}"
_OPENED = "{%- if add_generation_prompt %}{{ '<think>\\n' }}{% endif %}"
# A turn of GPT-OSS names its channel first.
_OPENED_IN_FINAL = _OPENED.replace("<think>", HARMONY[1].removeprefix("<|end|><|start|>assistant") + "<think>")


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
    tokenizer.chat_template = _text_template(tokenizer)
    return PLAIN_TAGS


def _text_template(tokenizer: Tokenizer) -> str:
    """The template with the instruction and the open tag in ordinary text.

    Raises:
        ConfigError: for a template that takes the instruction in no message, or opens a thought of its own anyway.
    """
    before = tokenizer.chat_template
    base = tokenizer.get_chat_template() if before else _ROLES
    opened = _OPENED_IN_FINAL if HARMONY[0] in base else _OPENED
    # Tags of its own are of no use here: a switch for them is off. Where they are the plain ones it stays on.
    own = find_tags(tokenizer) if has_tags(tokenizer) else PLAIN_TAGS
    switched = _NATIVE if own == PLAIN_TAGS else _NATIVE.replace("true", "false")
    refused = None
    try:
        for explained in (_AS_SYSTEM, _IN_FIRST):
            tokenizer.chat_template = found = _MARK + switched + explained + base
            try:
                text = apply(tokenizer, [QUESTION], **ASKED)
            except ConfigError as error:  # a template without a system role
                refused = error
                continue
            end = text.rstrip()
            if INSTRUCTION in text and (own == PLAIN_TAGS or not end.endswith(own[0])):
                return found if end.endswith(PLAIN_TAGS[0]) else found + opened
    finally:
        tokenizer.chat_template = before
    raise ConfigError(
        f"the chat template of {name_of(tokenizer)} takes no instruction to think: give think_tags"
    ) from refused


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
    template = _template(tokenizer)
    in_parts = (HARMONY, COMMAND, KIMI_K3)  # no template holds these closing tags in one piece
    written = [pair for pair in TAGS if (pair[0] if pair in in_parts else pair[1]) in template]
    prompt = "" if written else apply(tokenizer, [QUESTION], **ASKED).rstrip()
    opened = [pair for pair in TAGS if prompt.endswith(pair[0])]
    single = [pair for pair in TAGS if None not in (single_id(tokenizer, pair[0]), single_id(tokenizer, pair[1]))]
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
    text = apply(tokenizer, messages, **{**ASKED, "enable_thinking": thinking, "thinking": thinking})
    if thinking and text.rstrip().endswith(closing):
        raise ConfigError(
            f"the chat template of {name_of(tokenizer)} closes the thought in its generation prompt, although thinking "
            "was asked for: use the template of the model's thinking variant"
        )
    return text


def apply(tokenizer: Tokenizer, messages: Messages, **options: Any) -> str:
    """The text of a conversation. Raises ConfigError where the template refuses it, and without a template."""
    from jinja2.exceptions import TemplateError

    _template(tokenizer)
    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **options))
    except TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ConfigError(f"the chat template of {name_of(tokenizer)} refuses the roles {roles}: {error}") from error


def _template(tokenizer: Tokenizer) -> str:
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    if not template:
        raise ConfigError(
            f"{name_of(tokenizer)} has no chat template: use an instruction-tuned model, or give it one, or let it "
            "think in text (thinking=text)"
        )
    return str(template)


def encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of `text` without special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def encode_behind(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of texts that follow another text: without the space that sentencepiece puts before the first word."""
    found = _batch(tokenizer, texts)
    spaced = [n for n, (text, ids) in enumerate(zip(texts, found, strict=True)) if _begins(tokenizer, text, ids)]
    for anchor in ("\n", ".", "a"):  # behind one that does not merge with the text
        head = encode(tokenizer, anchor) if spaced else []
        for n, ids in zip(spaced, _batch(tokenizer, [anchor + texts[n] for n in spaced]), strict=True):
            tail = ids[len(head) :]
            if ids[: len(head)] == head and _bytes(tokenizer, tail) == _bytes(tokenizer, found[n])[1:]:
                found[n] = tail
        spaced = [n for n in spaced if _begins(tokenizer, texts[n], found[n])]
    return found


def _batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [list(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]] if texts else []


def _begins(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> bool:
    """Whether the ids begin with a space that the text does not have."""
    return _bytes(tokenizer, ids[:1])[:1] == b" " and not text.startswith(" ")


def _bytes(tokenizer: Tokenizer, ids: Sequence[int]) -> bytes:
    return b"".join(token_bytes(ids, tokenizer))


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


_ANSWER = {"role": "assistant", "content": "ANSWER"}


class Spacing(NamedTuple):
    """White space around the tags of a thought."""

    opening: str  # between the generation prompt and the open tag
    before: str  # before the close tag
    after: str  # between the close tag and the answer


def spacing(tokenizer: Tokenizer, tags: Tags) -> Spacing:
    """White space as the template writes it around a thought.

    A template that passes a thought through, or strips it from the history, does not tell. Then it is as the family was
    trained to write it (`SPACING`), or as the template writes an empty thought, or a newline and a blank line, as Qwen3
    and R1 do, if the vocabulary has them.
    """
    return _spacing(tokenizer, _template(tokenizer), *tags)


@lru_cache(maxsize=16)
def _spacing(tokenizer: Tokenizer, template: str, opening: str, closing: str) -> Spacing:
    prompt = apply(tokenizer, [QUESTION], **ASKED)
    shape = re.compile(rf"{re.escape(opening)}\s*REASON(\s*){re.escape(closing)}(\s*)ANSWER")
    turns = [
        {"content": f"{opening}REASON{closing}ANSWER"},
        {"content": "ANSWER", **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "REASON")},
        {"content": "\n\nANSWER", **dict.fromkeys(("reasoning_content", "reasoning", "thinking"), "REASON\n")},
    ]
    gap, matches = "", []
    for turn in turns:
        try:
            text = apply(tokenizer, [QUESTION, {"role": "assistant", **turn}])
        except ConfigError:  # GPT-OSS refuses tags in the text
            text = ""
        match = shape.search(text)
        matches.append(match)
        if match and text.startswith(prompt) and not text[len(prompt) : match.start()].strip():
            gap = text[len(prompt) : match.start()]
    in_text, in_field, spaced = matches
    for match in (in_text, in_field):
        if match and (match[1] or match[2]):
            return Spacing(gap, match[1], match[2])
    if spaced and not (spaced[1] or spaced[2]):  # stripped, and nothing put in its place
        return Spacing(gap, "", "")
    if closing in SPACING:
        return Spacing(gap, *SPACING[closing])
    quick = apply(tokenizer, [QUESTION], **{**ASKED, "enable_thinking": False, "thinking": False})
    empty = re.search(rf"{re.escape(opening)}(\s*){re.escape(closing)}(\s+)$", quick)
    if empty:
        return Spacing(gap, empty[1][:1], empty[2])
    return Spacing(gap, *(("\n", "\n\n") if writable(tokenizer, "\n\n") else ("", "")))


def end_ids(tokenizer: Tokenizer, tags: Tags) -> tuple[int, ...]:
    """The added token with which the template ends the assistant's turn, and end of text.

    A token of the tags ends no turn. Where nothing ends the last turn, what begins the next one does (GLM: `<|user|>`).
    """
    inside = {i for tag in tags for i in encode(tokenizer, tag)}
    added = set(tokenizer.get_added_vocab().values()) - inside
    turn: list[int] = []
    for talk in ([QUESTION, _ANSWER], [QUESTION, _ANSWER, QUESTION]):
        try:
            tail = encode(tokenizer, apply(tokenizer, talk).partition("ANSWER")[2])
        except ConfigError:
            continue
        turn = turn or [i for i in tail if i in added][:1]
    ends = [*turn, tokenizer.eos_token_id, single_id(tokenizer, "<|endoftext|>")]
    found = tuple(dict.fromkeys(i for i in ends if isinstance(i, int)))
    if not found:
        raise ConfigError(f"{name_of(tokenizer)} has no token that ends an answer: set tokenizer.eos_token")
    return found
