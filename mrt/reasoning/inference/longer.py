"""Thinking beyond the training budget, two ways.

**Extrapolation** (budget forcing, s1, arXiv 2501.19393; Qu et al. 2025, arXiv 2503.07572, figure 9): where the thought
ends, a continue cue ("Wait") takes the place of its close tag and the model goes on, again and again. C_0 after w cues
is the full budget plus w times the tokens allowed behind a cue (the cue counts), and no thought is longer than its C_0.
Whatever the thought ends with, it is closed before it is answered.

**Linearized evaluation** (the same paper, section 7, backtracking models): episodes are written without end while only
the last few stay in sight, as the Markov structure of a backtracking search allows. So a trial may hold more tokens
than a context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Branch, Engine
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.traces.prompts import ThinkFormat, close_span
from mrt.reasoning.traces.segmentation import token_bytes
from mrt.reasoning.traces.trial import Segment


@dataclass(frozen=True)
class Stop:
    """Where an answer is due: at `budget`, behind `thought` (what is in sight of it), `tokens` written so far.

    `closed` says that the thought ended by itself, `cut` that it was still going on.
    """

    budget: int
    thought: tuple[int, ...]
    tokens: int
    closed: bool
    cut: bool = False


@dataclass(frozen=True)
class Extension:
    """Thoughts of at most `full` tokens go on by max(steps) of the `cues` in turn; each adds at most `tokens`, itself
    included. Stops are due after each number of cues in `steps`.
    """

    full: int
    steps: Sequence[int]
    tokens: int
    cues: Sequence[str]
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)


@dataclass(frozen=True)
class Window:
    """Trials of budgets[-1] thinking tokens, of which only the last `episodes` (the one being written among them) stay
    in sight. The window slides after `reach` new tokens at the latest.
    """

    budgets: Sequence[int]
    episodes: int
    reach: int
    sampling: Sampling = Sampling()  # noqa: RUF009  (frozen)


def extend(
    engine: Engine,
    fmt: ThinkFormat,
    prefixes: Sequence[Sequence[int]],
    thoughts: Sequence[Sequence[int]],
    extension: Extension,
) -> list[list[Stop]]:
    """Every thought made to go on by the continue cues; a `Stop` after each number of cues in `extension.steps`.

    Args:
        prefixes: ids before the thoughts (prompt, opening tag).
        thoughts: none longer than `extension.full`.

    Raises:
        ConfigError: when the vocabulary can write none of the cues.
    """
    cues, steps, tokens = extension.cues, extension.steps, extension.tokens
    usable = [cue for cue in cues if _cue_ids((), cue, fmt)]
    if not usable:
        raise ConfigError(f"the tokenizer can write none of the continue cues {list(cues)}: name others")
    written = [list(thought) for thought in thoughts]
    stops: list[list[Stop]] = [[] for _ in thoughts]
    for step in range(1, max(steps) + 1):
        marks = [_cue_ids(thought, usable[(step - 1) % len(usable)], fmt) for thought in written]
        room = tokens - max(map(len, marks))
        if room < 1:
            raise ConfigError(f"{tokens} tokens a cue leave no room behind the cue itself: allow more")
        contexts = [[*a, *b, *mark] for a, b, mark in zip(prefixes, written, marks, strict=True)]
        for row, (new, closed, ended) in enumerate(go_on(engine, fmt, contexts, room, extension.sampling)):
            written[row] += [*marks[row], *new]
            if step in steps:
                budget = extension.full + step * tokens
                stops[row].append(Stop(budget, tuple(written[row]), len(written[row]), closed, not ended))
    return stops


def linearize(
    engine: Engine,
    fmt: ThinkFormat,
    prefixes: Sequence[Sequence[int]],
    segment: Segment,
    window: Window,
) -> list[list[Stop]]:
    """Trials that are longer than what stays in sight.

    A trial has a `Stop` at every budget that it reached while it went on, and one at the next budget after it ended by
    itself, which holds for all later ones.
    """
    seen: list[list[int]] = [[] for _ in prefixes]
    total = [0] * len(prefixes)
    closed, over = [False] * len(prefixes), [False] * len(prefixes)
    stops: list[list[Stop]] = [[] for _ in prefixes]
    spent = 0
    for budget in window.budgets:
        open_before = [row for row, done in enumerate(over) if not done]
        while spent < budget and (live := [row for row, done in enumerate(over) if not done]):
            room = min(window.reach, budget - spent)
            contexts = [[*prefixes[row], *seen[row]] for row in live]
            for row, (new, shut, ended) in zip(live, go_on(engine, fmt, contexts, room, window.sampling), strict=True):
                seen[row] += new
                total[row] += len(new)
                closed[row], over[row] = shut, ended
                ends = segment(seen[row], fmt.tokenizer) if seen[row] and not ended else []
                if len(ends) > window.episodes:
                    seen[row] = seen[row][ends[-window.episodes - 1] :]
            spent += room
        spent = max(spent, budget)
        for row in open_before:
            stops[row].append(Stop(budget, tuple(seen[row]), total[row], closed[row], not over[row]))
    return stops


def go_on(
    engine: Engine, fmt: ThinkFormat, contexts: Sequence[Sequence[int]], limit: int, sampling: Sampling
) -> list[tuple[list[int], bool, bool]]:
    """At most `limit` further ids of every thought, without what ends it; whether it was closed; whether it ended."""
    close = fmt.close_ids[:1] if len(fmt.close_ids) == 1 else ()
    results: list[tuple[list[int], bool, bool]] = [([], False, False)] * len(contexts)
    for chunk in engine.chunks([len(context) + limit for context in contexts]):
        prefix: Any = engine.prefill([contexts[i] for i in chunk])
        branches = [Branch(place, len(contexts[i])) for place, i in enumerate(chunk)]
        found = engine.answers(prefix, branches, 1, limit, (*close, *fmt.end_ids), sampling=sampling, purpose="sampled")
        for i, answer in zip(chunk, found, strict=True):
            ids = answer.ids[0]
            shut = close_span(ids, fmt)
            if shut is not None:
                results[i] = (ids[: shut[0]], True, True)
            else:
                ended = bool(ids) and ids[-1] in fmt.end_ids
                results[i] = (ids[:-1] if ended else ids, False, ended)
    return results


def _cue_ids(thought: Sequence[int], cue: str, fmt: ThinkFormat) -> list[int]:
    """The cue as a paragraph of its own behind `thought`; [] where the vocabulary cannot write it."""
    tail = b"".join(token_bytes(thought[-2:], fmt.tokenizer)) if len(thought) else b""
    gap = "" if tail.endswith(b"\n\n") else "\n" if tail.endswith(b"\n") else "\n\n"
    for text in dict.fromkeys((gap + cue, "\n\n" + cue, cue)):
        ids = list(fmt.tokenizer(text, add_special_tokens=False)["input_ids"])
        back = str(fmt.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
        if ids and fmt.tokenizer.unk_token_id not in ids and back.strip(" ") == text.strip(" "):
            return ids
    return []
