"""Every family of models through the whole way: prompt, thought, forced close, answer, grade, SFT rendering and back.

The templates are facts in tests/fixtures/templates, in wording of our own. The vocabularies are small ones that merge
braces, signs and digits as Qwen's does, or fall back to bytes as Gemma's does; real ones are in test_vocabularies.py.
"""

import importlib.util
from functools import cache
from pathlib import Path

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.grading.verdict import Grade, Verdict
from mrt.reasoning.problems.base import Problem
from mrt.reasoning.traces.prompts import answer_text, close_span, forced_prefix, render, think_format
from mrt.reasoning.traces.segmentation import join, make_segmenter, split
from mrt.reasoning.traces.tags import COMMAND, GEMMA_4, HARMONY, KIMI_K3, PLAIN_TAGS, TAGS
from mrt.reasoning.traces.templates import INSTRUCTION, apply, prepare_thinking
from mrt.reasoning.traces.trial import read_trial
from mrt.reasoning.training.sft import IGNORED, solution_rows
from tests.support.families import FAMILIES
from tests.support.graded import answered, behind, grader, reward
from tests.support.latex_tokenizer import ANSWERS

ASK = [{"role": "user", "content": "What is 3 + 4?"}]
THOUGHT = "3 + 4 is 8.\n\nWait, 3 + 4 is 7. So \\boxed{8} was wrong"
CUES = make_segmenter("cues", min_paragraphs=0)
BY_NAME = {family.name: family for family in FAMILIES}
WITH_TAGS = [family.name for family in FAMILIES if family.tags]
WITHOUT = [family.name for family in FAMILIES if not family.tags]
CASES = [(name, mode) for name in BY_NAME for mode in ("tags", "text", "auto") if mode != "tags" or name in WITH_TAGS]
TAGGED = [(name, mode) for name, mode in CASES if mode == "tags"]
READ = [(name, mode) for name, mode in CASES if mode != "auto"]  # auto is one of the other two: see below


@cache
def ready(name, mode):
    """(tokenizer, format) of a family that thinks in that mode."""
    tokenizer = BY_NAME[name].tokenizer()
    return tokenizer, think_format(tokenizer, tags=prepare_thinking(tokenizer, mode))


# --- which mode ----------------------------------------------------------------------------------------------------


def test_the_suite_is_as_wide_as_it_says():
    assert len(FAMILIES) >= 16
    assert len(WITH_TAGS) >= 12
    assert {family.tags for family in FAMILIES} >= {PLAIN_TAGS, HARMONY, KIMI_K3, GEMMA_4, COMMAND, None}


@pytest.mark.parametrize("name", WITH_TAGS)
def test_auto_finds_the_tags_of_the_family(name):
    family = BY_NAME[name]
    tokenizer, fmt = ready(name, "auto")
    assert fmt.tags == family.tags
    assert fmt == ready(name, "tags")[1]
    assert tokenizer.chat_template == family.tokenizer().chat_template
    assert fmt.opened_by_prompt == family.opened
    assert fmt.end_ids[0] == tokenizer.convert_tokens_to_ids(family.end)
    assert tokenizer.decode(fmt.forced_ids).startswith(family.close + "**Final Answer**\n\\boxed")


@pytest.mark.parametrize("name", WITHOUT)
def test_without_tags_the_modes_are_text_or_a_clear_error(name):
    tokenizer = BY_NAME[name].tokenizer()
    before = tokenizer.chat_template
    with pytest.raises(ConfigError, match=r"no think tags.*use a reasoning model.*thinking=text"):
        prepare_thinking(tokenizer, "tags")
    assert tokenizer.chat_template == before
    assert ready(name, "auto")[1] == ready(name, "text")[1]
    assert ready(name, "auto")[1].tags == PLAIN_TAGS


# --- the prompt ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mode"), READ)
def test_the_prompt_opens_the_thought_once_and_a_quick_one_closes_it(name, mode):
    tokenizer, fmt = ready(name, mode)
    opening, closing = fmt.tags
    head, tail = tokenizer.decode(render(tokenizer, ASK, tags=fmt.tags)).rsplit(ASK[0]["content"], 1)
    assert tail.count(opening) == 1
    assert tail.rstrip().endswith(opening)
    assert closing not in tail
    assert (INSTRUCTION in head + ASK[0]["content"]) == (mode == "text")
    quick = tokenizer.decode(render(tokenizer, ASK, thinking=False, tags=fmt.tags)).rsplit(ASK[0]["content"], 1)[1]
    assert quick.count(closing) == 1
    assert quick.rstrip().endswith(closing)
    assert quick.count(opening) == (name != "deepseek_v3_1" or mode == "text")  # it writes no empty thought


@pytest.mark.parametrize("name", [name for name in WITH_TAGS if BY_NAME[name].shows])
def test_a_turn_of_the_template_begins_with_the_prompt_and_is_read_as_trained(name):
    """What the model was trained on, as its template writes it: prompt, thought, answer, end of the turn."""
    tokenizer, fmt = ready(name, "tags")
    thought = THOUGHT.replace("\n\n", " ")
    fields = dict.fromkeys(("reasoning_content", "reasoning", "thinking"), thought)
    if name == "kimi_k2":  # keeps a thought only behind its last answer
        turn = tokenizer.decode(render(tokenizer, ASK)) + thought + "</think>It is \\boxed{7}<|im_end|>"
    else:
        turn = apply(tokenizer, [*ASK, {"role": "assistant", "content": "It is \\boxed{7}", **fields}])
    prompt = tokenizer.decode(render(tokenizer, ASK, tags=fmt.tags))
    assert turn.startswith(prompt)
    completion = behind(fmt, turn.removeprefix(prompt))
    written, answer = fmt.texts(completion)
    assert written.strip() == thought
    assert answer.startswith(("It is \\boxed{7}", "\nIt", "\n\nIt"))
    assert reward(fmt, completion) == 1.0


@pytest.mark.parametrize(
    ("name", "theirs"),
    [("qwen3", "qwen3"), ("r1_distill", "deepseek_r1_distill"), ("gpt_oss", "gptoss"), ("glm4", "glm4moe"),
     ("gemma3", "gemma3"), ("gemma4", "gemma4"), ("llama3_1", "llama3_1"), ("smollm2", "qwen2_5")],
)  # fmt: skip
def test_the_wording_here_is_read_as_the_published_template_is(name, theirs):
    """Format, prompt from the question on, and a turn are those of the copy that TRL ships."""
    package = importlib.util.find_spec("trl").submodule_search_locations[0]
    template = (Path(package) / "chat_templates" / f"{theirs}.jinja").read_text(encoding="utf-8")
    for mode in ("auto", "text"):
        tokenizer = BY_NAME[name].tokenizer()
        tokenizer.chat_template = template
        fmt = think_format(tokenizer, tags=prepare_thinking(tokenizer, mode))
        ours, same = ready(name, mode)
        assert fmt == same
        answer = {"role": "assistant", "content": "7"}
        for talk in (ASK, [*ASK, answer, *ASK]):
            texts = [one.decode(render(one, talk, tags=fmt.tags)) for one in (tokenizer, ours)]
            question, other = [text.partition(ASK[0]["content"])[2] for text in texts]
            assert question == other


def test_a_template_that_takes_no_plain_text_is_refused():
    tokenizer = BY_NAME["qwen3"].tokenizer()
    part = "{% for part in m.content %}{{ part.text }}{% endfor %}"
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>" + part + "<|im_end|>{% endfor %}"
    with pytest.raises(ConfigError, match=r"leaves out what the user says.*list of parts"):
        think_format(tokenizer)


# --- close, answer, grade ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mode"), READ)
@pytest.mark.parametrize("complete", [False, True], ids=["cut", "complete"])
def test_a_forced_close_leads_into_an_answer_that_is_graded(name, mode, complete):
    _, fmt = ready(name, mode)
    for text in (THOUGHT, THOUGHT + ".\n\n", ""):
        thought = behind(fmt, text)
        ids = answered(fmt, thought, "7", complete)
        head, answer = fmt.split(ids)
        assert head[: len(thought)] == thought
        assert fmt.tokenizer.decode(head[len(thought) :]).strip() == ""
        assert answer is not None
        written, _ = fmt.texts(ids)
        assert written.rstrip() == text.rstrip()
        assert answer_text(ids[len(thought) + len(forced_prefix(thought, fmt, complete)) :], fmt) == "7"
        assert reward(fmt, ids) == 1.0
        assert reward(fmt, answered(fmt, thought, "8", complete)) == 0.0
        plain = fmt.plain_text(ids)
        assert plain.startswith("<think>" + text.rstrip())
        assert plain.count("</think>") == plain.count("<think>") == 1
        assert fmt.answer_part(ids[len(head) :]).startswith("</think>")


@pytest.mark.parametrize(("name", "mode"), READ)
def test_a_thought_that_was_never_closed_is_never_an_answer(name, mode):
    _, fmt = ready(name, mode)
    right = behind(fmt, "So it is \\boxed{7}.")
    for ids in (
        right,
        [*fmt.open_ids, *right],
        [*right, fmt.end_ids[0]],
        [*fmt.open_ids, *right, *fmt.open_ids, *right],
    ):
        assert fmt.split(ids)[1] is None
        assert not read_trial(ids, fmt, CUES).closed
        assert reward(fmt, ids) == 0.0
        assert grader().grade(fmt.plain_text(ids), "7", opened=True).verdict is Verdict.TRUNCATED
    for n in range(1, len(fmt.close_ids)):  # a close tag of which the end is missing
        ids = [*right, *fmt.close_ids[:n], *right]
        assert fmt.split(ids)[1] is None
        assert reward(fmt, ids) == 0.0


@pytest.mark.parametrize(
    "left",
    [
        "<|end|><|start|>assistant<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>commentary<|message|>",
    ],
)
def test_a_channel_other_than_final_goes_on_thinking(left):
    _, fmt = ready("gpt_oss", "tags")
    first, second = behind(fmt, "It may be \\boxed{8}."), behind(fmt, left, "No, \\boxed{7}.")
    assert fmt.split([*first, *second]) == ([*first, *second], None)
    assert reward(fmt, [*first, *second]) == 0.0
    ids = [*first, *second, *fmt.close_ids, *behind(fmt, "It is \\boxed{7}."), fmt.end_ids[0]]
    assert fmt.split(ids)[0] == [*first, *second]
    assert reward(fmt, ids) == 1.0


@pytest.mark.parametrize(("name", "mode"), READ)
def test_the_first_close_tag_ends_the_thought_for_episodes_and_grader_alike(name, mode):
    """One rule for a further close tag in the answer: it is read as a blank."""
    _, fmt = ready(name, mode)
    thought, close = behind(fmt, "3 + 4 is 7."), list(fmt.close_ids)
    for texts, paid in ((("It is \\boxed{7}", " done"), 1.0), (("\\boxed{8}, sorry", "\\boxed{7}"), 1.0),
                        (("\\boxed{7}, sorry", "\\boxed{8}"), 0.0)):  # fmt: skip
        ids = [*thought, *close, *behind(fmt, texts[0]), *close, *behind(fmt, texts[1])]
        assert fmt.split(ids)[0] == thought
        assert read_trial(ids, fmt, CUES).thought == thought
        assert reward(fmt, ids) == paid
        assert fmt.plain_text(ids).count("</think>") == 1


def test_a_tag_in_ordinary_tokens_may_be_merged_with_what_stands_around_it():
    """`.</` and `>\\` are single tokens here: what they hold beside the tag belongs to thought and answer."""
    tokenizer, _ = ready("llama3_1", "text")
    tokenizer.add_tokens([".</", "think>\\", "}$.</think>\n\n"])
    fmt = think_format(tokenizer)
    for ids in (behind(fmt, "It is 7.</think>\\boxed{7}"), behind(fmt, "so $\\boxed{8}$.</think>\n\n\\boxed{7}")):
        assert close_span(ids, fmt)[1] - close_span(ids, fmt)[0] < len(fmt.close_ids)
        written, answer = fmt.texts(ids)
        assert written.endswith((".", "}$."))
        assert answer.lstrip() == "\\boxed{7}"
        assert reward(fmt, ids) == 1.0
    ready.cache_clear()


@pytest.mark.parametrize("name", ["granite3", "llama3_1"])
def test_a_forced_close_in_ordinary_tokens_is_spelt_as_the_vocabulary_spells_it(name):
    tokenizer, fmt = ready(name, "text")
    for form in (fmt.forced_ids, fmt.forced_line_ids, fmt.empty_ids):
        assert list(form) == behind(fmt, tokenizer.decode(form))


# --- SFT and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "mode"), READ)
def test_a_rendered_solution_is_read_back_with_the_same_ids(name, mode):
    tokenizer, fmt = ready(name, mode)
    problems = [
        Problem(str(n), "What is it?", answer, {"where": f"file.jsonl {n}"}) for n, answer in enumerate(ANSWERS)
    ]
    thoughts = {str(n): f"Let me see.\n\nWait, it may be {answer}.\n\nWait, it is." for n, answer in enumerate(ANSWERS)}
    rows = solution_rows(problems, thoughts, fmt)
    prompt = render(tokenizer, [{"role": "user", "content": "What is it?"}], tags=fmt.tags)
    for problem, row in zip(problems, rows, strict=True):
        ids, n = row["input_ids"], len(prompt)
        assert ids[:n] == prompt
        assert row["labels"] == [IGNORED] * n + ids[n:]
        trial = read_trial(ids[n:], fmt, CUES)
        assert trial.closed
        assert trial.start == 0
        episodes = split(trial.thought, trial.ends)
        assert join(episodes) == trial.thought == ids[n : n + len(trial.thought)]
        assert len(episodes) == 3
        assert [fmt.tokenizer.decode(one).strip()[:4] for one in episodes] == ["Let ", "Wait", "Wait"]
        assert fmt.tokenizer.decode(trial.thought).strip() == thoughts[problem.key]
        assert ids[-1] == fmt.end_ids[0]
        assert answer_text(ids[n + len(trial.thought) + len(fmt.complete_line_ids) :], fmt) == problem.solution
    assert reward(fmt, ids[n:], gold=problem.solution) == 1.0


@pytest.mark.parametrize("tags", TAGS, ids=[pair[0] for pair in TAGS])
def test_an_unclosed_thought_in_a_text_from_elsewhere_is_no_answer(tags):
    opening, closing = tags
    assert grader().grade(f"{opening}So \\boxed{{7}}", "7").verdict is Verdict.TRUNCATED
    assert grader().grade(f"{opening}So \\boxed{{8}}{closing}It is \\boxed{{7}}", "7").verdict is Verdict.CORRECT
    assert grader().grade(f"So \\boxed{{7}}{closing}It is \\boxed{{8}}", "7", opened=True).verdict is Verdict.WRONG


def test_the_grade_of_text_follows_the_same_rule():
    """A text from elsewhere is cut where ids are cut."""
    for text, verdict in (
        ("a</think>\\boxed{7}</think> done", Verdict.CORRECT),
        ("a</think>\\boxed{8}, sorry</think>\\boxed{7}", Verdict.CORRECT),
        ("a</think>\\boxed{7</think>}", Verdict.CORRECT),
        ("a</think> hm <think> \\boxed{7}", Verdict.CORRECT),
        ("<think>a \\boxed{7}", Verdict.TRUNCATED),
    ):
        grade = grader().grade(text, "7", opened=True)
        assert isinstance(grade, Grade)
        assert grade.verdict is verdict, text
