"""Search traces as rows of token ids, in the format of the model that learns from them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from mrt.errors import ConfigError, nearest
from mrt.reasoning.problems.base import Problem, ProblemSet
from mrt.reasoning.training.backtrack_traces import backtrack_trace
from mrt.reasoning.training.search_traces import SIGNS, WORDS, SearchTrace, Writing, search_traces

if TYPE_CHECKING:
    from datasets import Dataset

    from mrt.reasoning.traces.prompts import ThinkFormat

WRITINGS = {"signs": SIGNS, "words": WORDS}
IGNORED = -100  # the label of a token that is not learned


def writing_of(name: str, fmt: ThinkFormat) -> Writing:
    """The writing called `name`; `auto` is words where the vocabulary has them, signs for the tiny model.

    Raises:
        ConfigError: for an unknown name.
    """
    from mrt.reasoning.traces.templates import writable

    if name == "auto":
        return WORDS if writable(fmt.tokenizer, WORDS.between + WORDS.wrong) else SIGNS
    if name not in WRITINGS:
        raise ConfigError(f"writing={name!r} is not possible here; {nearest(str(name), ('auto', *WRITINGS))}")
    return WRITINGS[name]


def trace_dataset(
    problem_set: ProblemSet,
    fmt: ThinkFormat,
    traces: int,
    writing: str = "auto",
    *,
    backtrack: str = "none",
    **options: Any,
) -> tuple[Dataset, dict[str, float]]:
    """Search traces as rows for TRL's SFTTrainer, and their statistics.

    Columns: key, prompt and completion (text, to be read), input_ids and labels (what is trained on; labels are -100
    over the prompt). The prompt's ids are those that `prompts.render` gives at RL time, exactly; the thought is closed
    and the answer opened as probes do it.

    Args:
        backtrack: none, or how backtracking traces are made (`backtrack_traces`), which are written in words.
        options: of `search_traces`.

    Returns:
        the dataset, and {"hit_rate", "mean_attempts", "mean_tokens" (completion), "max_tokens" (whole row)}.

    Raises:
        ConfigError: where the tokenizer cannot write a trace (the tiny one ends at 99, and has no words).
    """
    from datasets import Dataset

    columns: dict[str, list[Any]] = {name: [] for name in ("key", "prompt", "completion", "input_ids", "labels")}
    spelled = writing_of(writing, fmt)
    if backtrack != "none":
        if spelled is not WORDS:
            raise ConfigError(f"backtrack={backtrack} is written in words, which this tokenizer has not: another model")
        options["make"] = partial(backtrack_trace, variant=backtrack)
    made = search_traces(problem_set, traces, writing=spelled, **options)
    prompts: dict[str, tuple[list[int], str]] = {}
    tails = completions([trace for _, trace in made], fmt)
    texts = fmt.tokenizer.batch_decode(tails, clean_up_tokenization_spaces=False)
    for (problem, _), completion, tail in zip(made, texts, tails, strict=True):
        if problem.key not in prompts:
            prompts[problem.key] = _prompt(problem, fmt)
        head, text = prompts[problem.key]
        unknown = fmt.tokenizer.unk_token_id
        if (unknown is not None and unknown in (*head, *tail)) or problem.prompt not in text:
            raise ConfigError(
                f"the tokenizer has no tokens for {problem.prompt!r} or its trace: the tiny model knows the numbers 0 "
                "to 99 and the short prompt (lower the options high and target_high to 99, prompt=short)"
            )
        columns["key"].append(problem.key)
        columns["prompt"].append(text)
        columns["completion"].append(completion)
        columns["input_ids"].append([*head, *tail])
        columns["labels"].append([IGNORED] * len(head) + list(tail))
    statistics = {
        "hit_rate": sum(trace.hit for _, trace in made) / traces,
        "mean_attempts": sum(trace.attempts for _, trace in made) / traces,
        "mean_tokens": sum(map(len, tails)) / traces,
        "max_tokens": float(max(map(len, columns["input_ids"]))),
    }
    return Dataset.from_dict(columns), statistics


def completions(traces: Sequence[SearchTrace], fmt: ThinkFormat) -> list[list[int]]:
    """The ids of every trace behind its prompt: thought, the close of a finished thought, the boxed answer, the end of
    the turn.
    """
    from mrt.reasoning.traces.prompts import forced_prefix

    thoughts = _encoded([trace.thought for trace in traces], fmt)
    boxes = _encoded([fmt.answer_open_text + trace.answer + fmt.answer_close_text for trace in traces], fmt)
    closes: dict[int | None, list[int]] = {}  # by the last token of the thought, which decides
    rows = []
    for thought, box in zip(thoughts, boxes, strict=True):
        last = thought[-1] if thought else None
        if last not in closes:
            closes[last] = forced_prefix(thought[-1:], fmt, complete=True)
        rows.append([*thought, *closes[last], *box, *fmt.end_ids[:1]])
    return rows


def _encoded(texts: Sequence[str], fmt: ThinkFormat) -> list[list[int]]:
    return list(fmt.tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def _prompt(problem: Problem, fmt: ThinkFormat) -> tuple[list[int], str]:
    from mrt.reasoning.traces.prompts import render

    ids = render(fmt.tokenizer, [{"role": "user", "content": problem.prompt}], tags=fmt.tags)
    return ids, str(fmt.tokenizer.decode(ids, clean_up_tokenization_spaces=False))
