"""Probes against known values of J: a toy chain, exact enumeration, and a hundred thousand samples."""

import itertools
import math

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.engines.base import Answers, Branch
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.transformers import TransformersEngine
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.forced import Greedy, Sampled, Shrunk, force_answers, jeffreys_interval
from mrt.reasoning.probes.gold import Gold
from mrt.reasoning.probes.pooled import Pooled
from mrt.reasoning.probes.run import ProbePlan, ProbeRequest, probe_trials
from mrt.reasoning.probes.schedule import Schedule
from mrt.reasoning.probes.table import make_probe
from mrt.reasoning.problems import Problem
from mrt.reasoning.problems.countdown import Countdown
from mrt.reasoning.traces.prompts import render, think_format
from mrt.reasoning.traces.trial import Trial

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def fmt(tokenizer):
    return think_format(tokenizer)


class ChainEngine:
    """A chain whose J is known: after `cut` tokens of thought the answer is right with probability 0.1 + 0.2 cut."""

    def __init__(self, right: int, wrong: int, seed: int) -> None:
        self.right, self.wrong, self.generator = right, wrong, torch.Generator().manual_seed(seed)

    def chunks(self, lengths, rows_each=1):
        yield list(range(len(lengths)))

    def prefill(self, sequences, purpose):
        return sequences

    def answers(self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose="probed"):
        results = []
        for branch in branches:
            hits = torch.rand(n, generator=self.generator) < chain_value(branch.cut - 1)
            results.append(Answers([[self.right if hit else self.wrong, stop_ids[0]] for hit in hits.tolist()]))
        return results


def chain_value(cut: int) -> float:
    return 0.1 + 0.2 * cut


def right_is_one(rows, texts, ids):
    return [float(text.rpartition("{")[2] == "1}") for text in texts]


def chain_probe(probe, fmt, tokenizer, traces, seed=0):
    one, two = tokenizer("1 2")["input_ids"]
    trace = Trace((0,), (one,) * 4, (0, 1, 2, 4), {})
    return probe(ChainEngine(one, two, seed), fmt, [trace] * traces, right_is_one)


def test_sampled_is_unbiased_on_the_chain(fmt, tokenizer):
    values = torch.tensor([result.values for result in chain_probe(Sampled(samples=4), fmt, tokenizer, 600)])
    truth = torch.tensor([chain_value(cut) for cut in (0, 1, 2, 4)])
    assert (values.mean(0) - truth).abs().max() < 4 * 0.5 / math.sqrt(600 * 4)


def test_the_mean_over_2000_prefixes_covers_at_its_nominal_rate():
    """95 % intervals of the mean over 2,000 prefixes, from the standard errors of G = 4, cover in 93 to 97 %."""
    generator, inside, bias = torch.Generator().manual_seed(0), [], []
    for truth in (chain_value(cut) for cut in (0, 1, 2, 4)):
        for _ in range(110):
            drawn = (torch.rand(2000, 4, generator=generator) < truth).float().tolist()
            estimates = torch.tensor([Sampled().estimate(rewards) for rewards in drawn])
            mean, se = float(estimates[:, 0].mean()), float((estimates[:, 1] ** 2).sum().sqrt()) / 2000
            inside.append(abs(mean - truth) <= 1.96 * se)
            bias.append(mean - truth)
    assert 0.93 <= sum(inside) / len(inside) <= 0.97
    assert abs(sum(bias) / len(bias)) < 4 * 0.5 / math.sqrt(440 * 2000 * 4)


def test_standard_error_of_one_boundary_by_hand():
    assert Sampled().estimate([1.0, 0.0, 0.0, 1.0]) == pytest.approx((0.5, math.sqrt(0.25 / 3)))
    assert Sampled().estimate([1.0]) == (1.0, pytest.approx(math.nan, nan_ok=True))
    assert all(map(math.isnan, Sampled().estimate([])))
    assert Shrunk().estimate([1.0, 1.0]) == pytest.approx((2.5 / 3, math.sqrt(2.5 * 0.5 / 4) / 3))
    assert Greedy().estimate([1.0]) == (1.0, 0.0)


def test_jeffreys_interval_against_published_values_and_its_coverage():
    # Brown, Cai and DasGupta 2001, table 5 (n = 10, 95 %)
    assert jeffreys_interval(0, 10) == pytest.approx((0.0, 0.217), abs=5e-4)
    assert jeffreys_interval(3, 10) == pytest.approx((0.093, 0.606), abs=5e-4)
    assert jeffreys_interval(10, 10) == pytest.approx((0.783, 1.0), abs=5e-4)
    n = 16
    intervals = [jeffreys_interval(k, n) for k in range(n + 1)]
    coverage = []
    for p in [i / 50 for i in range(1, 50)]:
        mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        coverage.append(sum(m for m, (low, high) in zip(mass, intervals, strict=True) if low <= p <= high))
    assert 0.93 < sum(coverage) / len(coverage) < 0.97


def test_shrunk_lies_between_the_sample_mean_and_the_prior(fmt, tokenizer):
    plain = chain_probe(Sampled(samples=4), fmt, tokenizer, 50)
    shrunk = chain_probe(Shrunk(samples=4), fmt, tokenizer, 50)
    for one, two in zip(plain, shrunk, strict=True):
        for a, b in zip(one.values, two.values, strict=True):
            assert b == pytest.approx((a * 4 + 0.5) / 5)


def test_unscorable_answers_are_left_out_and_all_unscorable_is_nan(fmt, tokenizer):
    asked = []

    def judge(rows, texts, ids):
        asked.extend(texts)
        return [1.0 if text.endswith("{1}") else None for text in texts]

    one, two = tokenizer("1 2")["input_ids"]
    trace = Trace((0,), (one,), (0, 1), {})
    (result,) = Sampled(samples=32)(ChainEngine(one, two, 0), fmt, [trace], judge)
    assert result.values == (1.0, 1.0)
    assert sorted(result.answers[0]) != sorted(set(result.answers[0]))
    assert len(asked) == len(set(asked)) == 4  # two answers at each boundary, however often they were drawn
    (result,) = Sampled(samples=4)(ChainEngine(one, one, 0), fmt, [trace], lambda r, t, i: [None] * len(t))
    assert all(map(math.isnan, result.values))


@pytest.fixture(scope="module")
def guesser(tokenizer, fmt):
    """A tiny model that has learned to answer two problems about half of the time, and their prompts."""
    torch.manual_seed(0)
    model = build_model(tokenizer, hidden=32, layers=2, heads=2)
    problems = [Problem("a", "3 5->8", "3+5"), Problem("b", "2 4->8", "2*4")]
    prompts = [render(tokenizer, [{"role": "user", "content": p.prompt}]) for p in problems]
    answers = [["3+5}", "5+3}", "3*5}", "5-3}", "3+3}"], ["2*4}", "4*2}", "4+2}", "4}", "4-2}"]]
    rows = [
        [*prompt, *fmt.forced_ids, *tokenizer(text)["input_ids"]]
        for prompt, texts in zip(prompts, answers, strict=True)
        for text in texts
    ]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    labels = ids.masked_fill(ids == 0, -100)
    labels[:, : len(prompts[0]) + len(fmt.forced_ids)] = -100
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        model(input_ids=ids, attention_mask=(ids != 0).long(), labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval(), problems, prompts


def enumerated(model, fmt, tokenizer, prompt, accepts) -> float:
    """Sum of the probabilities of every answer of up to three tokens (and its brace) that the grader accepts."""
    signs = tokenizer("2 3 4 5+-*()")["input_ids"]
    closing = tokenizer("}")["input_ids"]
    total = 0.0
    for length in (1, 2, 3):
        for answer in itertools.product(signs, repeat=length):
            if accepts(tokenizer.decode(list(answer))):
                ids = [*prompt, *fmt.forced_ids, *answer, *closing]
                with torch.no_grad():
                    logprobs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
                start = len(prompt) + len(fmt.forced_ids)
                total += math.exp(sum(float(logprobs[i - 1, ids[i]]) for i in range(start, len(ids))))
    return total


def grader(problem_set, prompt):
    numbers, target = prompt.split("->")
    data = {"numbers": [int(n) for n in numbers.split()], "target": int(target), "operations": "+-*"}
    problem = Problem("k", prompt, "", data)
    return problem, lambda answer: problem_set.grade_answer(problem, answer).reward == 1.0


def test_gold_equals_enumeration_and_agrees_with_100_000_samples(guesser, fmt, tokenizer):
    model, problems, prompts = guesser
    problem_set = Countdown()
    engine = TransformersEngine(model, tokenizer.pad_token_id)
    for problem, prompt in zip(problems, prompts, strict=True):
        full, accepts = grader(problem_set, problem.prompt)
        solutions = problem_set.solutions(full)
        trace = Trace(tuple(prompt), (), (0,), {"solutions": solutions})
        (result,) = Gold()(engine, fmt, [trace], right_is_one)
        assert 0.1 < result.values[0] < 0.9
        assert result.errors == (0.0,)
        assert result.values[0] == pytest.approx(enumerated(model, fmt, tokenizer, prompt, accepts), abs=1e-6)
        if problem is problems[1]:
            continue
        torch.manual_seed(1)
        (((*answers,),),) = force_answers(engine, fmt, [trace], 100_000, Sampling())
        right = [answer.text for answer in answers if accepts(answer.text)]
        assert set(right) <= set(solutions)  # no correct sample is unlisted
        share, value = len(right) / 100_000, result.values[0]
        assert abs(share - value) < 3 * math.sqrt(value * (1 - value) / 100_000)


def test_gold_at_many_boundaries_equals_a_prefill_of_each(guesser, fmt, tokenizer):
    model, _, prompts = guesser
    engine = TransformersEngine(model, tokenizer.pad_token_id)
    thought = tuple(tokenizer("3*5=15✗\n\nWait3+5=8✓")["input_ids"])
    trace = Trace(tuple(prompts[0]), thought, (0, 6, 13), {"solutions": ["3+5", "5+3"]}, complete=True)
    (together,) = Gold()(engine, fmt, [trace], right_is_one)
    for cut, value in zip(trace.cuts, together.values, strict=True):
        alone = Trace((*trace.prompt, *thought[:cut]), (), (0,), trace.row)
        (fresh,) = Gold()(engine, fmt, [alone], right_is_one)
        assert value == pytest.approx(fresh.values[0], abs=1e-6)


def test_gold_refuses_what_it_cannot_score_and_names_the_cure(fmt):
    with pytest.raises(ConfigError, match="probe='sampled'"):
        Gold.solution_texts({"key": "x"})
    with pytest.raises(ConfigError, match=r"201 solutions.*probe='sampled'"):
        Gold.solution_texts({"key": "x", "solutions": ["1"] * 201})
    assert len(Gold.solution_ids(Gold.solution_texts({"solution": "1+2"}), fmt)) == 1
    with pytest.raises(ConfigError, match="probe_tolerance must be at least 0"):
        make_probe("gold", tolerance=1.0)


def test_greedy_takes_the_best_answer(guesser, fmt, tokenizer):
    model, _, prompts = guesser
    engine = TransformersEngine(model, tokenizer.pad_token_id)
    (result,) = Greedy()(engine, fmt, [Trace(tuple(prompts[0]), (), (0,), {})], lambda r, t, i: [1.0] * len(t))
    answer = engine.answers(
        engine.prefill([prompts[0]]), [Branch(0, len(prompts[0]), tuple(fmt.forced_ids))], 1, 8, fmt.answer_stop_ids,
        sampling=Sampling(temperature=0),
    )  # fmt: skip
    assert result.answers[0][0] == tokenizer.decode(answer[0].ids[0][:-1])
    assert result.errors == (0.0,)


def test_probe_names():
    assert make_probe("sampled", 7).samples == 7
    assert make_probe("greedy").samples == 1
    with pytest.raises(ConfigError, match="did you mean 'sampled'"):
        make_probe("sampeld")
    with pytest.raises(ConfigError, match="probe_samples"):
        make_probe("shrunk", 0)


def test_schedule_keeps_both_ends():
    generator = torch.Generator().manual_seed(0)
    assert Schedule().choose([0, 2], generator) == [[0], [0, 1, 2]]
    assert Schedule(every=2).choose([5], generator) == [[0, 2, 4, 5]]
    assert Schedule(moved=0.1).choose([5, 1, 0], generator) == [[0, 5], [0, 1], [0]]
    for boundaries in Schedule(at_most=3).choose([9] * 20, generator):
        assert len(boundaries) == 3
        assert boundaries[0] == 0
        assert boundaries[-1] == 9
        assert boundaries == sorted(set(boundaries))
    shares = [bool(b) for b in Schedule(share=0.25).choose([3] * 2000, generator)]
    assert 0.2 < sum(shares) / 2000 < 0.3


def test_a_schedule_that_looks_where_j_moved_finds_the_jump():
    """J stays at 0.1 and jumps to 0.9 at boundary 6 of 8: the ends, then 4, 6, 5; else the ends only."""
    curve = [0.1] * 6 + [0.9] * 3
    schedule, values, asked = Schedule(moved=0.1), [math.nan] * 9, []
    wanted = schedule.choose([8], torch.Generator())[0]
    while wanted:
        for j in wanted:
            values[j] = curve[j]
        asked.append(wanted)
        wanted = schedule.refine(values)
    assert asked == [[0, 8], [4], [6], [5]]
    assert schedule.refine([0.1, math.nan, math.nan, 0.15]) == []
    assert Schedule().refine([0.1, math.nan, 0.9]) == []


class Recorder(ChainEngine):
    """The chain, and what it was asked for."""

    def __init__(self, right, wrong, seed):
        super().__init__(right, wrong, seed)
        self.asked, self.positions, self.max_positions = [], {"probed": 0}, 10**6

    def answers(self, prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose="probed"):
        self.asked += [(branch.cut, n, sampling) for branch in branches]
        return super().answers(prefix, branches, n, max_new_tokens, stop_ids, sampling, purpose)


def group_of(tokenizer, rows, episodes=3):
    one, two = tokenizer("1 2")["input_ids"]
    thoughts = [[one] * (n + 1) + [two] * episodes for n in range(rows)]
    trials = [Trial([*ids], 0, list(range(len(ids) - episodes + 1, len(ids) + 1))) for ids in thoughts]
    return Recorder(one, two, 0), ProbeRequest([[0]] * rows, trials, [{}] * rows)


def test_j_0_has_the_samples_of_its_whole_group(tokenizer, fmt):
    """It enters the first episode of every row: 8 rows of 4 answers are 32 draws of one number, asked about once."""
    engine, request = group_of(tokenizer, 8)
    probe_trials(engine, ProbePlan(Sampled(4), fmt, right_is_one), request, torch.Generator())
    drawn = {}
    for cut, n, _ in engine.asked:
        drawn[cut] = drawn.get(cut, 0) + n
    assert drawn[1] == 8 * 4
    assert len({trial.stop_values[0] for trial in request.trials}) == 1
    assert request.trials[0].errors[0] < 0.5 / math.sqrt(31) + 1e-6
    greedy, request = group_of(tokenizer, 8)
    probe_trials(greedy, ProbePlan(Greedy(), fmt, right_is_one), request, torch.Generator())
    assert sum(n for cut, n, _ in greedy.asked if cut == 1) == 1  # the same answer again tells nothing


def test_probes_sample_as_the_policy_does(tokenizer, fmt):
    engine, request = group_of(tokenizer, 2)
    probe = make_probe("sampled", 3, sampling=Sampling(0.6, 0.9, 20))
    probe_trials(engine, ProbePlan(probe, fmt, right_is_one), request, torch.Generator())
    assert {sampling for _, _, sampling in engine.asked} == {Sampling(0.6, 0.9, 20)}


def test_a_fork_is_probed_at_its_boundary_whatever_the_schedule():
    """What a row was given is no progress of its own: its first J is that of the boundary where it was cut."""
    generator = torch.Generator().manual_seed(0)
    assert Schedule(every=3).choose([7, 7], generator, [0, 2]) == [[0, 3, 6, 7], [2, 5, 7]]
    assert Schedule(moved=0.1).choose([7], generator, [4]) == [[4, 7]]
    for boundaries in Schedule(at_most=3).choose([9] * 20, generator, [2] * 20):
        assert boundaries[0] == 2
        assert boundaries[-1] == 9
    assert Schedule().choose([1], generator, [2]) == [[]]


def test_shrunk_names_rewards_that_it_cannot_take():
    with pytest.raises(ConfigError, match=r"rewards in \[0, 1\], got -1 to 1.*probe='sampled'"):
        Shrunk().estimate([1.0, -1.0])


def test_gold_refuses_a_close_behind_which_steps_are_due(guesser):
    from tests.support.latex_tokenizer import latex_tokenizer

    paper = think_format(latex_tokenizer(), "paper")
    with pytest.raises(ConfigError, match="forced_style=paper"):
        Gold()(None, paper, [Trace((0,), (), (0,), {"solution": "1"})], right_is_one)
    with pytest.raises(ConfigError, match="forced_style=paper"):
        Pooled()(None, paper, [Trace((0,), (), (0,), {})], right_is_one)
