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

from mrt.errors import ConfigError
from mrt.reasoning.traces.segmentation import token_bytes
from mrt.reasoning.traces.tags import PLAIN_TAGS, Tags, between_tags, find_tag, token_at
from mrt.reasoning.traces.templates import (
    QUESTION,
    Messages,
    encode,
    encode_behind,
    end_ids,
    find_tags,
    name_of,
    prompt_text,
    single_id,
    spacing,
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
        closed. The first close tag ends the thought; what follows is the answer, further tags included.
        """
        start, _ = thought_span(ids, self)
        close = close_span(ids, self)
        return (list(ids[start:]), None) if close is None else (list(ids[start : close[0]]), list(ids[close[1] :]))

    def texts(self, ids: Sequence[int]) -> tuple[str, str | None]:
        """`split` as texts without any tag: what a token holds beside a tag is in them too."""
        thought, answer = self.split(ids)
        close = find_tag(ids, self.close_ids, self.tokenizer)
        if close is None or answer is None:
            return self._without_tags(thought), None
        return self._without_tags(thought) + close.before, self._without_tags(answer, close.behind)

    def plain_text(self, ids: Sequence[int]) -> str:
        """A completion in the one spelling that graders read: <think>, thought, </think>, answer, and no further tag.

        It does not matter which tags the model has, whether they are special tokens, or whether the prompt wrote the
        first.
        """
        thought, answer = self.texts(ids)
        return PLAIN_TAGS[0] + thought + ("" if answer is None else PLAIN_TAGS[1] + answer)

    def answer_part(self, ids: Sequence[int]) -> str:
        """The text of ids from (about) the close tag on, with the tag spelt </think>."""
        answer = self.texts(ids)[1]
        return self._without_tags(ids) if answer is None else PLAIN_TAGS[1] + answer

    def _without_tags(self, ids: Sequence[int], before: str = "") -> str:
        # Of a tag that is special tokens and words, decoding would leave the words (`assistantfinal`).
        mixed = [tag for tag in (self.open_ids, self.close_ids) if len(tag) > 1 and self._decode(tag) not in self.tags]
        text = before + " ".join(map(self._decode, between_tags(ids, mixed, self.tokenizer) if mixed else [ids]))
        for tag in (*self.tags, *PLAIN_TAGS):
            text = text.replace(tag, " ")  # a blank: what is left and right of it must not become a tag
        return text

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def think_format(
    tokenizer: "Tokenizer", style: Literal["short", "paper"] = "short", tags: Tags | None = None
) -> ThinkFormat:
    """The thought format of a tokenizer, from its chat template and vocabulary; `tags` overrides the search for tags.

    Raises ConfigError for an unknown style, a tokenizer without chat template, think tags or end of text, and a
    template that leaves out plain text, or whose generation prompt closes the thought even when thinking is asked for.
    """
    if style not in MAX_ANSWER_TOKENS:
        raise ConfigError(f"unknown style '{style}' of the forced answer: valid are 'short' and 'paper'")
    opening, closing = tags or find_tags(tokenizer)
    prompt = prompt_text(tokenizer, [QUESTION], closing, thinking=True)
    if QUESTION["content"] not in prompt:
        raise ConfigError(
            f"the chat template of {name_of(tokenizer)} leaves out what the user says: it takes a list of parts, as "
            "models for images do. Cure: a template whose messages are plain text"
        )
    _, before, after = spacing(tokenizer, (opening, closing))
    lead = next((lead for lead in LEADS[style] if writable(tokenizer, lead)), "")
    box = lead.endswith(BOX)
    brace = "{" if box and _brace_merges(tokenizer) else ""
    lead = lead.removesuffix(brace)
    stops, braces = _brace_stops(tokenizer, box)
    sentence = TIME_IS_UP + before if style == "paper" and writable(tokenizer, TIME_IS_UP) else ""
    gap = 2 * before if sentence else before  # the sentence is a paragraph of its own
    ends = end_ids(tokenizer, (opening, closing))
    short = lead if style == "short" else ""
    open_ids, close_ids, lead_ids = encode_behind(tokenizer, [opening, closing, after + lead])

    def around(head: str, lead: str) -> tuple[int, ...]:
        """As one text: a tag in ordinary tokens may merge with its neighbours, as where the model writes it."""
        return tuple(encode_behind(tokenizer, [head + closing + after + lead])[0])

    return ThinkFormat(
        open_ids=tuple(open_ids),
        close_ids=tuple(close_ids),
        opened_by_prompt=prompt.rstrip().endswith(opening),
        forced_ids=around(gap + sentence, lead),
        answer_lead_ids=tuple(lead_ids),
        answer_stop_ids=(*stops, *ends),
        answer_close_text="}" if box else "",
        answer_open_text=brace,
        max_answer_tokens=MAX_ANSWER_TOKENS[style],
        forced_line_ids=around(sentence, lead),
        complete_ids=around(before, short),
        complete_line_ids=around("", short),
        empty_ids=around(_first_line(prompt, opening, before) + (sentence or before), lead),
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
    opening, closing = tags = tags or find_tags(tokenizer)
    text = prompt_text(tokenizer, messages, closing, thinking)
    if not text.rstrip().endswith(tags):
        text += spacing(tokenizer, tags).opening + opening
    if not thinking and not text.rstrip().endswith(closing):
        _, before, after = spacing(tokenizer, tags)
        text += _first_line(text, opening, before) + before + closing + after
    return encode(tokenizer, text)


def thought_span(ids: Sequence[int], fmt: ThinkFormat) -> tuple[int, int | None]:
    """(start of the thought, index of its close tag or None where it was never closed), over completion ids.

    The start is 0, or behind an open tag that the completion itself begins with, white space apart. The close tag's
    index is that of the token with its first character.
    """
    opening, closing = find_tag(ids, fmt.open_ids, fmt.tokenizer), close_span(ids, fmt)
    start = 0
    if opening and (closing is None or opening.start < closing[0]):
        head = b"".join(token_bytes(ids[: opening.start], fmt.tokenizer)).decode("utf-8", "replace")
        start = 0 if (head + opening.before).strip() else opening.end
    return start, (closing[0] if closing else None)


def close_span(ids: Sequence[int], fmt: ThinkFormat) -> tuple[int, int] | None:
    """(start, exclusive end) of the first close tag in completion ids, where the answer starts; None without one."""
    found = find_tag(ids, fmt.close_ids, fmt.tokenizer)
    return found and (found.start, found.end)


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
        return token_at(pieces, brace) + 1
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


def _turn_end(ids: Sequence[int], fmt: ThinkFormat) -> int:
    return next((n for n, i in enumerate(ids) if i in fmt.end_ids), len(ids))


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
