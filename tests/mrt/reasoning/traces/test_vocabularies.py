"""The whole way on the vocabularies that people train (`make pretrained`): Qwen's, Mistral's two, SmolLM2's.

One way covers a family on its own vocabulary; what no family adds is in test_conformance.py. The spelling of answers is
in test_spelling.py, which takes these vocabularies too.
"""

import pytest

from mrt.errors import ConfigError
from mrt.reasoning.models.loading import load_tokenizer
from mrt.reasoning.problems.base import Problem
from mrt.reasoning.traces.prompts import answer_end, answer_text, forced_prefix, render, think_format
from mrt.reasoning.traces.segmentation import join, make_segmenter, split
from mrt.reasoning.traces.templates import INSTRUCTION, encode_behind, prepare_thinking
from mrt.reasoning.traces.trial import read_trial
from mrt.reasoning.training.sft import solution_rows
from tests.support.families import FAMILIES
from tests.support.graded import answered, behind, reward
from tests.support.latex_tokenizer import ANSWERS
from tests.support.vocabularies import vocabulary

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(1200)]

OWN = {
    "qwen": ("qwen3", "qwen3_thinking", "qwen2_5_math", "qwq", "r1_distill"),
    "tekken": ("magistral",),
    "mistral": ("mistral",),
    "smollm2": ("smollm2",),
}
FAMILY = {family.name: family for family in FAMILIES}
THOUGHT = "We try.\n\nWait, let x = \\frac{3}{4}: 4x is 3, and $x+\\frac{1}{4}$ is 1.\n\nWait, 等等 — so é is 7"
GOLDS = (*ANSWERS, r"\dfrac{7}{12}", r"-\sqrt{5}", r"x^{2}+1", r"120^\circ", r"\left(\frac{1}{2}, -3\right)", "1000")


@pytest.mark.parametrize(("own", "name"), [(own, name) for own, names in OWN.items() for name in names])
def test_the_whole_way_of_a_family_on_its_own_vocabulary(own, name):
    family = FAMILY[name]
    tokenizer = family.tokenizer(vocabulary(own))
    for mode in ("auto", "text"):
        fmt = think_format(tokenizer, tags=prepare_thinking(tokenizer, mode))
        assert fmt.tags == (family.tags if family.tags and mode == "auto" else ("<think>", "</think>"))
        prompt = tokenizer.decode(render(tokenizer, [{"role": "user", "content": "What is 7?"}], tags=fmt.tags))
        assert prompt.rstrip().endswith(fmt.tags[0])
        for text in (THOUGHT, THOUGHT + ".\n\n", ""):
            (thought,) = encode_behind(tokenizer, [text])
            assert tokenizer.decode([*behind(fmt, "a"), *thought])[1:] == text
            for complete in (False, True):
                ids = answered(fmt, thought, "7", complete)
                assert fmt.texts(ids)[0].rstrip() == text.rstrip()
                assert reward(fmt, ids) == 1.0
                assert reward(fmt, answered(fmt, thought, "8", complete)) == 0.0
                assert reward(fmt, [*thought, *behind(fmt, "\\boxed{7}"), fmt.end_ids[0]]) == 0.0
    _read_back(fmt)


def test_smollm2_thinks_in_text_by_its_own_template():
    vocabulary("smollm2")  # skips where it is not installed
    tokenizer = load_tokenizer("smollm2")
    with pytest.raises(ConfigError, match="thinking=text"):
        prepare_thinking(tokenizer, "tags")
    fmt = think_format(tokenizer, tags=prepare_thinking(tokenizer))
    prompt = tokenizer.decode(render(tokenizer, [{"role": "user", "content": "What is 7?"}], tags=fmt.tags))
    assert INSTRUCTION in prompt
    assert prompt.endswith("assistant\n<think>\n")
    (thought,) = encode_behind(tokenizer, [THOUGHT])
    assert reward(fmt, answered(fmt, thought, "7")) == 1.0
    _read_back(fmt)


def _read_back(fmt):
    """What SFT is trained on is read as it was written, whatever merges with what."""
    problems = [Problem(str(n), "What is it?", gold, {"where": f"file {n}"}) for n, gold in enumerate(GOLDS)]
    thoughts = {
        str(n): f"Let me see.\n\nWait, $x$ is {gold}$.\n\nWait, \\frac{{1}}{{2}}" for n, gold in enumerate(GOLDS)
    }
    start = len(render(fmt.tokenizer, [{"role": "user", "content": "What is it?"}], tags=fmt.tags))
    for problem, row in zip(problems, solution_rows(problems, thoughts, fmt), strict=True):
        ids = row["input_ids"][start:]
        trial = read_trial(ids, fmt, make_segmenter("cues", min_paragraphs=0))
        assert trial.closed
        episodes = split(trial.thought, trial.ends)
        assert join(episodes) == trial.thought == ids[: len(trial.thought)]
        assert len(episodes) == 3
        assert fmt.tokenizer.decode(trial.thought).strip() == thoughts[problem.key]
        thought = behind(fmt, thoughts[problem.key])
        answer = ids[len(thought) + len(forced_prefix(thought, fmt, complete=True)) :]
        assert answer_text(answer, fmt) == problem.solution
        assert answer_end(answer, fmt) == len(answer) - 1  # behind it the end of the turn
        assert reward(fmt, ids, gold=problem.solution) == 1.0
