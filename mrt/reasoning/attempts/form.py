"""How a conversation with an environment is written in tokens: what opens a trial, what follows an action.

chat     a trial opens with a user's message, replies are user's messages by the model's own chat template, and an
         action is the assistant's turn up to its end token
plain    texts follow each other without anything between them: for the tiny model, where a pull is two tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mrt.errors import ConfigError, nearest
from mrt.reasoning.grading.verdict import split_thought
from mrt.reasoning.traces.tags import PLAIN_TAGS
from mrt.reasoning.traces.templates import (
    apply,
    encode,
    encode_behind,
    end_ids,
    find_tags,
    has_tags,
    name_of,
    prompt_text,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

STYLES = ("chat", "plain")
ANSWER = "ANSWER"  # stands for what the assistant said


class Form:
    """Texts to token ids and back, of one tokenizer.

    Args:
        thinking: the model thinks before each action (chat only); what it thinks stays in the trial, and the
            environment reads what follows the thought. Without it a template's empty thought is written.

    Raises:
        ConfigError: for an unknown style, a template that refuses a conversation, and thinking without think tags.
    """

    def __init__(self, tokenizer: Tokenizer, style: str = "chat", thinking: bool = False) -> None:
        if style not in STYLES:
            raise ConfigError(f"style={style!r} is unknown; {nearest(str(style), STYLES)}")
        if thinking and style == "plain":
            raise ConfigError("style='plain' has no thoughts: set thinking=false, or style=chat")
        self.tokenizer, self.style, self.thinking = tokenizer, style, thinking
        tagged = thinking or (style == "chat" and has_tags(tokenizer))
        self.tags = find_tags(tokenizer) if tagged else None
        self.end_ids = end_ids(tokenizer, self.tags or PLAIN_TAGS)
        self._known: dict[tuple[str, bool | None], list[int]] = {}

    def opening(self, text: str) -> list[int]:
        """Ids of the text that opens a trial, up to where the model acts."""
        known = self._known.get((text, None))
        if known is not None:
            return known
        if self.style == "plain":
            return self._ids(text, None, encode(self.tokenizer, text))
        return self._ids(text, None, encode(self.tokenizer, self._conversation([_said("user", text)])))

    def reply(self, text: str, stopped: bool) -> list[int]:
        """Ids of what follows an action: the reply, up to where the model acts again.

        Args:
            stopped: the action ended with its end token, and not at its limit; else the reply begins with that token.
        """
        known = self._known.get((text, stopped))
        if known is not None:
            return known
        if self.style == "plain":
            return self._ids(text, stopped, encode_behind(self.tokenizer, [text])[0])
        talk = [_said("user", "QUESTION"), _said("assistant", ANSWER), _said("user", text)]
        behind = encode(self.tokenizer, self._conversation(talk).partition(ANSWER)[2])
        if stopped and behind and behind[0] in self.end_ids:
            behind = behind[1:]
        return self._ids(text, stopped, behind)

    def read(self, ids: Sequence[int]) -> str:
        """The text of an action for the environment: without the end token and the thought; "" for a thought that was
        never closed.
        """
        kept = [token for token in ids if token not in self.end_ids]
        if not self.thinking:
            return str(self.tokenizer.decode(kept, skip_special_tokens=True))
        opening, closing = self.tags or PLAIN_TAGS
        text = str(self.tokenizer.decode(kept, skip_special_tokens=False))
        return split_thought(text, closing, opening, opened=True)[1] or ""

    def action(self, text: str) -> tuple[int, ...]:
        """Ids of an action as the model would write it, with the token that ends it (none where it is `choice`)."""
        return (*encode_behind(self.tokenizer, [text])[0], self.end_ids[0])

    def choice(self, text: str) -> int:
        """The one token of a choice.

        Raises:
            ConfigError: for a text that is several tokens.
        """
        ids = encode_behind(self.tokenizer, [text])[0]
        if len(ids) != 1:
            raise ConfigError(
                f"the choice {text!r} is {len(ids)} tokens for {name_of(self.tokenizer)}, and a constrained choice is "
                "one: set choose=false, and the model writes its actions freely"
            )
        return ids[0]

    def _conversation(self, messages: list[dict[str, str]]) -> str:
        if self.tags is None:
            return apply(self.tokenizer, messages, add_generation_prompt=True)
        return prompt_text(self.tokenizer, messages, self.tags[1], self.thinking)

    def _ids(self, text: str, stopped: bool | None, ids: list[int]) -> list[int]:
        unknown: Any = self.tokenizer.unk_token_id
        if unknown is not None and unknown in ids:
            raise ConfigError(
                f"{name_of(self.tokenizer)} cannot write {text!r}, which the environment says: use another writing "
                "(tasks: writing, feedback), or another model"
            )
        self._known[text, stopped] = ids
        return ids


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
