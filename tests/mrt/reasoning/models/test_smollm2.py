"""SmolLM2-135M-Instruct from the package index (`make pretrained`): it loads by its short name, answers, and boundaries
are probed at the price of their own tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.models.gguf_files import gguf_file, resolve_model
from mrt.reasoning.models.loading import load_config, load_model, pad_id
from tests.support.processes import run_module

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any]:
    return load_model("smollm2")


def test_it_is_converted_into_a_plain_folder() -> None:
    folder = Path(resolve_model("smollm2"))
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config
    assert load_config("smollm2").vocab_size == 49_152
    assert resolve_model(str(gguf_file("smollm2"))) == str(folder)


def test_it_answers_a_chat(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}], add_generation_prompt=True, return_dict=False
    )
    engine = engine_on(model, pad_id(tokenizer))
    branch = Branch(0, len(prompt))
    (answer,) = engine.answers(
        engine.prefill([prompt]), [branch], 1, 24, [tokenizer.eos_token_id], sampling=Sampling(temperature=0)
    )
    assert "Paris" in tokenizer.decode(answer.ids[0])
    assert answer.stopped == [True]


def test_boundaries_agree_with_a_fresh_pass(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    texts = ["To add fractions, find a common denominator first. " * k for k in (3, 7)]
    rows = [tokenizer(text)["input_ids"] for text in texts]
    suffix, more = (tuple(tokenizer(one)["input_ids"]) for one in ("\nAnswer: ", "3/4 of it"))
    engine = engine_on(model, pad_id(tokenizer))
    branches = [Branch(row, cut, suffix) for row, ids in enumerate(rows) for cut in (5, len(ids) // 2, len(ids))]
    scores = engine.score(engine.prefill(rows), branches, [[more]] * len(branches))
    for branch, score in zip(branches, scores, strict=True):
        (fresh,) = engine.token_logprobs([[*rows[branch.row][: branch.cut], *suffix, *more]])
        assert float(score[0]) == pytest.approx(float(fresh[-len(more) :].sum()), abs=1e-3)


def test_memory_of_a_probe_is_that_of_keys_values_and_weights() -> None:
    """8 traces of 2,048 tokens at 6 boundaries, 4 answers each: at most 1.5 times."""
    done = run_module("evals.speed.memory", "smollm2", "8", "2048", timeout=1200)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratio"] <= 1.5, found


def test_it_takes_a_step_of_training(smollm2: tuple[Any, Any]) -> None:
    model, tokenizer = smollm2
    ids = torch.tensor([tokenizer("Two and two make four.")["input_ids"]])
    loss = model(ids, labels=ids).loss
    loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.zero_grad(set_to_none=True)
