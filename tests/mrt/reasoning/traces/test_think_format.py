"""One format from the tokenizer to the grader: every pair of tags, tags marked special, models without any."""

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.problems import Countdown, to_dataset
from mrt.reasoning.problems.reward import ProblemReward
from mrt.reasoning.traces.prompts import forced_prefix, render, think_format
from mrt.reasoning.traces.tags import PLAIN_TAGS, TAGS
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.think_reward import ThinkReward
from mrt.reasoning.training.trainer import MRTTrainer
from tests.support.latex_tokenizer import latex_tokenizer, small_llama

ASK = [{"role": "user", "content": "Numbers 3 4, target 7"}]
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHAT
COUNTDOWN = Countdown(numbers=2, high=9, train=0, warmstart=0, test=0)
DATA = '{"numbers": [3, 4], "target": 7, "operations": "+-*"}'


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def reward_of(tokenizer, fmt, ids):
    """The reward of a completion as a recipe gives it: texts as TRL decodes them, and the ids."""
    reward = ThinkReward(ProblemReward(COUNTDOWN), fmt)
    texts = [[{"role": "assistant", "content": tokenizer.decode(ids, skip_special_tokens=True)}]]
    columns = {"key": ["k"], "solution": ["3+4"], "data": [DATA]}
    return reward(prompts=[ASK], completions=texts, completion_ids=[ids], **columns)[0]


@pytest.mark.parametrize("special", [False, True], ids=["added", "marked special"])
@pytest.mark.parametrize("tags", TAGS, ids=[pair[1] for pair in TAGS])
def test_a_right_answer_behind_any_close_tag_is_paid(tags, special):
    opening, closing = tags
    template = CHAT.replace("assistant\n{% endif", f"assistant\n{opening}\n{{% endif") + f"{{# {closing} #}}"
    tokenizer = latex_tokenizer(template, added=tags, marked_special=special)
    fmt = think_format(tokenizer, tags=prepare_thinking(tokenizer))
    assert fmt.tags == tags
    thought, close = encode(tokenizer, "3+5? no, 3+4"), list(fmt.close_ids)
    answer = encode(tokenizer, "\n\nIt is \\boxed{3+4}.<|im_end|>")
    assert reward_of(tokenizer, fmt, [*thought, *close, *answer]) == 1.0
    assert reward_of(tokenizer, fmt, [*fmt.open_ids, *thought, *close, *answer]) == 1.0
    assert reward_of(tokenizer, fmt, [*thought, *forced_prefix(thought, fmt), *encode(tokenizer, "{3+4}")]) == 1.0
    assert reward_of(tokenizer, fmt, [*thought, *answer]) == 0.0  # never closed
    assert reward_of(tokenizer, fmt, [*answer, *close, *encode(tokenizer, "\\boxed{3+5}")]) == 0.0
    # The first close ends the thought, for the grader as for the episodes.
    again = [*thought, *close, *encode(tokenizer, "\\boxed{3+4}"), *close, *encode(tokenizer, " done")]
    assert reward_of(tokenizer, fmt, again) == 1.0
    assert fmt.split(again)[0] == thought
    spliced = [*thought, *close, *encode(tokenizer, "\\boxed{3+4} </th"), *close, *encode(tokenizer, "ink>")]
    assert reward_of(tokenizer, fmt, spliced) == 1.0


def test_a_template_that_opens_the_thought_and_never_writes_the_close():
    template = CHAT.replace("assistant\n{% endif", "assistant\n[THINK]\n{% endif")
    tokenizer = latex_tokenizer(template, added=())
    assert prepare_thinking(tokenizer) == ("[THINK]", "[/THINK]")
    fmt = think_format(tokenizer)
    assert fmt.opened_by_prompt
    assert tokenizer.decode(render(tokenizer, ASK)).count("[THINK]") == 1
    assert tokenizer.decode(list(fmt.close_ids)) == "[/THINK]"


@pytest.mark.parametrize("template", [CHAT, NO_SYSTEM, None], ids=["instruct", "no system role", "base"])
def test_a_model_without_tags_thinks_in_text(template, tmp_path):
    tokenizer = latex_tokenizer(template, added=())
    with pytest.raises(ConfigError, match="thinking=text"):
        prepare_thinking(tokenizer, "tags")
    assert prepare_thinking(tokenizer) == PLAIN_TAGS
    text = tokenizer.decode(render(tokenizer, ASK))
    assert text.endswith("<think>\n")
    assert "between <think> and </think>" in text
    assert "\\boxed{}" in text
    assert "Numbers 3 4" in text
    fmt = think_format(tokenizer)
    assert len(fmt.close_ids) > 1  # ordinary tokens
    assert fmt.opened_by_prompt
    ids = encode(tokenizer, "3+4 is 7</think>\n\n\\boxed{3+4}<|im_end|>")
    assert reward_of(tokenizer, fmt, ids) == 1.0
    # The template stands beside the checkpoint, and is found there again.
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert prepare_thinking(again) == prepare_thinking(again, "text") == PLAIN_TAGS
    assert render(again, ASK) == render(tokenizer, ASK)


def test_text_can_be_asked_for_and_unknown_modes_are_named():
    tokenizer = latex_tokenizer("qwen3")
    assert prepare_thinking(tokenizer) == PLAIN_TAGS
    assert "between" not in tokenizer.decode(render(tokenizer, ASK))
    assert prepare_thinking(tokenizer, "text") == PLAIN_TAGS
    assert "between" in tokenizer.decode(render(tokenizer, ASK))
    with pytest.raises(ConfigError, match="did you mean 'tags'"):
        prepare_thinking(tokenizer, "tag")
    with pytest.raises(ConfigError, match="the opening and the closing tag"):
        prepare_thinking(tokenizer, tags=["<plan>"])


@pytest.mark.parametrize(
    ("options", "closing"),
    [({}, "</think>"), ({"think_tags": ["<plan>", "</plan>"]}, "</plan>"), ({"thinking": "text"}, "</think>")],
    ids=["auto", "own tags", "text"],
)
def test_the_trainer_takes_tags_and_mode_from_its_arguments(tmp_path, options, closing):
    """GRPO with a thinking budget runs on an instruct model without think tags."""
    tokenizer = latex_tokenizer(CHAT, added=())
    problems = Countdown(numbers=2, high=9, train=8, warmstart=0, test=0)
    args = MRTConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_completion_length=60,
        thinking_budget=16, credit="outcome", probe="none", max_steps=1, use_cpu=True, report_to=[], save_strategy="no",
        top_k=0, **options,
    )  # fmt: skip
    trainer = MRTTrainer(
        model=small_llama(tokenizer), reward_funcs=lambda completions, **_: [float(len(c)) for c in completions],
        args=args, train_dataset=to_dataset(problems, "train"), processing_class=tokenizer,
    )  # fmt: skip
    assert trainer.rollout.fmt.tags[1] == closing
    trainer.train()
    rows = trainer.state.log_history
    assert any("cost/sampled" in row for row in rows)
