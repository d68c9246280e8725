"""The learned value of stopping: what the head learns, how far it is trusted, and where its states come from."""

import math

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Answers, Branch
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.engines.unshared import UnsharedEngine
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.forced import Sampled
from mrt.reasoning.probes.learned import Learned, StopValueHead, features
from mrt.reasoning.probes.table import make_probe
from mrt.reasoning.traces.prompts import think_format


class Feeling:
    """Answers are right with a chance that is a linear function of the hidden state, or has nothing to do with it."""

    max_positions = 10**6

    def __init__(self, right, wrong, honest, seed):
        self.right, self.wrong, self.honest = right, wrong, honest
        self.generator = torch.Generator().manual_seed(seed)
        self.truth = []

    def chunks(self, lengths, rows_each=1):
        yield list(range(len(lengths)))

    def prefill(self, sequences, purpose):
        return sequences

    def answers(
        self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose="probed", noise=None, states=False
    ):
        found = []
        for _ in branches:
            state = torch.randn(8, generator=self.generator)
            state = state / state.square().mean().sqrt()
            chance = 0.5 + 0.15 * float(state[0]) if self.honest else float(torch.rand((), generator=self.generator))
            self.truth.append(chance)
            hits = (torch.rand(n, generator=self.generator) < chance).tolist()
            ids = [[self.right if hit else self.wrong, stop_ids[0]] for hit in hits]
            found.append(Answers(ids, state=state if states else None))
        return found


def run(probe, honest, batches=12, seed=0):
    """(values, truth) (boundaries,) of the last batch."""
    tokenizer = build_tokenizer()
    one, two = tokenizer("1 2")["input_ids"]
    for batch in range(batches):
        engine = Feeling(one, two, honest, seed + batch)
        traces = [Trace((p,), (two,) * 3, (0, 1, 2, 3), {}, seed=p) for p in range(30)]

        def judge(rows, texts, ids):
            return [float(text.rpartition("{")[2] == "1}") for text in texts]

        found = probe(engine, think_format(tokenizer), traces, judge)
    return torch.tensor([v for one in found for v in one.values]), torch.tensor(engine.truth)


def test_a_head_that_knows_takes_noise_away_and_one_that_does_not_is_not_believed():
    rmse = {}
    for honest in (True, False):
        for name in ("sampled", "learned", "learned_alone"):
            probe = make_probe(name, 4)
            values, truth = run(probe, honest)
            rmse[honest, name] = float((values - truth).square().mean().sqrt())
            if name == "learned":
                assert (probe.head.strength > 8) == honest
    assert rmse[True, "learned"] < 0.5 * rmse[True, "sampled"]
    assert rmse[True, "learned_alone"] < 0.4 * rmse[True, "sampled"]
    assert rmse[False, "learned"] < 1.05 * rmse[False, "sampled"]
    assert rmse[False, "learned_alone"] > rmse[False, "sampled"]


def test_before_it_has_learned_the_answers_count_alone():
    first, _ = run(Learned(4), honest=True, batches=1)
    counted, _ = run(Sampled(4), honest=True, batches=1)
    assert torch.equal(first, counted)


def test_the_posterior_by_hand():
    head = StopValueHead()
    head.error = torch.tensor([10.0, 0.4, 2.4], dtype=torch.float64)
    assert head.strength == pytest.approx(5.0)
    guess, means = torch.tensor([0.5, 0.5]).double(), torch.tensor([1.0, 0.0]).double()
    values, errors = Learned(head=head)._posterior(guess, means, torch.tensor([4.0, 0.0]).double())
    assert float(values[0]) == pytest.approx((4 + 2.5) / 9)
    assert float(errors[0]) == pytest.approx(math.sqrt(6.5 * 2.5 / 81 / 10))
    assert bool(values[1].isnan())


def test_a_head_is_saved_with_a_checkpoint():
    torch.manual_seed(0)
    head, other, states = StopValueHead(), StopValueHead(), torch.randn(50, 300)
    for _ in range(2):
        head.update(states, torch.rand(50).double(), torch.full((50,), 4.0).double())
    other.load_state_dict(head.state_dict())
    assert features(states).shape == (50, 257)
    assert torch.equal(head.guess(states), other.guess(states))
    assert head.strength == other.strength


def test_the_state_is_the_policys_own_at_the_forced_close_and_costs_no_position():
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, hidden=32, layers=2, heads=2)
    engine = TransformersEngine(model, tokenizer.pad_token_id)
    row = torch.randint(5, 60, (12,)).tolist()
    branches, positions = [Branch(0, 5, (6, 8)), Branch(0, 12, (6, 8)), Branch(1, 3, (7,))], []
    kept = []
    for states in (True, False):
        torch.manual_seed(1)
        before = engine.positions["probed"]
        found = engine.answers(engine.prefill([row, row[::-1]]), branches, 2, 4, [3], states=states)
        positions.append(engine.positions["probed"] - before)
        assert all((one.state is not None) == states for one in found)
        kept.append(found)
    assert positions[0] == positions[1]
    for branch, one in zip(branches, kept[0], strict=True):
        ids = [*(row if branch.row == 0 else row[::-1])[: branch.cut], *branch.suffix]
        with torch.no_grad():
            expected = model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0, -1]
        assert torch.allclose(one.state, expected, atol=1e-5)
    with pytest.raises(ConfigError, match="no hidden states"):
        UnsharedEngine(model, 0).answers([(5, 6)], [Branch(0, 2, (7,))], 1, 1, [3], states=True)
