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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from mrt.errors import ConfigError
from mrt.reasoning.traces.segmentation import token_bytes
from mrt.reasoning.traces.templates import (
    PLAIN_TAGS,
    QUESTION,
    Messages,
    Tags,
    encode,
    end_ids,
    find_tags,
    newlines,
    prompt_text,
    single_id,
    writable,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

TIME_IS_UP = (
    "Time is up.\n\nGiven the time I've spent and the approaches I've tried, I should stop thinking and formulate a "
    "final answer based on what I already have."
)
BOX = "\\boxed{"
LEADS = {"short": ("**Final Answer**\n" + BOX, BOX), "paper": ("**Step-by-Step Explanation and Answer:**\n\n1. **",)}
MAX_ANSWER_TOKENS = {"short": 128, "paper": 4096}


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
    answer_open_text: str  # what the model writes of the box before the answer: "{", or "" where the lead-in has it
    max_answer_tokens: int
    forced_line_ids: tuple[int, ...]  # forced_ids for a thought that ends with a newline
    complete_ids: tuple[int, ...]  # closes a thought that ended by itself: no sentence that time is up
    complete_line_ids: tuple[int, ...]  # complete_ids for a thought that ends with a newline
    empty_ids: tuple[int, ...]  # forced_ids for a thought without a token
    end_ids: tuple[int, ...]  # end of text, end of turn
    brace_ids: tuple[int, ...] = ()  # tokens with a `}`, where the one that ends an answer is not always `}` itself
    tags: Tags = PLAIN_TAGS
    steps_first: bool = False  # the lead-in asks for an explanation, not for the answer
    tokenizer: Any = field(default=None, repr=False, compare=False)

    def split(self, ids: Sequence[int]) -> tuple[list[int], list[int] | None]:
        """(ids of the thought, ids of the answer) of a completion behind an opened thought; None where it was never
        closed. The first close tag ends the thought.
        """
        start, _ = thought_span(ids, self)
        close = close_span(ids, self)
        return (list(ids[start:]), None) if close is None else (list(ids[start : close[0]]), list(ids[close[1] :]))

    def plain_text(self, ids: Sequence[int]) -> str:
        """A completion in the one spelling that graders read: <think>, thought, </think>, answer, and no further tag.

        It does not matter which tags the model has, whether they are special tokens, or whether the prompt wrote the
        first.
        """
        thought, answer = self.split(ids)
        text = PLAIN_TAGS[0] + self._without_tags(thought)
        return text if answer is None else text + PLAIN_TAGS[1] + self._without_tags(answer)

    def answer_part(self, ids: Sequence[int]) -> str:
        """The text of ids from (about) the close tag on, with the tag spelt </think>."""
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        if self.tags == PLAIN_TAGS and text.count(PLAIN_TAGS[1]) == 1:
            return text
        close = close_span(ids, self)
        return text if close is None else PLAIN_TAGS[1] + self._without_tags(ids[close[1] :])

    def _without_tags(self, ids: Sequence[int]) -> str:
        text = str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
        for tag in (*self.tags, *PLAIN_TAGS):
            text = text.replace(tag, " ")  # a blank: what is left and right of it must not become a tag
        return text


def think_format(
    tokenizer: "Tokenizer", style: Literal["short", "paper"] = "short", tags: Tags | None = None
) -> ThinkFormat:
    """The thought format of a tokenizer, from its chat template and vocabulary; `tags` overrides the search for tags.

    Raises ConfigError for an unknown style, a tokenizer without chat template, think tags or end of text, and a
    template whose generation prompt closes the thought even when thinking is asked for.
    """
    if style not in MAX_ANSWER_TOKENS:
        raise ConfigError(f"unknown style '{style}' of the forced answer: valid are 'short' and 'paper'")
    opening, closing = tags or find_tags(tokenizer)
    prompt = prompt_text(tokenizer, [QUESTION], closing, thinking=True)
    before, after = newlines(tokenizer, opening, closing)
    lead = next((lead for lead in LEADS[style] if writable(tokenizer, lead)), "")
    box = lead.endswith(BOX)
    brace = "{" if box and _brace_merges(tokenizer) else ""
    lead = lead.removesuffix(brace)
    stops, braces = _brace_stops(tokenizer, box)
    sentence = TIME_IS_UP + before if style == "paper" and writable(tokenizer, TIME_IS_UP) else ""
    gap = 2 * before if sentence else before  # the sentence is a paragraph of its own
    close_ids, ends = tuple(encode(tokenizer, closing)), end_ids(tokenizer)
    lead_ids = tuple(encode(tokenizer, after + lead))
    plain_ids = lead_ids if style == "short" else tuple(encode(tokenizer, after))

    def around(head: str, tail: tuple[int, ...]) -> tuple[int, ...]:
        return (*encode(tokenizer, head), *close_ids, *tail)

    return ThinkFormat(
        open_ids=tuple(encode(tokenizer, opening)),
        close_ids=close_ids,
        opened_by_prompt=prompt.rstrip().endswith(opening),
        forced_ids=around(gap + sentence, lead_ids),
        answer_lead_ids=lead_ids,
        answer_stop_ids=(*stops, *ends),
        answer_close_text="}" if box else "",
        answer_open_text=brace,
        max_answer_tokens=MAX_ANSWER_TOKENS[style],
        forced_line_ids=around(sentence, lead_ids),
        complete_ids=around(before, plain_ids),
        complete_line_ids=around("", plain_ids),
        empty_ids=around(_first_line(prompt, opening, before) + (sentence or before), lead_ids),
        end_ids=ends,
        brace_ids=braces,
        tags=(opening, closing),
        steps_first=bool(lead) and not box,
        tokenizer=tokenizer,
    )


def render(tokenizer: "Tokenizer", messages: Messages, thinking: bool = True, tags: Tags | None = None) -> list[int]:
    """Prompt ids by the chat template with its generation prompt, the thought opened exactly once.

    With `thinking=False` the prompt ends behind an empty, closed thought: the template's own where it writes one.
    Raises ConfigError where the template refuses the messages, or closes the thought although thinking was asked for.
    """
    opening, closing = tags or find_tags(tokenizer)
    text = prompt_text(tokenizer, messages, closing, thinking)
    ids = encode(tokenizer, text)
    if text.rstrip().endswith(closing):
        return ids
    if not text.rstrip().endswith(opening):
        ids += encode(tokenizer, opening)
    if not thinking:
        before, after = newlines(tokenizer, opening, closing)
        for part in (_first_line(text, opening, before) + before, closing, after):
            ids += encode(tokenizer, part)
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

    `ids` follow a forced close. An answer ends at an end-of-turn token or, after a lead-in with a box, with the brace
    that closes this box, also where the brace is merged with other text into one token.
    """
    turn = _turn_end(ids, fmt)
    pieces = token_bytes(ids[:turn], fmt.tokenizer)
    brace = _closing_brace(b"".join(pieces).decode("latin-1"), fmt)
    if brace is not None:
        return _token_at(pieces, brace) + 1
    return turn + 1 if turn < len(ids) else None


def answer_text(ids: Sequence[int], fmt: ThinkFormat) -> str:
    """The answer in ids that follow a forced close: up to the brace that closes the box, or to the end of the turn."""
    text = str(fmt.tokenizer.decode(list(ids[: _turn_end(ids, fmt)]), clean_up_tokenization_spaces=False))
    brace = _closing_brace(text, fmt)
    if fmt.answer_open_text and (brace is not None or text.lstrip().startswith(fmt.answer_open_text)):
        return text[text.index(fmt.answer_open_text) + 1 : brace]
    return text[:brace]


def _first_line(prompt: str, opening: str, newline: str) -> str:
    """The newline after an open tag at the end of the prompt; "" where the prompt has written it."""
    return "" if prompt.rstrip().endswith(opening) and prompt.endswith("\n") else newline


def _brace_stops(tokenizer: "Tokenizer", box: bool) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(the `}` token where no other token holds a brace, else nothing; tokens with a `}` in the other case).

    Where braces nest, \\frac{1}{2} would end at its first `}`.
    """
    if not box:
        return (), ()
    vocabulary = tokenizer.get_vocab()
    closer = single_id(tokenizer, "}")
    if closer is not None and not any("{" in token for token in vocabulary if token != BOX):
        return (closer,), ()
    return (), tuple(sorted(i for token, i in vocabulary.items() if "}" in token))


def _brace_merges(tokenizer: "Tokenizer") -> bool:
    """Whether some token begins with `{` and goes on: a lead-in must not write half of what the model writes as one."""
    return any(token.startswith("{") and len(token) > 1 for token in tokenizer.get_vocab())


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


def _closing_brace(text: str, fmt: ThinkFormat) -> int | None:
    """Where the brace of the answer's box closes; None where there is no box or it stays open.

    The box was opened before `text`, or is opened by its first character. LaTeX \\{ and \\} are characters, no braces.
    """
    if not fmt.answer_close_text or not text.lstrip().startswith(fmt.answer_open_text):
        return None
    depth = 0 if fmt.answer_open_text else 1
    for match in re.finditer(r"\\.|[{}]", text, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0 and match[0] == "}":
            return match.start()
    return None
