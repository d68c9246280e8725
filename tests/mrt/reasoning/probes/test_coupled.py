"""Coupled answers: the same J in law, and differences that are 0 where nothing moved."""

import math

import pytest
import torch

from mrt.reasoning.engines.base import Answers, Branch
from mrt.reasoning.engines.noise import Noise, states
from mrt.reasoning.engines.sampling import Sampling, draw
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.probes.forced import Sampled
from mrt.reasoning.probes.run import ProbePlan, ProbeRequest, probe_trials
from mrt.reasoning.probes.schedule import Schedule
from mrt.reasoning.probes.table import make_probe
from mrt.reasoning.traces.prompts import think_format
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.config import MRTConfig


class Chain:
    """After so many thinking tokens an answer is right with the probability `curve` says, by the noise asked for."""

    max_positions = 10**6

    def __init__(self, right, wrong, curve):
        self.right, self.wrong, self.curve, self.asked = right, wrong, curve, []

    def chunks(self, lengths, rows_each=1):
        yield list(range(len(lengths)))

    def prefill(self, sequences, purpose):
        return sequences

    def answers(self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose="probed", noise=None):
        found = []
        for b, branch in enumerate(branches):
            share = self.curve[branch.cut - 1]
            logits = torch.tensor([share, 1 - share]).log().expand(n, 2)
            begin = states(noise[b], 0, torch.device("cpu")) if noise else None
            hits = (draw(logits, Sampling(), begin)[0] == 0).tolist()
            self.asked.append((branch.cut, n))
            found.append(Answers([[self.right if hit else self.wrong, stop_ids[0]] for hit in hits]))
        return found


def right_is_one(rows, texts, ids):
    return [float(text.rpartition("{")[2] == "1}") for text in texts]


CURVE = [0.3, 0.3, 0.35, 0.8, 0.8]


def probed(probe, prompts, seed, rows=2, schedule=None):
    """Stop values (prompts, rows, 5) of traces whose J follows CURVE."""
    tokenizer = build_tokenizer()
    one, two = tokenizer("1 2")["input_ids"]
    engine = Chain(one, two, CURVE)
    trials = [Trial([one, *[two] * (k + 1), two], 0, [1, 2, 3, 4]) for _ in range(prompts) for k in range(rows)]
    for trial in trials:
        trial.completion[:] = [two] * 3 + [one] * 5  # the same thoughts in every row
        trial.ends[:] = [1, 2, 3, 4]
    ids = [[5 + p] for p in range(prompts) for _ in range(rows)]
    plan = ProbePlan(probe, think_format(tokenizer), right_is_one, schedule or Schedule())
    probe_trials(engine, plan, ProbeRequest(ids, trials, [{}] * len(trials)), torch.Generator().manual_seed(seed))
    return torch.tensor([trial.stop_values for trial in trials]).view(prompts, rows, -1), engine


def test_j_keeps_its_law_and_a_difference_is_0_where_nothing_moved():
    coupled, _ = probed(make_probe("coupled", 4), prompts=600, seed=0, rows=1)
    independent, _ = probed(make_probe("sampled", 4), prompts=600, seed=0, rows=1)
    exact = torch.tensor(CURVE)
    for found in (coupled, independent):
        counts = torch.stack([(found[:, 0] * 4 == k).double().mean(0) for k in range(5)], 1)
        binomial = [[math.comb(4, k) * p**k * (1 - p) ** (4 - k) for k in range(5)] for p in CURVE]
        assert torch.allclose(counts, torch.tensor(binomial).double(), atol=4 * 0.5 / math.sqrt(600))
        assert torch.allclose(found[:, 0].mean(0), exact, atol=4 * 0.25 / math.sqrt(600))
    p, q = (one[:, 0].diff(dim=1) for one in (coupled, independent))
    assert not p[:, [0, 3]].any()  # J stays there
    assert q[:, [0, 3]].any()
    assert torch.allclose(p.mean(0), exact.diff(), atol=4 * 0.35 / math.sqrt(600))
    assert float(p[:, 1].var()) < 0.2 * float(q[:, 1].var())  # .30 -> .35: one answer in twenty changes


def test_all_traces_of_a_problem_share_their_noise_and_problems_do_not():
    found, engine = probed(make_probe("coupled", 4), prompts=40, seed=1, rows=2)
    assert torch.equal(found[:, 0], found[:, 1])
    assert len({tuple(row) for row in found[:, 0].tolist()}) > 10
    assert {n for _, n in engine.asked} == {4}
    assert sum(cut == 1 for cut, _ in engine.asked) == 40  # J_0 is asked about once a problem, with its four answers
    again, _ = probed(make_probe("coupled", 4), prompts=40, seed=1, rows=2)
    assert torch.equal(found, again)
    other, _ = probed(make_probe("coupled", 4), prompts=40, seed=2, rows=2)
    assert not torch.equal(found, other)


def test_a_schedule_that_asks_again_draws_with_the_same_noise():
    found, _ = probed(make_probe("coupled", 4), prompts=60, seed=3, rows=1, schedule=Schedule(moved=0.1))
    whole, _ = probed(make_probe("coupled", 4), prompts=60, seed=3, rows=1)
    known = ~found.isnan()
    assert bool(known[..., 1:4].any())
    assert torch.equal(found[known], whole[known])


def test_coupled_is_what_a_trainer_takes_unless_told_otherwise(tmp_path):
    assert MRTConfig(output_dir=str(tmp_path), use_cpu=True).probe == "coupled"
    assert make_probe("coupled", 3, sampling=Sampling(0.6)) == Sampled(3, Sampling(0.6), coupled=True)
    assert not make_probe("sampled").coupled


@pytest.mark.training
def test_answers_of_a_model_are_drawn_by_their_law():
    """10^5 coupled answers of a tiny model against the exact chance of each first token and of every whole answer."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, hidden=32, layers=1, heads=2)
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(4)  # a distribution with some shape
    engine = TransformersEngine(model, tokenizer.pad_token_id)
    count, stops = 100_000, [7]
    prefix, branch = engine.prefill([[5, 9, 11]]), Branch(0, 3, (6, 8))
    (answer,) = engine.answers(prefix, [branch], count, 2, stops, noise=[[Noise(5, k) for k in range(count)]])
    drawn: dict[tuple[int, ...], int] = {}
    for ids in answer.ids:
        drawn[tuple(ids)] = drawn.get(tuple(ids), 0) + 1
    common = [list(ids) for ids, n in drawn.items() if n >= 50]
    (score,) = engine.score(prefix, [branch], [common])
    expected = score.exp() * count
    seen = torch.tensor([float(drawn[tuple(ids)]) for ids in common], dtype=torch.float64)
    rest = count - expected.sum()
    statistic = float(((seen - expected) ** 2 / expected).sum() + (count - seen.sum() - rest) ** 2 / rest)
    assert len(common) > 10
    assert statistic < len(common) + 5 * math.sqrt(2 * len(common))
