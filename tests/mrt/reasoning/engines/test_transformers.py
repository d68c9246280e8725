"""What the engine computes on shared keys and values equals what a fresh forward pass computes, and is counted."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.sampling import WIDE, Sampling, draw, pick
from mrt.reasoning.engines.streams import Streams
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.engines.trie import Trie

pytestmark = pytest.mark.training

VOCAB = 24


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=64, head_dim=16, max_position_embeddings=128, initializer_range=0.3,
    )  # fmt: skip
    return Qwen3ForCausalLM(config)


@pytest.fixture(scope="module")
def rows():
    gen = torch.Generator().manual_seed(1)
    return [torch.randint(1, VOCAB, (length,), generator=gen).tolist() for length in (9, 14, 5)]


BRANCHES = [Branch(0, 4, (7, 3)), Branch(1, 14, (7, 3)), Branch(1, 6, (7, 3, 5)), Branch(2, 1, (7,))]


def fresh_logprobs(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double().log_softmax(-1)


def rescored(model, prefix_ids, ids):
    full = fresh_logprobs(model, [*prefix_ids, *ids])
    start = len(prefix_ids)
    return [float(full[start + i - 1, token]) for i, token in enumerate(ids)]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_sampled_answers_carry_the_logprobs_of_a_fresh_prefill(model, rows, attention):
    model.set_attn_implementation(attention)
    engine = TransformersEngine(model, pad_id=0)
    torch.manual_seed(2)
    answers = engine.answers(engine.prefill(rows), BRANCHES, n=5, max_new_tokens=6, stop_ids=[1, 2])
    for branch, answer in zip(BRANCHES, answers, strict=True):
        assert len(answer.ids) == 5
        for ids, logprobs, stopped in zip(answer.ids, answer.logprobs, answer.stopped, strict=True):
            assert 1 <= len(ids) <= 6
            assert stopped == (ids[-1] in (1, 2))
            assert not any(token in (1, 2) for token in ids[:-1])
            expected = rescored(model, [*rows[branch.row][: branch.cut], *branch.suffix], ids)
            assert logprobs == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_scores_equal_a_fresh_prefill_of_every_continuation(model, rows, attention):
    model.set_attn_implementation(attention)
    engine = TransformersEngine(model, pad_id=0)
    continuations = [[4, 5, 6], [4, 5, 7], [4, 8], [9], [4, 5, 6, 10, 11]]
    scores = engine.score(engine.prefill(rows), BRANCHES, [continuations] * len(BRANCHES))
    for branch, score in zip(BRANCHES, scores, strict=True):
        prefix = [*rows[branch.row][: branch.cut], *branch.suffix]
        expected = [sum(rescored(model, prefix, c)) for c in continuations]
        assert score.tolist() == pytest.approx(expected, abs=1e-5)


CONTINUATIONS = [[4, 5, 6], [4, 5, 7], [4, 8], [9], [4, 5, 6, 10, 11], [10, 4, 4]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_level_by_level_nothing_is_lost_without_something_to_let_go(model, rows, attention):
    model.set_attn_implementation(attention)
    engine = TransformersEngine(model, pad_id=0)
    prefix = engine.prefill(rows)
    exact = engine.score(prefix, BRANCHES, [CONTINUATIONS] * len(BRANCHES))
    levels = engine.score(prefix, BRANCHES, [CONTINUATIONS] * len(BRANCHES), tolerance=1e-300)
    assert torch.allclose(torch.stack(exact), torch.stack(levels), atol=1e-5)


@pytest.mark.parametrize("tolerance", [0.001, 0.01, 0.1, 0.5])
def test_what_is_let_go_stays_within_the_tolerance_and_saves_positions(model, rows, tolerance):
    """Many random continuations: every sum is low by at most the tolerance, and the more is let go the less runs."""
    generator = torch.Generator().manual_seed(5)
    many = [[torch.randint(1, VOCAB, (4,), generator=generator).tolist() for _ in range(60)] for _ in BRANCHES]
    engine = TransformersEngine(model, pad_id=0)
    prefix = engine.prefill(rows)
    exact = engine.score(prefix, BRANCHES, many)
    whole = engine.positions["probed"]
    part = engine.score(prefix, BRANCHES, many, tolerance)
    assert engine.positions["probed"] - whole < whole
    for full, less in zip(exact, part, strict=True):
        assert full.exp().sum() - tolerance <= less.exp().sum() <= full.exp().sum() + 1e-9
        kept = ~less.isinf()
        assert torch.allclose(full[kept], less[kept], atol=1e-5)


def test_chunks_change_nothing(model, rows):
    whole, small = TransformersEngine(model, 0), TransformersEngine(model, 0, max_positions=20)
    continuations = [[[4, 5], [6, 7, 8]]] * len(BRANCHES)
    one = whole.score(whole.prefill(rows), BRANCHES, continuations)
    many = small.score(small.prefill(rows), BRANCHES, continuations)
    assert torch.allclose(torch.stack(one), torch.stack(many), atol=1e-6)
    greedy = Sampling(temperature=0)
    one = whole.answers(whole.prefill(rows), BRANCHES, 1, 5, [1], sampling=greedy)
    many = small.answers(small.prefill(rows), BRANCHES, 1, 5, [1], sampling=greedy)
    assert [a.ids for a in one] == [a.ids for a in many]


def test_positions_are_counted_once(model, rows):
    """Rows 9 + 14 + 5, suffixes 2 + 2 + 3 + 1, trie nodes behind a suffix: 4 and 5 (last tokens need no position)."""
    seen = []
    engine = TransformersEngine(model, pad_id=0)  # 0 is never drawn here: what is not 0 is no padding
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(int((kwargs["input_ids"] != 0).sum())), with_kwargs=True
    )
    head = model.lm_head.register_forward_hook(
        lambda module, args, logits: logits.index_fill(-1, torch.tensor([0]), -1e9)
    )
    prefix = engine.prefill(rows, purpose="probed")
    answers = engine.answers(prefix, BRANCHES, 3, 4, [])
    hook.remove()
    head.remove()
    assert engine.positions["probed"] == 28 + 8 + 4 * 3 * 3  # the fourth token of an answer is drawn, never fed
    assert sum(seen) == engine.positions["probed"]
    assert all(len(ids) == 4 for answer in answers for ids in answer.ids)
    before = engine.positions["probed"]
    engine.score(prefix, BRANCHES[:1], [[[4, 5, 6], [4, 5, 7]]])
    assert engine.positions["probed"] - before == 2 + 2


@pytest.mark.parametrize("limit", [4, 40])
def test_rows_that_were_kept_serve_their_boundaries_without_another_pass(model, rows, limit):
    """Rows of different lengths, ended by a stop token or by the limit: the same scores as after a prefill."""
    engine = TransformersEngine(model, pad_id=0)
    torch.manual_seed(4)
    branches = [Branch(r, len(row)) for r, row in enumerate(rows)]
    groups = [engine.prefill([row]) for row in rows]
    answers = []
    for r, prefix in enumerate(groups):
        answers += engine.answers(prefix, [Branch(0, len(rows[r]))], 6, limit, [1, 2, 3], keep=True)
    together = engine.answers(engine.prefill(rows), branches, 6, limit, [1, 2, 3], keep=True)  # gaps behind short rows
    stopped = 0
    for row, answer in zip([*rows, *rows], [*answers, *together], strict=True):
        for ids, end, kept in zip(answer.ids, answer.stopped, answer.kept, strict=True):
            text = [*row, *(ids[:-1] if end else ids)]
            stopped += end
            assert kept.length == len(text)
            cuts = [Branch(0, cut, (7, 3)) for cut in range(len(row), len(text) + 1)]
            before = engine.positions["probed"]
            ours = engine.score(engine.restore([kept]), cuts, [CONTINUATIONS] * len(cuts))
            fresh = engine.score(engine.prefill([text]), cuts, [CONTINUATIONS] * len(cuts))
            assert engine.positions["probed"] - before == 2 * (2 + 6) * len(cuts)
            assert torch.allclose(torch.stack(ours), torch.stack(fresh), atol=1e-5)
    assert (0 < stopped < 36) if limit == 4 else stopped > 18


def test_a_branch_at_the_end_of_its_row_needs_no_suffix(model, rows):
    engine = TransformersEngine(model, pad_id=0)
    torch.manual_seed(3)
    answers = engine.answers(engine.prefill(rows), [Branch(r, len(rows[r])) for r in range(3)], 4, 5, [1])
    for row, answer in zip(rows, answers, strict=True):
        for ids, logprobs in zip(answer.ids, answer.logprobs, strict=True):
            assert logprobs == pytest.approx(rescored(model, row, ids), abs=1e-5)
    with pytest.raises(ValueError, match="suffix"):
        engine.answers(engine.prefill(rows), [Branch(0, 3)], 1, 2, [1])


def test_the_models_mode_is_left_as_it_was(model, rows):
    engine = TransformersEngine(model, pad_id=0)
    model.train()
    engine.prefill(rows)
    assert model.training
    model.eval()
    engine.prefill(rows)
    assert not model.training


def test_draw_follows_the_distribution_and_reports_its_logprob():
    torch.manual_seed(0)
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).expand(20_000, 4)
    token, logprob = draw(logits, Sampling(temperature=2.0))
    exact = (logits[0] / 2).softmax(-1)
    share = torch.bincount(token, minlength=4) / len(token)
    assert torch.allclose(share, exact, atol=4 * 0.5 / 20_000**0.5)
    assert torch.allclose(logprob, exact.log()[token], atol=1e-6)
    token, logprob = draw(logits, Sampling(top_k=2))
    assert set(token.tolist()) == {0, 1}
    assert torch.allclose(logprob.exp()[token == 0], torch.tensor(0.7310586), atol=1e-5)
    token, _ = draw(logits, Sampling(top_p=0.5))
    assert set(token.tolist()) == {0}
    assert draw(logits[:3], Sampling(temperature=0))[0].tolist() == [0, 0, 0]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("n", [1, 3])
def test_streams_of_a_row_part_when_it_is_crowded_or_idle(model, monkeypatch, attention, n):
    """Three streams a branch outgrow what they share; with one each, rows idle once streams end. No answer shows it."""
    model.set_attn_implementation(attention)
    gen = torch.Generator().manual_seed(3)
    rows = [torch.randint(1, VOCAB, (30,), generator=gen).tolist() for _ in range(4)]
    branches = [Branch(row, cut, (7, 3)) for row in range(4) for cut in ((30,) if n == 1 else (20, 30))]
    parted = []
    part = Streams.part
    monkeypatch.setattr(Streams, "part", lambda self: (parted.append(len(self.row)), part(self)))
    engine = TransformersEngine(model, pad_id=0)
    torch.manual_seed(4)
    prefix = engine.prefill(rows)
    answers = engine.answers(prefix, branches, n, 40, stop_ids=[1, 2] if n == 1 else [])
    assert prefix.width == 30
    assert parted == ([3] if n == 1 else [24])
    for branch, answer in zip(branches, answers, strict=True):
        for ids, logprobs in zip(answer.ids, answer.logprobs, strict=True):
            expected = rescored(model, [*rows[branch.row][: branch.cut], *branch.suffix], ids)
            assert logprobs == pytest.approx(expected, abs=1e-5)
    monkeypatch.setattr(engine, "max_positions", 300)  # rows of their own do not fit: they go on together
    engine.answers(prefix, branches, n, 40, stop_ids=[])
    assert len(parted) == 1


def test_a_large_vocabulary_is_drawn_from_in_proportion():
    """Blocks and columns in them: frequencies as they should be, nothing of weight 0, the last column too."""
    chances = torch.zeros(1, WIDE + 5)
    where = torch.tensor([0, 255, 256, 1000, WIDE - 1, WIDE + 4])
    chances[0, where] = torch.tensor([0.05, 0.3, 0.15, 0.2, 0.2, 0.1])
    torch.manual_seed(0)
    drawn = pick(chances.expand(4000, -1))
    counts = torch.bincount(drawn, minlength=WIDE + 5)
    assert int(counts.sum()) == int(counts[where].sum()) == 4000
    spread = (chances[0, where] * (1 - chances[0, where]) / 4000).sqrt()
    assert bool(((counts[where] / 4000 - chances[0, where]).abs() < 4 * spread).all())
    token, logprob = draw(chances.log().expand(50, -1), Sampling())
    assert torch.allclose(logprob, chances[0, token].log(), atol=1e-6)


def test_trie_shares_beginnings():
    trie = Trie.build([9, 8], [[1, 2, 3], [1, 2, 4], [5]])
    assert trie.tokens == (9, 8, 1, 2)
    assert trie.depth == (0, 1, 2, 3)
    assert trie.paths == ((2, 3, 3), (2, 3, 4), (5,))
    assert trie.ancestors().int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    with pytest.raises(ValueError, match="suffix"):
        Trie.build([], [[1]])
