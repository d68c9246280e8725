"""Search traces as rows of ids: the prompt of RL, attempts that the segmenter cuts, the close that probes force."""

from __future__ import annotations

from typing import Any

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.models.tiny import build_tokenizer
from mrt.reasoning.problems import Countdown
from mrt.reasoning.traces.prompts import forced_prefix, render, think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.traces.trial import read_trial
from mrt.reasoning.training.search_traces import WORDS, search_traces
from mrt.reasoning.training.trace_rows import trace_dataset
from tests.support.latex_tokenizer import latex_tokenizer

pytestmark = pytest.mark.training

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def countdown() -> Countdown:
    return Countdown(high=12, train=10, warmstart=400, test=10)


def plain_format() -> Any:
    """Of a model without think tags, like SmolLM2: it thinks in text."""
    tokenizer = latex_tokenizer(CHATML, added=())
    return think_format(tokenizer, tags=prepare_thinking(tokenizer))


def test_rows_of_the_tiny_model_begin_with_the_prompt_of_rl(countdown: Countdown) -> None:
    tokenizer = build_tokenizer()
    rows, statistics = trace_dataset(countdown, think_format(tokenizer), 200, attempts=(0, 4), seed=1)
    made = search_traces(countdown, 200, (0, 4), seed=1)
    assert rows.column_names == ["key", "prompt", "completion", "input_ids", "labels"]
    for row, (problem, trace) in zip(rows, made, strict=True):
        head = render(tokenizer, [{"role": "user", "content": problem.prompt}])
        assert row["input_ids"][: len(head)] == head
        assert row["labels"] == [-100] * len(head) + row["input_ids"][len(head) :]
        assert row["prompt"] + row["completion"] == tokenizer.decode(row["input_ids"])
        assert row["completion"] == f"{trace.thought}</think>\\boxed{{{trace.answer}}}<|end|>"
        assert row["input_ids"][-1] == tokenizer.eos_token_id
        assert row["key"] == problem.key
    assert statistics["hit_rate"] == sum(trace.hit for _, trace in made) / 200
    assert statistics["mean_attempts"] == sum(trace.attempts for _, trace in made) / 200
    lengths = [len(row) for row in rows["input_ids"]]
    assert statistics["max_tokens"] == max(lengths)
    assert statistics["mean_tokens"] == pytest.approx(sum(lengths) / 200 - 6)  # a prompt is six tokens


@pytest.mark.parametrize("tagged", [True, False], ids=["think tags", "thinking in text"])
def test_rows_in_words_are_what_rl_reads_and_forces(countdown: Countdown, tagged: bool) -> None:
    fmt = think_format(latex_tokenizer()) if tagged else plain_format()
    rows, _ = trace_dataset(countdown, fmt, 150, attempts=(0, 4), seed=1)
    made = search_traces(countdown, 150, (0, 4), seed=1, writing=WORDS)
    segment = make_segmenter("cues", min_paragraphs=0)
    hits = 0
    for row, (problem, trace) in zip(rows, made, strict=True):
        head = render(fmt.tokenizer, [{"role": "user", "content": problem.prompt}], tags=fmt.tags)
        assert row["input_ids"][: len(head)] == head
        assert row["labels"] == [-100] * len(head) + row["input_ids"][len(head) :]
        completion = row["input_ids"][len(head) :]
        assert completion[-1] == fmt.end_ids[0]
        assert fmt.split(completion)[1] is not None
        assert len(read_trial(completion, fmt, segment).ends) == trace.attempts
        written = fmt.tokenizer(trace.thought, add_special_tokens=False)["input_ids"]
        assert completion[: len(written)] == written
        close = forced_prefix(written, fmt, complete=True)
        assert completion[len(written) :][: len(close)] == close
        text = fmt.answer_part(completion)
        assert countdown.grade(problem, text, opened=True) == countdown.grade_answer(problem, trace.answer)
        hits += trace.hit
    assert hits > 20


def test_what_the_tokenizer_cannot_write_is_told(countdown: Countdown) -> None:
    tiny = think_format(build_tokenizer())
    for high, target_high in ((300, 99), (40, 300)):
        wide = Countdown(high=high, target_high=target_high, train=1, warmstart=20, test=1)
        with pytest.raises(ConfigError, match="the tiny model knows the numbers 0 to 99"):
            trace_dataset(wide, tiny, 20)
    with pytest.raises(ConfigError, match="no tokens"):
        trace_dataset(countdown, tiny, 20, "words")
    with pytest.raises(ConfigError, match="did you mean 'words'"):
        trace_dataset(countdown, tiny, 20, "word")
