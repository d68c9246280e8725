"""The one-page program computes what the library computes."""

import importlib.util

import pytest
import torch

from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.models.tiny import build_model, build_tokenizer, save_tiny
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.gold import Gold
from mrt.reasoning.traces.prompts import think_format
from mrt.reasoning.traces.segmentation import make_segmenter
from tests.support import ROOT


@pytest.fixture(scope="module")
def hello():
    spec = importlib.util.spec_from_file_location("hello", ROOT / "recipes" / "hello.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_stop_values_and_boundaries_are_the_librarys(hello):
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, hidden=32, layers=2, heads=2)
    solutions = ["(3+5)-4", "3+5-4", "3+(5-4)"]
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "3 4 5->4"}], add_generation_prompt=True
    )["input_ids"]  # fmt: skip
    thought = tokenizer("3*5=15,15-4=11~7✗\n\nWait3+5=8,8-4=4~0✓")["input_ids"]
    cuts = [0, *hello.boundaries(thought, tokenizer("\n\nWait")["input_ids"][0])]
    segment = make_segmenter("cues", min_paragraphs=0)
    assert cuts[1:] == segment(thought, tokenizer)
    ours = hello.stop_value(model, tokenizer, [[*prompt, *thought[:cut]] for cut in cuts], solutions)
    trace = Trace(tuple(prompt), tuple(thought), tuple(cuts), {"solutions": solutions}, complete=True)
    (probed,) = Gold()(TransformersEngine(model, tokenizer.pad_token_id), think_format(tokenizer), [trace], None)
    assert torch.allclose(ours.double(), torch.tensor(probed.values, dtype=torch.float64), rtol=1e-4, atol=1e-9)


def test_it_runs_and_changes_the_model(hello, tmp_path, capsys):
    path = save_tiny(tmp_path / "model", hidden=32, layers=2, heads=2)
    hello.PROBLEMS, hello.TOKENS = 2, 12
    model = hello.main(str(path), steps=2, learning_rate=1e-2, seed=0)
    assert capsys.readouterr().out.count("accuracy 0.") == 2
    before = dict(build_model(build_tokenizer(), hidden=32, layers=2, heads=2).named_parameters())
    moved = [not torch.equal(value, before[name]) for name, value in model.named_parameters()]
    assert any(moved)
