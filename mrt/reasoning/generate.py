"""One answer whose thinking is stopped: at a budget of tokens, or once the forced answers have settled."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import Branch, TransformersEngine
from mrt.reasoning.loading import load_model, pad_id
from mrt.reasoning.probes import Trace, force_answers
from mrt.reasoning.prompts import forced_prefix, render, think_format, thought_span
from mrt.reasoning.rollout import read_trial
from mrt.reasoning.segmentation import make_segmenter


def generate(
    model: str,
    prompt: str,
    budget: int | None = None,
    flat: float | None = None,
    seed: int = 0,
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
    language_model, tokenizer = load_model(model)
    engine, fmt = TransformersEngine(language_model, pad_id(tokenizer)), think_format(tokenizer)
    segment = make_segmenter("cues", min_paragraphs=0)
    torch.manual_seed(seed)
    ids = render(tokenizer, [{"role": "user", "content": prompt}])
    longest = getattr(language_model.config, "max_position_embeddings", 4096) - len(ids) - fmt.max_answer_tokens
    limit = min(longest if budget is None else budget, longest)
    sampling = Sampling(temperature=temperature)
    thinking: list[int] = []
    if limit > 0:
        room = limit + len(fmt.close_ids) + fmt.max_answer_tokens
        (sampled,) = engine.answers(
            engine.prefill([ids]), [Branch(0, len(ids))], 1, room, fmt.end_ids, sampling, "sampled"
        )
        thinking = sampled.ids[0]
    trial = read_trial(thinking, fmt, segment)
    stopped = "itself" if trial.closed and len(trial.thought) <= limit else "budget"
    thought = trial.thought[:limit]
    agreement: list[float] = []
    if flat is not None:
        cuts = tuple(sorted({0, *(end for end in trial.ends if end <= len(thought))}))
        trace = Trace(tuple(ids), tuple(thought), cuts, {}, tuple(thinking[: trial.start]), stopped == "itself")
        (answered,) = force_answers(engine, fmt, [trace], samples, sampling)
        votes = [Counter(one.text for one in cut).most_common(1)[0] for cut in answered]
        agreement = [count / samples for _, count in votes]
        settled = _settled([text for text, _ in votes], agreement, flat)
        if settled is not None and cuts[settled] < len(thought):
            thought, stopped = thought[: cuts[settled]], "flat"
    if stopped == "itself":
        completion = thinking
    else:
        start, _ = thought_span(thinking, fmt)
        prefix = [*thinking[:start], *thought]
        suffix = tuple(forced_prefix(thought, fmt))
        branch = Branch(0, len(ids) + len(prefix), suffix)
        (forced,) = engine.answers(
            engine.prefill([[*ids, *prefix]]), [branch], 1, fmt.max_answer_tokens, fmt.answer_stop_ids, sampling
        )
        completion = [*prefix, *suffix, *forced.ids[0]]
    text = tokenizer.decode(completion, skip_special_tokens=True)
    return {
        "text": text,
        "thought": tokenizer.decode(thought),
        "answer": text.rpartition(fmt.tokenizer.decode(list(fmt.close_ids)))[2],
        "thinking_tokens": len(thought),
        "stopped": stopped,
        "agreement": agreement,
    }


def _settled(answers: list[str], agreement: list[float], flat: float) -> int | None:
    """The first boundary behind two episodes that left the answer and raised its share by `flat` at most."""
    for j in range(2, len(answers)):
        if len(set(answers[j - 2 : j + 1])) == 1 and agreement[j] - agreement[j - 2] <= flat:
            return j
    return None
