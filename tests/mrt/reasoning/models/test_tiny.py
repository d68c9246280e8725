"""The built-in model and tokenizer: what is saved is what is loaded, and text and ids stand for each other one to
one."""

import itertools
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from mrt.errors import ConfigError
from mrt.reasoning.models.tiny import SPECIAL, WORDS, build_model, build_tokenizer, number_waves, save_tiny
from mrt.reasoning.problems import Countdown
from mrt.reasoning.training.search_traces import search_traces

QUESTION = {"role": "user", "content": "3 5 7->22"}


@pytest.fixture(scope="module")
def tokenizer(tiny_dir: Path) -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(tiny_dir)


def encode(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_traces_survive_the_reloaded_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    built = build_tokenizer()
    problem_set = Countdown(high=20, train=10, warmstart=300, test=10, operations="+-*/")
    for problem, trace in search_traces(problem_set, 300, (0, 6)):
        completion = f"{trace.thought}</think>\\boxed{{{trace.answer}}}"
        text = f"<|user|>{problem.prompt}<think>{completion}<|end|>"
        ids = encode(tokenizer, text)
        assert ids == encode(built, text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == f"{problem.prompt}<think>{completion}"


def test_every_number_is_one_token_and_every_sign(tokenizer: PreTrainedTokenizerFast) -> None:
    pieces = [*map(str, range(100)), *WORDS, *SPECIAL]
    ids = [encode(tokenizer, piece) for piece in pieces]
    assert all(len(i) == 1 for i in ids)
    assert len({i[0] for i in ids}) == len(pieces) == len(tokenizer)
    assert [tokenizer.decode(i) for i in ids] == pieces
    example = "3 5 7->22<think>3*5=15,15+7=22~0✓\n\nWait"
    expected = ["▁3", "▁5", "▁7", "->22", "<think>"]
    expected += ["▁3", "*", "▁5", "=", "▁15", ",", "▁15", "+", "▁7", "=", "▁22", "~", "▁0", "✓", "\n\nWait"]
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, example)) == expected


def test_no_two_id_sequences_read_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    # Without the mark in the number tokens (1, 5) and (15,) would both read "15".
    numbers = [encode(tokenizer, str(n))[0] for n in (0, 1, 5, 15, 51, 50)]
    signs = [encode(tokenizer, sign)[0] for sign in ("+", "-", "(")]
    targets = [encode(tokenizer, target)[0] for target in ("->1", "->15")]
    sequences = [s for n in (1, 2, 3) for s in itertools.product([*numbers, *signs, *targets], repeat=n)]
    texts = {tokenizer.decode(list(sequence)) for sequence in sequences}
    assert len(texts) == len(sequences)
    # And back, save for a number right behind a target, which no prompt and no trace has.
    plain = [s for s in sequences if not any(a in targets and b in numbers for a, b in itertools.pairwise(s))]
    for sequence in random.Random(0).sample(plain, 200):
        assert encode(tokenizer, tokenizer.decode(list(sequence))) == list(sequence)


@pytest.mark.parametrize(
    "text",
    ["100", "123", "05", " 5", "5 ", "3 + 5", "1  5", "x", "\n", "\n\n", "▁5", "Wait", "²", "٣", "1.5", "\\boxed"],
)
def test_what_cannot_be_written_is_unknown_and_never_dropped(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.unk_token_id in encode(tokenizer, text)


def test_chat_template(tokenizer: PreTrainedTokenizerFast) -> None:
    def render(messages: list[dict[str, str]], **options: object) -> str:
        return tokenizer.apply_chat_template(messages, tokenize=False, **options)

    prompt = "<|user|>3 5 7->22<think>"
    assert render([QUESTION], add_generation_prompt=True) == prompt
    assert render([QUESTION], add_generation_prompt=True, enable_thinking=True) == prompt
    assert render([QUESTION], add_generation_prompt=True, enable_thinking=False) == prompt + "</think>"
    answer = {"role": "assistant", "content": "<think>3*5=15✗</think>\\boxed{3*5+7}"}
    whole = prompt + "3*5=15✗</think>\\boxed{3*5+7}<|end|>"
    assert render([QUESTION, answer]) == whole
    assert render([QUESTION, answer, QUESTION], add_generation_prompt=True) == whole + prompt
    parted = {"role": "assistant", "content": "\\boxed{3*5+7}", "reasoning_content": "3*5=15✗"}
    assert render([QUESTION, parted]) == whole
    ids = tokenizer.apply_chat_template([QUESTION], add_generation_prompt=True)["input_ids"]
    assert ids == encode(tokenizer, prompt)
    assert len(ids) == 6


def test_model_survives_saving(tiny_dir: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_dir)
    built = build_model(build_tokenizer())
    assert model.config.model_type == "qwen3"
    for (name, one), (_, other) in zip(model.named_parameters(), built.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    assert model.dtype == torch.float32
    assert 400_000 < model.num_parameters() < 600_000
    assert model.config.tie_word_embeddings
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.config.max_position_embeddings >= 512
    assert (tokenizer.eos_token, tokenizer.pad_token, tokenizer.unk_token) == ("<|end|>", "<pad>", "<unk>")
    for owner in (model.config, model.generation_config):
        assert (owner.eos_token_id, owner.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    generation = model.generation_config
    assert (generation.do_sample, generation.temperature, generation.top_k, generation.top_p) == (True, 1.0, 0, 1.0)


def test_eager_attention_gives_the_same(tiny_dir: Path) -> None:
    ids = torch.arange(3, 43)[None]
    with torch.no_grad():
        sdpa = AutoModelForCausalLM.from_pretrained(tiny_dir, attn_implementation="sdpa")(ids).logits
        eager = AutoModelForCausalLM.from_pretrained(tiny_dir, attn_implementation="eager")(ids).logits
    assert sdpa.shape == (1, 40, 220)
    torch.testing.assert_close(sdpa, eager, atol=1e-4, rtol=1e-4)


def test_weights_depend_on_the_seed_alone() -> None:
    tokenizer = build_tokenizer()
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = build_model(tokenizer, hidden=32, layers=1, heads=2, seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.manual_seed(6)
    second, third = (build_model(tokenizer, hidden=32, layers=1, heads=2, seed=seed) for seed in (1, 2))
    one, two, three = (m.model.layers[0].self_attn.q_proj.weight for m in (first, second, third))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(first.model.embed_tokens.weight, second.model.embed_tokens.weight)


def test_number_waves_keep_neighbours_near() -> None:
    waves = number_waves(128)
    assert waves.shape == (100, 128)
    assert waves.square().mean().item() == pytest.approx(1, abs=0.05)
    similar = torch.nn.functional.cosine_similarity(waves[50:51], waves)
    assert similar.argmax() == 50
    assert similar[51] > similar[57]
    assert len({tuple(row) for row in waves.tolist()}) == 100


@pytest.mark.parametrize("size", [{"hidden": 30, "heads": 4}, {"layers": 0}, {"heads": 0}])
def test_bad_sizes(tmp_path: Path, size: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="hidden divisible by 2 \\* heads"):
        save_tiny(tmp_path / "model", **size)
