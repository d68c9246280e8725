import importlib.util
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from mrt.errors import ConfigError
from mrt.reasoning.models.tiny import build_tokenizer
from mrt.reasoning.traces.prompts import (
    answer_end,
    answer_text,
    close_span,
    forced_prefix,
    render,
    think_format,
    thought_span,
)
from tests.support import FIXTURES

TEMPLATES = FIXTURES / "templates"
TEXT = "Wait, let me think.\n\nThe answer is \\boxed{12}. Then 3 + 4 = 7.\n\n**Final Answer**\n"
ASK = [{"role": "user", "content": "3 + 4?"}]
SENTENCE = (
    "Time is up.\n\nGiven the time I've spent and the approaches I've tried, I should stop thinking and formulate a "
    "final answer based on what I already have."
)
STEPS = "\n\n**Step-by-Step Explanation and Answer:**\n\n1. **"


def byte_level(template, special=(), added=("<think>", "</think>"), **names):
    """A small byte-level BPE tokenizer with the added tokens and the chat template of a family."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 4, trainer)
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in added])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.chat_template = template
    return fast


def qwen3(**options):
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    return byte_level((TEMPLATES / "qwen3.jinja").read_text(), special, eos_token="<|im_end|>", **options)


def r1_distill(**options):
    bos, eos = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    special = (bos, eos, "<｜User｜>", "<｜Assistant｜>")
    template = (TEMPLATES / "r1_distill.jinja").read_text()
    return byte_level(template, special, bos_token=bos, eos_token=eos, **options)


def tags_of_several_tokens():
    return qwen3(added=())


def tiny():
    return build_tokenizer()


FAMILIES = [qwen3, r1_distill, tiny, tags_of_several_tokens]
WITH_NEWLINES = [qwen3, r1_distill, tags_of_several_tokens]


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def names(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(list(ids))


# --- the forced close ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("style", ["short", "paper"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_forced_completion_has_exactly_one_close(family, style):
    tokenizer = family()
    fmt = think_format(tokenizer, style)
    thought = encode(tokenizer, "7+15")
    for part in ([], thought, thought[:1]):
        for complete in (False, True):
            completion = [*part, *forced_prefix(part, fmt, complete)]
            assert tokenizer.decode([*render(tokenizer, ASK), *completion]).count("</think>") == 1
            assert tokenizer.decode([*render(tokenizer, ASK), *completion]).count("<think>") == 1
            start, close = thought_span(completion, fmt)
            assert start == 0
            assert close is not None
            assert completion[: len(part)] == part
    assert tokenizer.decode(fmt.forced_ids).count("</think>") == 1
    assert fmt.forced_ids[-len(fmt.answer_lead_ids) or len(fmt.forced_ids) :] == fmt.answer_lead_ids


def test_the_tiny_tokenizer_adds_nothing_that_it_cannot_write():
    tokenizer = tiny()
    fmt = think_format(tokenizer)
    assert fmt.opened_by_prompt
    assert names(tokenizer, fmt.open_ids) == ["<think>"]
    assert names(tokenizer, fmt.close_ids) == ["</think>"]
    for form in (fmt.forced_ids, fmt.forced_line_ids, fmt.complete_ids, fmt.complete_line_ids, fmt.empty_ids):
        assert names(tokenizer, form) == ["</think>", "\\boxed{"]
    assert names(tokenizer, fmt.answer_lead_ids) == ["\\boxed{"]
    assert names(tokenizer, fmt.answer_stop_ids) == ["}", "<|end|>"]
    assert fmt.answer_close_text == "}"
    paper = think_format(tokenizer, "paper")
    assert names(tokenizer, paper.forced_ids) == ["</think>"]
    assert names(tokenizer, paper.answer_stop_ids) == ["<|end|>"]


@pytest.mark.parametrize("family", WITH_NEWLINES)
def test_short_form_by_how_the_thought_ends(family):
    tokenizer = family()
    fmt = think_format(tokenizer)
    close = "</think>\n\n**Final Answer**\n\\boxed{"
    assert tokenizer.decode(fmt.forced_ids) == "\n" + close
    assert tokenizer.decode(fmt.answer_lead_ids) == "\n\n**Final Answer**\n\\boxed{"
    assert fmt.max_answer_tokens == 128
    for text in ("so 3 + 4", "Then 7.\n\n", "Wait"):  # in the middle of a sentence, at the end of a paragraph
        thought = encode(tokenizer, text)
        newline = "" if text.endswith("\n") else "\n"
        assert tokenizer.decode(forced_prefix(thought, fmt)) == newline + close
        assert tokenizer.decode(forced_prefix(thought, fmt, complete=True)) == newline + close
    assert forced_prefix(encode(tokenizer, "so"), fmt) == list(fmt.forced_ids)


@pytest.mark.parametrize("family", WITH_NEWLINES)
def test_paper_form_by_how_the_thought_ends(family):
    tokenizer = family()
    fmt = think_format(tokenizer, "paper")
    close = "\n</think>" + STEPS
    cut, line = encode(tokenizer, "so 3 + 4"), encode(tokenizer, "Then 7.\n\n")
    assert tokenizer.decode(fmt.forced_ids) == "\n\n" + SENTENCE + close
    assert forced_prefix(cut, fmt) == list(fmt.forced_ids)
    assert tokenizer.decode(forced_prefix(line, fmt)) == SENTENCE + close
    assert tokenizer.decode(forced_prefix(cut, fmt, complete=True)) == "\n</think>\n\n"
    assert tokenizer.decode(forced_prefix(line, fmt, complete=True)) == "</think>\n\n"
    assert tokenizer.decode(forced_prefix([], fmt, complete=True)) == "\n</think>\n\n"
    assert tokenizer.decode(fmt.answer_lead_ids) == STEPS
    assert fmt.answer_close_text == ""
    assert fmt.max_answer_tokens > 128


@pytest.mark.parametrize("family", WITH_NEWLINES)
@pytest.mark.parametrize(("style", "inside"), [("short", "\n\n"), ("paper", f"\n{SENTENCE}\n")])
def test_an_empty_thought_is_closed_as_templates_write_one(family, style, inside):
    tokenizer = family()
    fmt = think_format(tokenizer, style)
    text = tokenizer.decode([*render(tokenizer, ASK), *forced_prefix([], fmt)])
    assert f"<think>{inside}</think>\n\n**" in text


def test_newlines_are_the_templates_own():
    def spaced(before, after):  # a family that writes its thoughts in another shape
        template = (TEMPLATES / "qwen3.jinja").read_text()
        return template.replace("'\\n</think>\\n\\n' + content", f"'{before}</think>{after}' + content")

    glm = qwen3()
    glm.chat_template = spaced("", "\\n")
    assert glm.decode(think_format(glm).forced_ids).startswith("</think>\n**Final")
    glm.chat_template = spaced(" ", " ")
    assert glm.decode(think_format(glm).forced_ids).startswith(" </think> **Final")
    glm.chat_template = (  # takes the thought in a field of its own only
        "{% for m in messages %}{{ m.role }}"
        "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>\\n' }}{% endif %}"
        "{{ m.content.split('</think>')[-1] + '<|im_end|>' }}{% endfor %}"
    )
    assert glm.decode(think_format(glm).forced_ids).startswith("</think>\n**Final")


# --- prompts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_prompt_opens_the_thought_exactly_once(family):
    tokenizer = family()
    fmt = think_format(tokenizer)
    text = tokenizer.decode(render(tokenizer, ASK))
    assert text.count("<think>") == 1
    assert text.rstrip().endswith("<think>")
    assert "</think>" not in text
    assert fmt.opened_by_prompt == (family in (r1_distill, tiny))


def test_prompts_of_the_families():
    assert qwen3().decode(render(qwen3(), ASK)) == "<|im_start|>user\n3 + 4?<|im_end|>\n<|im_start|>assistant\n<think>"
    r1 = r1_distill()
    assert r1.decode(render(r1, ASK)) == "<｜begin▁of▁sentence｜><｜User｜>3 + 4?<｜Assistant｜><think>\n"


@pytest.mark.parametrize("family", WITH_NEWLINES)
def test_without_thinking_the_prompt_holds_an_empty_closed_thought(family):
    tokenizer = family()
    text = tokenizer.decode(render(tokenizer, ASK, thinking=False))
    assert text.endswith("<think>\n\n</think>\n\n")
    assert text.count("<think>") == text.count("</think>") == 1


def test_without_thinking_the_tiny_prompt_is_closed_too():
    assert tiny().decode(render(tiny(), [{"role": "user", "content": "7"}], thinking=False)).endswith("<think></think>")


def test_a_template_that_thinks_only_when_asked_is_asked():
    tokenizer = qwen3()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "enable_thinking is defined and enable_thinking is false", "not enable_thinking | default(false)"
    )
    assert tokenizer.apply_chat_template(ASK, tokenize=False, add_generation_prompt=True).endswith("</think>\n\n")
    assert tokenizer.decode(render(tokenizer, ASK)).endswith("assistant\n<think>")


def test_a_template_that_never_thinks_is_refused():
    tokenizer = qwen3()
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "enable_thinking is defined and enable_thinking is false", "true"
    )
    for call in (lambda: think_format(tokenizer), lambda: render(tokenizer, ASK)):
        with pytest.raises(ConfigError, match="use the template of the model's thinking variant"):
            call()
    assert tokenizer.decode(render(tokenizer, ASK, thinking=False)).count("<think>") == 1


def test_history_keeps_its_shape():
    talk = [*ASK, {"role": "assistant", "content": "<think>\nhm\n</think>\n\n7"}, *ASK]
    for tokenizer in (qwen3(), r1_distill()):
        text = tokenizer.decode(render(tokenizer, talk))
        assert "hm" not in text
        assert text.count("<think>") == 1


def test_refused_messages_name_the_roles():
    tokenizer = qwen3()
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}</think>"
    with pytest.raises(ConfigError, match="refuses the roles user, user: roles must alternate"):
        render(tokenizer, [*ASK, *ASK])


# --- what a tokenizer lacks ----------------------------------------------------------------------------------------

PLAIN = "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"


def test_without_think_tags_the_error_names_the_cure():
    tokenizer = byte_level(PLAIN, ("<|im_end|>",), added=(), eos_token="<|im_end|>")
    for call in (think_format, lambda t: render(t, ASK)):
        with pytest.raises(
            ConfigError, match=r"no think tags.*use a reasoning model .*or a chat template with <think>"
        ):
            call(tokenizer)


def test_without_a_chat_template_the_error_names_the_cure():
    with pytest.raises(ConfigError, match="no chat template: use an instruction-tuned model, or give it one"):
        think_format(byte_level(None))


def test_an_unknown_style():
    with pytest.raises(ConfigError, match="'short' and 'paper'"):
        think_format(qwen3(), "long")


def test_tags_from_the_vocabulary_and_your_own():
    tokenizer = byte_level(PLAIN, ("<|im_end|>",), added=("[THINK]", "[/THINK]"), eos_token="<|im_end|>")
    assert names(tokenizer, think_format(tokenizer).close_ids) == ["[/THINK]"]
    own = think_format(tokenizer, tags=("<plan>", "</plan>"))
    assert tokenizer.decode(own.close_ids) == "</plan>"
    assert tokenizer.decode(render(tokenizer, ASK, tags=("<plan>", "</plan>"))).endswith("<plan>")


def test_the_template_goes_before_the_vocabulary():
    tokenizer = qwen3(added=("<think>", "</think>", "<thought>", "</thought>"))
    tokenizer.chat_template = tokenizer.chat_template.replace("think>", "thought>")
    assert names(tokenizer, think_format(tokenizer).close_ids) == ["</thought>"]


# --- where the thought is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WITH_NEWLINES)
def test_thought_span(family):
    tokenizer = family()
    fmt = think_format(tokenizer)
    opening, thought, answer = list(fmt.open_ids), encode(tokenizer, "3 + 4 = 7.\n"), encode(tokenizer, "\n\n7")
    close, n = list(fmt.close_ids), len(thought)
    assert thought_span([*thought, *close, *answer], fmt) == (0, n)
    assert thought_span(thought, fmt) == (0, None)
    assert thought_span([*close, *answer], fmt) == (0, 0)
    assert thought_span([], fmt) == (0, None)
    assert thought_span([*opening, *thought, *close, *answer], fmt) == (len(opening), len(opening) + n)
    assert thought_span([*opening, *close], fmt) == (len(opening), len(opening))
    assert thought_span([*thought, *opening, *close], fmt) == (0, n + len(opening))
    assert thought_span([*thought, *close, *answer, *close], fmt) == (0, n)  # the first close ends it
    assert close_span([*thought, *close, *answer], fmt) == (n, n + len(close))


def test_a_close_spelt_in_other_tokens_is_found_in_the_text():
    tokenizer = tags_of_several_tokens()
    fmt = think_format(tokenizer)
    ids = [tokenizer.convert_tokens_to_ids(c) for c in "7.</think>7"]
    assert ids[2:-1] != list(fmt.close_ids)
    assert thought_span(ids, fmt) == (0, 2)
    assert close_span(ids, fmt) == (2, 10)
    assert close_span(ids[:-2], fmt) is None


# --- published templates -------------------------------------------------------------------------------------------


def published(name):
    """A published chat template, from the copies that TRL ships."""
    package = importlib.util.find_spec("trl").submodule_search_locations[0]
    return (Path(package) / "chat_templates" / f"{name}.jinja").read_text()


@pytest.mark.parametrize(("family", "name"), [(qwen3, "qwen3"), (r1_distill, "deepseek_r1_distill")])
def test_fixtures_render_as_the_published_templates(family, name):
    ours, theirs = family(), family()
    theirs.chat_template = published(name)
    answer = {"role": "assistant", "content": "<think>\nhm\n</think>\n\n7"}
    for talk in (ASK, [{"role": "system", "content": "Be brief."}, *ASK], [*ASK, answer], [*ASK, answer, *ASK]):
        for options in ({}, {"add_generation_prompt": True}, {"add_generation_prompt": True, "enable_thinking": False}):
            assert ours.apply_chat_template(talk, tokenize=False, **options) == theirs.apply_chat_template(
                talk, tokenize=False, **options
            )
    assert think_format(theirs) == think_format(ours)


@pytest.mark.parametrize(
    ("name", "end_of_prompt", "close"),
    [
        ("qwen3_5_nothink", "assistant\n<think>\n", "\n</think>\n\n"),
        ("glm4moe", "<|assistant|>\n<think>", "</think>\n"),
        ("deepseekv3", "<｜Assistant｜><think>\n", "\n</think>\n\n"),
        ("nemotron_3_nano", "assistant\n<think>\n", "\n</think>\n"),
    ],
)
def test_other_published_templates(name, end_of_prompt, close):
    tokenizer = qwen3()
    tokenizer.chat_template = published(name)
    text = tokenizer.decode(render(tokenizer, ASK))
    assert text.endswith(end_of_prompt)
    assert text.count("<think>") == 1
    assert tokenizer.decode(think_format(tokenizer).forced_ids) == close + "**Final Answer**\n\\boxed{"


# --- the answer ----------------------------------------------------------------------------------------------------


def test_stop_ids_of_the_families():
    """Where braces nest, `}` alone does not end an answer, and answer_end does."""
    assert names(qwen3(), think_format(qwen3()).answer_stop_ids) == ["<|im_end|>", "<|endoftext|>"]
    assert names(r1_distill(), think_format(r1_distill()).answer_stop_ids) == ["<｜end▁of▁sentence｜>"]
    base = qwen3()
    base.eos_token = "<|endoftext|>"  # as the base models have it
    assert names(base, think_format(base).end_ids) == ["<|im_end|>", "<|endoftext|>"]
    with pytest.raises(ConfigError, match=r"set tokenizer\.eos_token"):
        think_format(byte_level(PLAIN.replace("<|im_end|>", "")))


@pytest.mark.parametrize(
    ("written", "answer"),
    [
        ("12}. Then", "12"),
        ("\\frac{1}{2}}\n\n", "\\frac{1}{2}"),
        ("\\frac{1}{\\sqrt{2}}}", "\\frac{1}{\\sqrt{2}}"),
        ("\\{1, 2\\}} and", "\\{1, 2\\}"),
        ("\\left\\{x}", "\\left\\{x"),
        ("1\\\\}2", "1\\\\"),
        ("}", ""),
        ("12", "12"),
        ("é等}", "é等"),
        ("12<|im_end|>}", "12"),
        ("", ""),
    ],
)
def test_the_answer_ends_where_its_box_closes(written, answer):
    tokenizer = qwen3()
    fmt = think_format(tokenizer)
    ids = encode(tokenizer, written)
    assert answer_text(ids, fmt) == answer
    end = answer_end(ids, fmt)
    if written in ("12", ""):
        assert end is None
    else:
        assert answer_text(ids[:end], fmt) == answer
        assert answer_end(ids[: end - 1], fmt) is None


def test_a_brace_merged_with_other_text_closes_the_box():
    tokenizer = qwen3()
    assert len(encode(tokenizer, "}.")) == 1  # learned from the training text
    fmt = think_format(tokenizer)
    ids = [*encode(tokenizer, "12"), *encode(tokenizer, "}."), *encode(tokenizer, " Then}")]
    assert answer_text(ids, fmt) == "12"
    assert ids[: answer_end(ids, fmt)] == encode(tokenizer, "12") + encode(tokenizer, "}.")


def test_the_tiny_answer_and_the_free_answer():
    tokenizer = tiny()
    ids = encode(tokenizer, "7+15}")
    assert answer_text(ids, think_format(tokenizer)) == "7+15"
    assert answer_end(ids, think_format(tokenizer)) == len(ids)
    one_five = tokenizer.convert_tokens_to_ids(["▁1", "▁5"])
    assert answer_text(one_five, think_format(tokenizer)) == "1 5"  # as the tokenizer decodes it, never 15
    free = think_format(qwen3(), "paper")
    ids = encode(qwen3(), "Add: \\boxed{7}.<|im_end|>more")
    assert answer_text(ids, free) == "Add: \\boxed{7}."
    assert answer_end(ids, free) == len(encode(qwen3(), "Add: \\boxed{7}.")) + 1
