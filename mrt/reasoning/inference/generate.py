"""One answer whose thinking is stopped: at a budget of tokens, or once the forced answers have settled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.models.loading import load_model, pad_id
from mrt.reasoning.probes.answers import AnswerRequest, forced_answers
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.forced import force_answers
from mrt.reasoning.traces.prompts import forced_prefix, render, think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.traces.trial import Trial, read_trial


def generate(
    model: str,
    prompt: str,
    budget: int | None = None,
    flat: float | None = None,
    seed: int = 0,
    *,
    samples: int = 8,
    temperature: float = 1.0,
) -> dict[str, Any]:
    """Thinks for at most `budget` tokens, then answers.

    With `flat`, the thought is cut at the first boundary where the share of the most frequent of `samples` forced
    answers (a stand-in for J that needs no gold answer) has not risen by more than `flat` over two episodes, and that
    answer stayed the same.

    Returns:
        text, thought, answer, thinking_tokens, stopped ("itself" | "budget" | "flat"), agreement (that share at every
        boundary looked at).

    Raises:
        ConfigError: for a budget below 0, or neither a budget nor `flat`.
    """
    if budget is None and flat is None:
        raise ConfigError("say when to stop thinking: --budget N tokens, or --flat EPS, or both")
    if budget is not None and budget < 0:
        raise ConfigError(f"budget={budget}: the number of thinking tokens cannot be negative")
    thinker = _Thinker(model, prompt, Sampling(temperature=temperature))
    torch.manual_seed(seed)  # behind the loading, for which an adapter draws
    thought, stopped = thinker.think(budget)
    agreement: list[float] = []
    if flat is not None:
        cuts, votes = thinker.votes(thought, samples)
        agreement = [count / samples for _, count in votes]
        settled = _settled([text for text, _ in votes], agreement, flat)
        if settled is not None and cuts[settled] < len(thought):
            thought, stopped = thought[: cuts[settled]], "flat"
    completion = thinker.sampled if stopped == "itself" else thinker.answer_now(thought)
    text = thinker.tokenizer.decode(completion, skip_special_tokens=True)
    return {
        "text": text,
        "thought": thinker.tokenizer.decode(thought),
        "answer": thinker.answer(completion),
        "thinking_tokens": len(thought),
        "stopped": stopped,
        "agreement": agreement,
    }


class _Thinker:
    """One prompt and what was sampled behind it."""

    def __init__(self, model: str, prompt: str, sampling: Sampling) -> None:
        self.model, self.tokenizer = load_model(model)
        self.engine = engine_on(self.model, pad_id(self.tokenizer))
        tags = prepare_thinking(self.tokenizer)
        self.fmt, self.sampling = think_format(self.tokenizer, tags=tags), sampling
        self.prompt = render(self.tokenizer, [{"role": "user", "content": prompt}], tags=tags)
        self.sampled: list[int] = []
        self.trial = Trial([])

    def think(self, budget: int | None) -> tuple[list[int], str]:
        """(ids of the thought, at most `budget`; "itself" or "budget"). Without a budget the model's context is the
        limit."""
        context = getattr(self.model.config, "max_position_embeddings", 4096)
        longest = max(0, context - len(self.prompt) - self.fmt.max_answer_tokens - len(self.fmt.forced_ids))
        limit = longest if budget is None else min(budget, longest)
        if limit > 0:
            room = limit + len(self.fmt.close_ids) + self.fmt.max_answer_tokens
            branch = Branch(0, len(self.prompt))
            prefix = self.engine.prefill([self.prompt])
            (found,) = self.engine.answers(
                prefix, [branch], 1, room, self.fmt.end_ids, sampling=self.sampling, purpose="sampled"
            )
            self.sampled = found.ids[0]
        self.trial = read_trial(self.sampled, self.fmt, make_segmenter("cues", min_paragraphs=0))
        ended = self.trial.closed and len(self.trial.thought) <= limit
        return self.trial.thought[:limit], "itself" if ended else "budget"

    def votes(self, thought: list[int], samples: int) -> tuple[list[int], list[tuple[str, int]]]:
        """Boundaries of the thought, and at each the most frequent of `samples` forced answers with its count."""
        cuts = sorted({0, *(end for end in self.trial.ends if end <= len(thought))})
        opening = tuple(self.sampled[: self.trial.start])
        trace = Trace(tuple(self.prompt), tuple(thought), tuple(cuts), {}, opening)
        (answered,) = force_answers(self.engine, self.fmt, [trace], samples, self.sampling)
        return cuts, [Counter(one.text for one in cut).most_common(1)[0] for cut in answered]

    def answer(self, completion: list[int]) -> str:
        """What stands behind the thought; everything where it was never closed."""
        thought, answer = self.fmt.texts(completion)
        return thought if answer is None else answer

    def answer_now(self, thought: list[int]) -> list[int]:
        """The completion that closes `thought` here and answers."""
        prefix = [*self.sampled[: self.trial.start], *thought]
        suffix = tuple(forced_prefix(thought, self.fmt))
        start = [*self.prompt, *prefix]
        asked = AnswerRequest(1, self.fmt.max_answer_tokens, self.sampling)
        branches = [Branch(0, len(start), suffix)]
        (forced,) = forced_answers(self.engine, self.engine.prefill([start]), branches, self.fmt, asked)
        return [*prefix, *suffix, *forced.ids[0]]


def _settled(answers: list[str], agreement: list[float], flat: float) -> int | None:
    """The first boundary behind two episodes that left the answer and raised its share by `flat` at most."""
    for j in range(2, len(answers)):
        if len(set(answers[j - 2 : j + 1])) == 1 and agreement[j] - agreement[j - 2] <= flat:
            return j
    return None
