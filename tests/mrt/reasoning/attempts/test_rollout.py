"""Trials in text as a record: who chose what, what it earned, and what stopping was worth."""

from __future__ import annotations

import math

import pytest
import torch

from mrt.control.envs.text import EnvInText
from mrt.errors import ConfigError
from mrt.reasoning.attempts.countdown import CountdownAttempts
from mrt.reasoning.attempts.form import Form
from mrt.reasoning.attempts.manner import Manner, make_manner
from mrt.reasoning.attempts.probes import Payoff, Played, make_probe
from mrt.reasoning.attempts.rollout import AttemptRollout
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.tasks import Task
from mrt.trials import Stop
from tests.support.scripted_engine import ScriptedEngine

TOKENIZER = build_tokenizer()
MODEL = build_model(TOKENIZER, hidden=32, layers=1, heads=2, seed=2).eval()
PAD, END = TOKENIZER.pad_token_id, TOKENIZER.eos_token_id
SIZES = {"high": 9, "train": 40, "warmstart": 8, "test": 8}


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


def countdown(rows: int, attempts: int = 3) -> tuple[CountdownAttempts, list[Task]]:
    env = CountdownAttempts(attempts=attempts, **SIZES)
    problem = env.problem_set.problem((3, 5, 7), 22, "3*5+7")  # type: ignore[attr-defined]
    return env, [Task(problem.key, {"problem": problem})] * rows


def bandit(pulls: int = 4) -> EnvInText:
    return EnvInText("bernoulli-bandit", arms=2, pulls=pulls)


def chosen(env: EnvInText, **options) -> Manner:
    return make_manner(Form(TOKENIZER, "plain"), env, choose=True, **options)


def test_the_record_of_a_conversation():
    right, wrong, cut = [*ids("\\boxed{3*5+7}"), END], [*ids("\\boxed{3+5+7}"), END], ids("3+5")
    env, tasks = countdown(2, attempts=2)
    engine = ScriptedEngine([[wrong, cut], [right, wrong]])
    manner = make_manner(Form(TOKENIZER), env, choose=False, limit=12)
    trials = AttemptRollout(engine, manner, pad_id=PAD)(env, tasks, seed=0, group=torch.tensor([0, 0]))
    opening = ids("<|user|>3 5 7->22<think></think>")
    told, unread = ids("<|user|>✗-7<think></think>"), ids("<|end|><|user|>~<think></think>")
    assert engine.given[0][0] == tuple(opening)
    assert engine.given[1] == [tuple(opening + wrong + told), tuple(opening + cut + unread)]
    for row, (first, reply, second, last) in enumerate(
        [(wrong, told, right, ids("<|user|>✓<think></think>")), (cut, unread, wrong, told)]
    ):
        whole = opening + first + reply + second + last
        steps = len(whole) - 1
        assert torch.cat([trials.inputs["input_ids"][row], trials.actions[row, -1:]])[: steps + 1].tolist() == whole
        parts = [(opening[1:], False, -1), (first, True, 0), (reply, False, 0), (second, True, 1), (last, False, 1)]
        assert trials.mask[row, :steps].tolist() == [mask for part, mask, _ in parts for _ in part]
        assert trials.episode[row, :steps].tolist() == [number for part, _, number in parts for _ in part]
        assert not trials.mask[row, steps:].any()
        assert (trials.episode[row, steps:] == -1).all()
        earned = [0.0, 1.0] if row == 0 else [-0.1, 0.0]
        ends = [len(opening) - 2 + len(first), len(opening) - 2 + len(first) + len(reply) + len(second)]
        assert trials.rewards[row].nonzero()[:, 0].tolist() == [
            end for end, paid in zip(ends, earned, strict=False) if paid
        ]
        assert trials.rewards[row, ends].tolist() == pytest.approx(earned)
    assert (trials.logprobs == torch.where(trials.mask, -1.0, 0.0)).all()
    assert trials.trial_stop.tolist() == [Stop.TERMINATED, Stop.BUDGET]
    assert trials.stop.tolist() == [[Stop.TERMINATED] * 2] * 2
    assert trials.privileged["unread"].tolist() == [0.0, 0.5]
    assert trials.task_keys == (tasks[0].key,) * 2


def test_a_solved_trial_is_over():
    right, wrong = [*ids("\\boxed{3*5+7}"), END], [*ids("\\boxed{3+5+7}"), END]
    env, tasks = countdown(2)
    engine = ScriptedEngine([[right, wrong], [wrong], [wrong]])
    trials = AttemptRollout(engine, make_manner(Form(TOKENIZER), env, choose=False), pad_id=PAD)(env, tasks, seed=0)
    assert trials.episodes.tolist() == [1, 3]
    assert trials.stop.tolist() == [[Stop.TERMINATED, Stop.PADDING, Stop.PADDING], [Stop.TERMINATED] * 3]
    assert trials.group.tolist() == [0, 1]


def test_a_full_context_ends_the_trial():
    wrong = [*ids("\\boxed{3+5+7}"), END]
    env, tasks = countdown(1)
    opening = len(ids("<|user|>3 5 7->22<think></think>"))
    manner = make_manner(Form(TOKENIZER), env, choose=False, limit=12, context=opening + 12)
    trials = AttemptRollout(ScriptedEngine([[wrong]]), manner, pad_id=PAD)(env, tasks, seed=0)
    assert trials.episodes.tolist() == [1]
    assert trials.trial_stop.tolist() == [Stop.BUDGET]
    small = make_manner(Form(TOKENIZER), env, choose=False, limit=12, context=opening + 11)
    with pytest.raises(ConfigError, match="has no room"):
        AttemptRollout(ScriptedEngine([[wrong]]), small, pad_id=PAD)(env, tasks, seed=0)


def test_pulls_are_two_tokens_and_every_one_is_readable():
    torch.manual_seed(0)
    env = bandit(pulls=5)
    engine = engine_on(MODEL, PAD)
    tasks = [env.sample(0, 0)] * 6
    trials = AttemptRollout(engine, chosen(env), pad_id=PAD)(env, tasks, seed=1, group=torch.zeros(6, dtype=torch.long))
    assert trials.actions.shape[1] == len(ids("2,5")) - 1 + 5 * 2
    assert trials.mask.sum(1).tolist() == [5] * 6
    assert set(trials.actions[trials.mask].tolist()) <= {ids("0")[0], ids("1")[0]}
    assert trials.episodes.tolist() == [5] * 6
    assert not trials.privileged["unread"].any()
    replies = trials.actions[(trials.episode >= 0) & ~trials.mask]
    assert (replies == ids("✓")[0]).tolist() == (trials.rewards[trials.mask] == 1).tolist()
    assert engine.positions["sampled"] == 3 + 6 * 4 * 2, "the opening once, then two tokens a pull"
    assert float(trials.cost["sampled"].sum()) == pytest.approx(engine.positions["sampled"])


def test_j_of_a_bandit_is_what_the_next_pull_is_expected_to_earn():
    torch.manual_seed(0)
    env = bandit()
    trials = AttemptRollout(engine_on(MODEL, PAD), chosen(env), Payoff(), PAD)(env, [env.sample(0, 3)] * 2, seed=1)
    means, arms = env.env.params["means"][0], torch.tensor([ids("0")[0], ids("1")[0]])
    assert trials.stop_values is not None
    assert trials.stop_values.shape == (2, 5)
    for row in range(2):
        whole = torch.cat([trials.inputs["input_ids"][row], trials.actions[row, -1:]])
        with torch.no_grad():
            chances = MODEL(whole[None]).logits[0][:, arms].softmax(-1)
        boundaries = [2 + 2 * pull for pull in range(5)]  # behind the opening, behind every reply
        assert torch.allclose(trials.stop_values[row], chances[boundaries] @ means, atol=1e-5)
    assert (trials.prover == 1).all()


def test_j_of_countdown_is_the_chance_of_a_right_answer_now():
    right, wrong = [*ids("\\boxed{3*5+7}"), END], [*ids("\\boxed{3+5+7}"), END]
    env, tasks = countdown(1, attempts=2)
    rollout = AttemptRollout(engine_on(MODEL, PAD), make_manner(Form(TOKENIZER), env, choose=False, limit=12), Payoff())
    torch.manual_seed(0)
    found = rollout(env, tasks, seed=0)
    opening = ids("<|user|>3 5 7->22<think></think>")
    total = 0.0
    for answer in env.problem_set.solutions(tasks[0].data["problem"]):
        tokens = [*ids(f"\\boxed{{{answer}}}"), END]
        with torch.no_grad():
            table = MODEL(torch.tensor([opening + tokens])).logits[0].double().log_softmax(-1)
        total += math.exp(sum(float(table[len(opening) - 1 + i, token]) for i, token in enumerate(tokens)))
    assert float(found.stop_values[0, 0]) == pytest.approx(total, rel=1e-4)  # type: ignore[index]

    class Solves(Payoff):
        def __call__(self, env, talk, manner, rows):
            return [(0.25, 0.0)] * len(rows)

    engine = ScriptedEngine([[wrong], [right]])
    solved = AttemptRollout(engine, rollout.manner, Solves(), PAD)(env, tasks, seed=0)
    assert solved.stop_values.tolist() == [[0.25, 0.25, 1.0]], "a solved task leaves nothing to answer"  # type: ignore[union-attr]


def test_played_attempts_leave_the_trial_alone():
    env = EnvInText("dark-room", size=3, steps=3, episodes=2)
    tasks = [env.sample(0, index) for index in range(2)]
    torch.manual_seed(4)
    trials = AttemptRollout(engine_on(MODEL, PAD), chosen(env), Played(3), PAD)(env, tasks, seed=1)
    assert trials.stop_values is not None
    assert trials.stop_value_se is not None
    assert trials.stop_values[:, :2].isfinite().all()
    assert trials.stop_values[:, 2].isnan().all()
    assert ((trials.stop_values[:, :2] >= 0) & (trials.stop_values[:, :2] <= 3)).all()
    assert float(trials.cost["probed"].sum()) > 0
    plain = AttemptRollout(engine_on(MODEL, PAD), chosen(env), None, PAD)(env, tasks, seed=1)
    assert plain.mask.sum(1).tolist() == trials.mask.sum(1).tolist() == [6, 6]
    for row in range(2):  # what a probe said is not in the trial: its cells are those that its own moves lead to
        moves = [int(TOKENIZER.decode([token])) for token in trials.actions[row][trials.mask[row]].tolist()]
        env.reset([tasks[row]], 1)
        said = [env.step([str(move)]).texts[0] for move in moves]
        given = trials.actions[row][(trials.episode[row] >= 0) & ~trials.mask[row]].tolist()
        assert given == [token for text in said for token in ids(text)]


def test_what_a_manner_refuses():
    env, _ = countdown(1)
    with pytest.raises(ConfigError, match="no list of choices"):
        make_manner(Form(TOKENIZER), env, choose=True)
    with pytest.raises(ConfigError, match="no thoughts"):
        Form(TOKENIZER, "plain", thinking=True)
    with pytest.raises(ConfigError, match="leaves no room for a thought"):
        make_manner(Form(TOKENIZER, thinking=True), bandit(), choose=True)
    with pytest.raises(ConfigError, match="cannot write 'It paid"):
        Form(TOKENIZER, "plain").reply("It paid 1.", True)
    with pytest.raises(ConfigError, match="is 3 tokens"):
        Form(TOKENIZER).choice("1+1")
    with pytest.raises(ConfigError, match="probe='plaid'"):
        make_probe("plaid", 1)
    room = EnvInText("dark-room", size=3, steps=2, episodes=2)
    with pytest.raises(ConfigError, match="set probe=played"):
        AttemptRollout(engine_on(MODEL, PAD), chosen(room), Payoff(), PAD)(room, [room.sample(0, 0)], seed=0)


def test_the_environment_does_not_read_thoughts():
    form = Form(TOKENIZER, thinking=True)
    assert form.opening("3 5 7->22") == ids("<|user|>3 5 7->22<think>")
    assert form.read([*ids("3+5</think>\\boxed{3*5+7}"), END]) == "\\boxed{3*5+7}"
    assert form.read(ids("3+5=8")) == "", "a thought that was never closed"
