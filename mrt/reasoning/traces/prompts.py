"""How a model's own chat template opens, closes and answers a thought; nothing here is tied to one model family.

`think_format` reads the tags, the newlines around them and the end of a turn from the tokenizer's template and
vocabulary. From these it makes the *forced close*: the ids that end a thought now and lead into the answer, with
exactly one close tag.

    short   newline, </think>, blank line, "**Final Answer**\\n\\boxed{": only an answer, at most 128 tokens
    paper   the authors' sentence ("Time is up. ..."), </think>, and the lead into a step-by-step answer

What a vocabulary cannot write is left out: for a tokenizer without newlines and words the short form is
`</think>\\boxed{`. Sources: Qu et al. 2025 (arXiv 2503.07572), the suffix in the authors' pass_at_k_given_prefix.py;
the short form follows AnytimeReasoner (arXiv 2505.13438).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mrt.errors import ConfigError
from mrt.reasoning.traces.segmentation import token_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer
Messages = Sequence[Mapping[str, Any]]
_BRACKETED = [(f"<{name}>", f"</{name}>") for name in ("think", "thinking", "thought", "reasoning", "seed:think")]
TAGS = (*_BRACKETED, ("[THINK]", "[/THINK]"), ("◁think▷", "◁/think▷"), ("<|begin_of_thought|>", "<|end_of_thought|>"))
TIME_IS_UP = (
    "Time is up.\n\nGiven the time I've spent and the approaches I've tried, I should stop thinking and formulate a "
    "final answer based on what I already have."
)
BOX = "\\boxed{"
LEADS = {"short": ("**Final Answer**\n" + BOX, BOX), "paper": ("**Step-by-Step Explanation and Answer:**\n\n1. **",)}
MAX_ANSWER_TOKENS = {"short": 128, "paper": 4096}
_QUESTION = {"role": "user", "content": "Q"}


@dataclass(frozen=True)
class ThinkFormat:
    """Tags, forced close and answer of one tokenizer, as token ids.

    `forced_prefix` picks the form that fits how a thought ends; each holds exactly one close tag.
    """

    open_ids: tuple[int, ...]
    close_ids: tuple[int, ...]
    opened_by_prompt: bool  # the generation prompt already ends with the open tag
    forced_ids: tuple[int, ...]  # ends a thought that stops in the middle of a line
    answer_lead_ids: tuple[int, ...]  # what follows the close tag in forced_ids
    answer_stop_ids: tuple[int, ...]  # the `}` token where no other brace can stand in an answer, then end_ids
    answer_close_text: str  # completes the box after the answer; "" for an answer that writes its own
    max_answer_tokens: int
    forced_line_ids: tuple[int, ...]  # forced_ids for a thought that ends with a newline
    complete_ids: tuple[int, ...]  # closes a thought that ended by itself: no sentence that time is up
    complete_line_ids: tuple[int, ...]  # complete_ids for a thought that ends with a newline
    empty_ids: tuple[int, ...]  # forced_ids for a thought without a token
    end_ids: tuple[int, ...]  # end of text, end of turn
    brace_ids: tuple[int, ...] = ()  # tokens with a `}`, where the one that ends an answer is not always `}` itself
    tokenizer: Any = field(default=None, repr=False, compare=False)


def think_format(
    tokenizer: "Tokenizer", style: Literal["short", "paper"] = "short", tags: tuple[str, str] | None = None
) -> ThinkFormat:
    """The thought format of a tokenizer, from its chat template and vocabulary; `tags` overrides the search for tags.

    Raises ConfigError for an unknown style, a tokenizer without chat template, think tags or end of text, and a
    template whose generation prompt closes the thought even when thinking is asked for.
    """
    if style not in MAX_ANSWER_TOKENS:
        raise ConfigError(f"unknown style '{style}' of the forced answer: valid are 'short' and 'paper'")
    opening, closing = tags or find_tags(tokenizer)
    prompt = _prompt_text(tokenizer, [_QUESTION], closing, thinking=True)
    before, after = _newlines(tokenizer, opening, closing)
    lead = next((lead for lead in LEADS[style] if _writable(tokenizer, lead)), "")
    sentence = TIME_IS_UP + before if style == "paper" and _writable(tokenizer, TIME_IS_UP) else ""
    gap = 2 * before if sentence else before  # the sentence is a paragraph of its own
    close_ids, end_ids = tuple(_encode(tokenizer, closing)), _end_ids(tokenizer)
    lead_ids = tuple(_encode(tokenizer, after + lead))
    plain_ids = lead_ids if style == "short" else tuple(_encode(tokenizer, after))

    def around(head: str, tail: tuple[int, ...]) -> tuple[int, ...]:
        return (*_encode(tokenizer, head), *close_ids, *tail)

    return ThinkFormat(
        open_ids=tuple(_encode(tokenizer, opening)),
        close_ids=close_ids,
        opened_by_prompt=prompt.rstrip().endswith(opening),
        forced_ids=around(gap + sentence, lead_ids),
        answer_lead_ids=lead_ids,
        answer_stop_ids=(*(_box_stop_ids(tokenizer) if lead.endswith(BOX) else ()), *end_ids),
        answer_close_text="}" if lead.endswith(BOX) else "",
        max_answer_tokens=MAX_ANSWER_TOKENS[style],
        forced_line_ids=around(sentence, lead_ids),
        complete_ids=around(before, plain_ids),
        complete_line_ids=around("", plain_ids),
        empty_ids=around(_first_line(prompt, opening, before) + (sentence or before), lead_ids),
        end_ids=end_ids,
        tokenizer=tokenizer,
    )


def render(
    tokenizer: "Tokenizer", messages: Messages, thinking: bool = True, tags: tuple[str, str] | None = None
) -> list[int]:
    """Prompt ids by the chat template with its generation prompt, the thought opened exactly once.

    With `thinking=False` the prompt ends behind an empty, closed thought: the template's own where it writes one.
    Raises ConfigError where the template refuses the messages, or closes the thought although thinking was asked for.
    """
    opening, closing = tags or find_tags(tokenizer)
    text = _prompt_text(tokenizer, messages, closing, thinking)
    ids = _encode(tokenizer, text)
    if text.rstrip().endswith(closing):
        return ids
    if not text.rstrip().endswith(opening):
        ids += _encode(tokenizer, opening)
    if not thinking:
        before, after = _newlines(tokenizer, opening, closing)
        for part in (_first_line(text, opening, before) + before, closing, after):
            ids += _encode(tokenizer, part)
    return ids


def thought_span(ids: Sequence[int], fmt: ThinkFormat) -> tuple[int, int | None]:
    """(start of the thought, index of its close tag or None where it was never closed), over completion ids.

    The start is 0, or behind an open tag that the completion itself begins with. A tag of several tokens is looked for
    in the text, however the model spelt it in tokens; its index is that of the token with its first character.
    """
    opening, closing = _tag_span(ids, fmt.open_ids, fmt), close_span(ids, fmt)
    return (opening[1] if opening and opening[0] == 0 else 0), (closing[0] if closing else None)


def close_span(ids: Sequence[int], fmt: ThinkFormat) -> tuple[int, int] | None:
    """(start, exclusive end) of the first close tag in completion ids, where the answer starts; None without one."""
    return _tag_span(ids, fmt.close_ids, fmt)


def forced_prefix(thought_ids: Sequence[int], fmt: ThinkFormat, complete: bool = False) -> list[int]:
    """The ids to append to a thought, so that the answer follows: one close tag, and the lead-in of the style.

    An empty thought is closed as the template writes an empty one; one that ended by itself (`complete`) without the
    sentence that time is up. A newline goes before the close unless the thought ends with one.
    """
    if len(thought_ids) == 0 and not complete:
        return list(fmt.empty_ids)
    ends_line = b"".join(token_bytes(thought_ids[-1:], fmt.tokenizer)).endswith(b"\n")
    if complete:
        return list(fmt.complete_line_ids if ends_line else fmt.complete_ids)
    return list(fmt.forced_line_ids if ends_line else fmt.forced_ids)


def answer_end(ids: Sequence[int], fmt: ThinkFormat) -> int | None:
    """How many answer tokens there are up to and with the one that ends the answer; None while it goes on.

    `ids` follow a forced close. An answer ends at an end-of-turn token or, after a lead-in that opened a box, with the
    brace that closes this box, also where the brace is merged with other text into one token.
    """
    turn = _turn_end(ids, fmt)
    pieces = token_bytes(ids[:turn], fmt.tokenizer)
    brace = _closing_brace(b"".join(pieces).decode("latin-1")) if fmt.answer_close_text else None
    if brace is not None:
        return _token_at(pieces, brace) + 1
    return turn + 1 if turn < len(ids) else None


def answer_text(ids: Sequence[int], fmt: ThinkFormat) -> str:
    """The answer in ids that follow a forced close: up to the brace that closes the box, or to the end of the turn."""
    text = str(fmt.tokenizer.decode(list(ids[: _turn_end(ids, fmt)]), clean_up_tokenization_spaces=False))
    return text[: _closing_brace(text)] if fmt.answer_close_text else text


def find_tags(tokenizer: "Tokenizer") -> tuple[str, str]:
    """The pair of tags that the template writes, or else one of single tokens; ConfigError where there is neither."""
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    if not template:
        raise ConfigError(f"{_name(tokenizer)} has no chat template: use an instruction-tuned model, or give it one")
    written = [pair for pair in TAGS if pair[1] in template]
    single = [pair for pair in TAGS if None not in (_single(tokenizer, pair[0]), _single(tokenizer, pair[1]))]
    if written or single:
        return (written or single)[0]
    raise ConfigError(
        f"{_name(tokenizer)} has no think tags in its chat template or vocabulary: use a reasoning model (Qwen3, "
        "DeepSeek-R1-Distill, the built-in tiny model) or a chat template with <think> and </think>"
    )


def _name(tokenizer: "Tokenizer") -> str:
    return f"tokenizer '{tokenizer.name_or_path or type(tokenizer).__name__}'"


def _prompt_text(tokenizer: "Tokenizer", messages: Messages, closing: str, thinking: bool) -> str:
    # Templates name the switch differently (Qwen3, SmolLM3, GLM: enable_thinking; DeepSeek-V3.1, Granite: thinking).
    text = _apply(tokenizer, messages, add_generation_prompt=True, enable_thinking=thinking, thinking=thinking)
    if thinking and text.rstrip().endswith(closing):
        raise ConfigError(
            f"the chat template of {_name(tokenizer)} closes the thought in its generation prompt, although thinking "
            "was asked for: use the template of the model's thinking variant"
        )
    return text


def _apply(tokenizer: "Tokenizer", messages: Messages, **options: Any) -> str:
    from jinja2.exceptions import TemplateError

    try:
        return str(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **options))
    except TemplateError as error:
        roles = ", ".join(str(message.get("role")) for message in messages)
        raise ConfigError(f"the chat template of {_name(tokenizer)} refuses the roles {roles}: {error}") from error


def _encode(tokenizer: "Tokenizer", text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []


def _single(tokenizer: "Tokenizer", text: str) -> int | None:
    """The id of the token that is exactly `text`, or None."""
    i = tokenizer.convert_tokens_to_ids(text)
    return i if isinstance(i, int) and tokenizer.convert_ids_to_tokens(i) == text else None


def _writable(tokenizer: "Tokenizer", text: str) -> bool:
    """Whether the vocabulary can write `text`: encoded and decoded it is the same, a leading space apart."""
    ids = _encode(tokenizer, text)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        return False
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False)).strip(" ") == text.strip(" ")


def _newlines(tokenizer: "Tokenizer", opening: str, closing: str) -> tuple[str, str]:
    """White space before and after the close tag, as the template writes it around a thought.

    A template that passes a thought through, or strips it from the history, does not tell; then it is a newline and
    a blank line, as Qwen3 and R1 were trained to write, if the vocabulary has them.
    """
    shape = re.compile(rf"{re.escape(opening)}\s*REASON(\s*){re.escape(closing)}(\s*)ANSWER")
    in_field = {"role": "assistant", "content": "ANSWER", "reasoning_content": "REASON"}
    in_text = {"role": "assistant", "content": f"{opening}REASON{closing}ANSWER"}
    for turn in (in_text, in_field):
        match = shape.search(_apply(tokenizer, [_QUESTION, turn]))
        if match and (match[1] or match[2]):
            return match[1], match[2]
    return ("\n", "\n\n") if _writable(tokenizer, "\n\n") else ("", "")


def _first_line(prompt: str, opening: str, newline: str) -> str:
    """The newline after an open tag at the end of the prompt; "" where the prompt has written it."""
    return "" if prompt.rstrip().endswith(opening) and prompt.endswith("\n") else newline


def _box_stop_ids(tokenizer: "Tokenizer") -> tuple[int, ...]:
    """The `}` token where no other token opens a brace; elsewhere \\frac{1}{2} would end at its first brace."""
    closer = _single(tokenizer, "}")
    nests = any("{" in token for token in tokenizer.get_vocab() if token != BOX)
    return () if closer is None or nests else (closer,)


def _end_ids(tokenizer: "Tokenizer") -> tuple[int, ...]:
    """The added token with which the template ends the assistant's turn, and end of text."""
    text = _apply(tokenizer, [_QUESTION, {"role": "assistant", "content": "ANSWER"}])
    tail = _encode(tokenizer, text.partition("ANSWER")[2])
    turn = [i for i in tail[:1] if i in tokenizer.get_added_vocab().values()]
    ends = [*turn, tokenizer.eos_token_id, _single(tokenizer, "<|endoftext|>")]
    found = tuple(dict.fromkeys(i for i in ends if isinstance(i, int)))
    if not found:
        raise ConfigError(f"{_name(tokenizer)} has no token that ends an answer: set tokenizer.eos_token")
    return found


def _tag_span(ids: Sequence[int], tag: Sequence[int], fmt: ThinkFormat) -> tuple[int, int] | None:
    """(start, exclusive end) of the first such tag."""
    if len(tag) == 1:
        return next(((n, n + 1) for n, i in enumerate(ids) if i == tag[0]), None)
    text = b"".join(token_bytes(tag, fmt.tokenizer)).strip()
    pieces = token_bytes(ids, fmt.tokenizer)
    at = b"".join(pieces).find(text)
    return None if at < 0 else (_token_at(pieces, at), _token_at(pieces, at + len(text) - 1) + 1)


def _turn_end(ids: Sequence[int], fmt: ThinkFormat) -> int:
    return next((n for n, i in enumerate(ids) if i in fmt.end_ids), len(ids))


def _token_at(pieces: Sequence[bytes], byte: int) -> int:
    """The token that holds this byte of the joined pieces."""
    return int(np.searchsorted(np.cumsum([len(piece) for piece in pieces]), byte, side="right"))


def _closing_brace(text: str) -> int | None:
    """Where the brace closes that was open before `text`; LaTeX \\{ and \\} are characters, no braces."""
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None
