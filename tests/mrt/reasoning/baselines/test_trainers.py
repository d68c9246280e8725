"""The rivals that sample or weigh in a way of their own: what their batches hold."""

import math
from typing import Any

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.baselines.adapt_think import AdaptThinkTrainer
from mrt.reasoning.baselines.dapo import DAPOTrainer
from mrt.reasoning.baselines.l1 import L1Trainer
from mrt.reasoning.baselines.length_penalty import LengthPenaltyTrainer
from mrt.reasoning.baselines.likelihood import LikelihoodTrainer, of_thought
from mrt.reasoning.baselines.s_grpo import SGRPOTrainer
from mrt.reasoning.baselines.spae import SPAETrainer
from mrt.reasoning.baselines.spo import SPOTrainer
from mrt.reasoning.training.record import completion_weights
from tests.mrt.reasoning.training.test_trainer import COMMON, TOKENIZER, problems, small_model, spy

pytestmark = pytest.mark.training

CLOSE = TOKENIZER("</think>")["input_ids"]
SMALL = {"max_steps": 1, "max_completion_length": 20, "thinking_budget": 10, "answer_tokens": 3, "probe": "none"}


def odd(completion_ids, **_):
    return [float(sum(ids) % 2) for ids in completion_ids]


def build(kind: Any, tmp_path, reward=odd, **changed):
    options = {
        **COMMON,
        "credit": "outcome",
        "segmenter": "blocks",
        "segmenter_options": {"size": 4},
        **SMALL,
        **changed,
    }
    return kind(
        model=small_model(),
        reward_funcs=reward,
        args=kind.args_class()(output_dir=str(tmp_path), **options),
        train_dataset=problems(),
        processing_class=TOKENIZER,
    )


def batches(trainer):
    """What the trainer learned from, one batch a generation, with the rows behind it."""
    found, inner = [], trainer._generate_and_score_completions

    def look(inputs):
        found.append((inner(inputs), inputs))
        return found[-1][0]

    trainer._generate_and_score_completions = look
    torch.manual_seed(0)
    trainer.train()
    return found


def some_never(completion_ids, key, **_):
    """Problems with an even number are always wrong, the others vary."""
    tails = [int(one[1:]) % 2 for one in key]
    return [float(tail and sum(ids) % 2) for tail, ids in zip(tails, completion_ids, strict=True)]


@pytest.mark.parametrize("rounds", [1, 10])
def test_groups_without_variance_are_refilled_or_left_out(tmp_path, rounds):
    trainer = build(DAPOTrainer, tmp_path, some_never, dynamic_rounds=rounds, per_device_train_batch_size=16)
    sampled = []
    take = trainer._count
    trainer._count = lambda spent, output: (sampled.append(len(output["advantages"])), take(spent, output))
    ((batch, _),) = batches(trainer)
    learned = (batch["completion_mask"].sum(1) > 0).reshape(-1, 4)
    assert (learned.all(1) == learned.any(1)).all()  # whole groups
    assert (batch["advantages"].reshape(-1, 4)[learned.any(1)].abs().amax(1) > 0.1).all()
    assert int(batch["num_items_in_batch"]) == int((batch["completion_mask"] * batch["tool_mask"]).sum())
    positions = batch["prompt_mask"].sum(1) + batch["completion_mask"].sum(1)
    assert trainer.cost()["updated"] == int(positions[learned.reshape(-1)].sum())
    logged = next(row for row in trainer.state.log_history if "loss" in row)
    if rounds == 1:
        assert sampled == [16]
        assert 0 < int(learned.any(1).sum()) < 4
        assert logged["dynamic/left_out"] == pytest.approx(1 - float(learned.float().mean()))
    else:
        assert learned.all()
        assert sampled[0] == 16
        assert len(sampled) > 1
        assert logged["dynamic/left_out"] == 0


def test_the_gradient_of_a_batch_with_groups_left_out_is_that_of_the_others_alone(tmp_path):
    """Token-mean losses do not see them: the same gradient as a batch that never had them."""
    gradients = []
    for rounds, dropped in ((1, False), (1, True)):
        trainer = build(DAPOTrainer, tmp_path / str(dropped), some_never, dynamic_rounds=rounds)
        inner = trainer._generate_and_score_completions

        def cut(inputs, inner=inner, dropped=dropped):
            batch = inner(inputs)
            keep = batch["completion_mask"].sum(1) > 0
            assert 0 < int(keep.sum()) < len(keep)
            if dropped:  # the others twice over: as many rows, twice the sum, twice the divisor
                rows = torch.cat([keep.nonzero()[:, 0]] * 2)[: len(keep)]
                total = batch["num_items_in_batch"] * len(rows) // int(keep.sum())
                batch = {name: value[rows] if value.ndim else total for name, value in batch.items()}
            return batch

        trainer._generate_and_score_completions = cut
        torch.manual_seed(2)
        trainer.train()
        gradients.append(next(row["grad_norm"] for row in trainer.state.log_history if "grad_norm" in row))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-4)


def test_a_serial_group_is_one_trace_and_its_exits(tmp_path):
    trainer = build(SGRPOTrainer, tmp_path)
    ((batch, rows),) = batches(trainer)
    trials = [row["trial"] for row in rows]
    for g in range(2):
        group = trials[4 * g : 4 * g + 4]
        whole = group[-1]
        assert not whole.forced
        lengths = [len(one.thought) for one in group[:-1]]
        assert lengths == sorted(lengths)
        for b, one in enumerate(group[:-1], start=4 * g):
            assert one.forced
            end = one.start + len(one.thought)
            assert one.completion[:end] == whole.completion[:end]
            assert one.completion[end] == CLOSE[0]
            mask = batch["tool_mask"][b][: len(one.completion)].tolist()
            assert mask[:end] == [1] * end  # the thought is trained in every row
            assert mask[end] == 0  # the close is not
            assert sum(mask[end:]) >= 1  # the answer is
            assert len(one.completion) <= 20
    with pytest.raises(ConfigError, match="groups of its own"):
        build(SGRPOTrainer, tmp_path / "mixed", rollout="mixed", thinking_budget=None)


def test_half_of_a_group_answers_at_once_and_has_probability_one_half(tmp_path):
    trainer = build(AdaptThinkTrainer, tmp_path, adapt_delta=0.25)
    records = []
    spy(trainer, lambda output, record: records.append(record))
    ((batch, rows),) = batches(trainer)
    old = batch["old_per_token_logps"]
    logits = small_model()(
        input_ids=torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1),
        attention_mask=torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1),
    ).logits[:, batch["prompt_ids"].shape[1] - 1 : -1]
    said = logits.detach().log_softmax(-1)
    for b, row in enumerate(rows):
        ids, at_once = row["trial"].completion, b % 4 < 2
        assert (ids[0] == CLOSE[0]) == at_once
        rest = said[b, 0, ids[0]] - torch.log1p(-said[b, 0, CLOSE[0]].exp())
        expected = math.log(0.5) + (0.0 if at_once else float(rest))
        assert float(old[b, 0]) == pytest.approx(expected, abs=1e-3)
        for t in range(1, len(ids)):
            if (row["trial"].chosen or [1] * len(ids))[t]:
                assert float(old[b, t]) == pytest.approx(float(said[b, t, ids[t]]), abs=1e-3)
    weights = completion_weights(trainer.weigh(records[0]), batch["completion_ids"].shape[1])
    plain = torch.tensor(odd([row["trial"].completion for row in rows])).reshape(2, 4)
    paid = plain - plain[:, 2:].mean(1, keepdim=True) + torch.tensor([0.25, 0.25, 0.0, 0.0])
    assert weights.amax(1).where(paid.reshape(-1) > 0, weights.amin(1)).tolist() == pytest.approx(
        paid.reshape(-1).tolist(), abs=1e-5
    )


def test_a_likelihood_pays_the_thought_and_not_the_answer_that_was_drawn(tmp_path):
    trainer = build(LikelihoodTrainer, tmp_path, credit="leave_one_out", probe="reference", train_probes=1.0)
    records = []
    spy(trainer, lambda output, record: records.append(record))
    ((batch, rows),) = batches(trainer)
    record = records[0]
    last = [[v for v in row["trial"].stop_values if v == v][-1] for row in rows]
    assert record.returns.tolist() == pytest.approx(last, abs=1e-4)
    inside = of_thought(record)
    for b, row in enumerate(rows):
        trial, width = row["trial"], batch["completion_ids"].shape[1]
        own = completion_weights(inside, int(record.actions.shape[1]) - batch["prompt_ids"].shape[1] + 1)[b]
        end = trial.start + len(trial.thought)
        closed = int(trial.closed and (trial.chosen or [1] * width)[end] == 1) if end < len(trial.completion) else 0
        assert int(own.sum()) in (end + closed, end + closed - trial.start)
    advantages = batch["advantages"]
    assert len(advantages) == 16  # eight traces, and the reference answer of each
    for row in advantages[8:]:
        assert set(row.unique().tolist()) <= {0.0, 1.0}
    with pytest.raises(ConfigError, match="likelihood reward"):
        build(LikelihoodTrainer, tmp_path / "other", probe="coupled")


def test_values_under_going_on_are_means_of_whole_continuations(tmp_path):
    trainer = build(SPOTrainer, tmp_path, credit="vineppo", probe="continue", probe_samples=3, probe_boundaries=0)
    judged = []
    judge = trainer.judge

    def listen(rows, texts, ids):
        judged.append([list(one) for one in ids])
        return judge(rows, texts, ids)

    plan = trainer.rollout.plan
    object.__setattr__(plan, "judge", listen)
    ((batch, rows),) = batches(trainer)
    answers = judged[0]
    assert len(answers) % 3 == 0
    measured = 0
    for row in rows:
        trial = row["trial"]
        for j, value in enumerate(trial.stop_values):
            cut = trial.start + ([0, *trial.ends][j])
            behind = [ids for ids in answers if ids[:cut] == trial.completion[:cut]]
            assert len(behind) >= 3
            assert all(len(ids) <= 20 for ids in behind)
            assert 0 <= value <= 1
            measured += 1
    assert measured >= 16
    # Only doubtful tokens are learned, and they are what the loss is divided by.
    likely = torch.zeros_like(batch["completion_mask"])
    for b, row in enumerate(rows):
        said = torch.tensor(row["trial"].logprobs)
        likely[b, : len(said)] = (said >= math.log(0.9)).int()
    assert int((batch["tool_mask"] * likely).sum()) == 0
    assert int(batch["num_items_in_batch"]) == int((batch["tool_mask"] * batch["completion_mask"]).sum()) > 0
    for wrong in ({"credit": "outcome"}, {"cut_every": 0}, {"probe": "coupled"}, {"rollout": "mixed"}):
        with pytest.raises(ConfigError):
            build(SPOTrainer, tmp_path / "wrong", **{"credit": "vineppo", "probe": "continue", **wrong})


def test_shaped_rewards_leave_forced_answers_and_the_log_alone(tmp_path):
    trainer = build(LengthPenaltyTrainer, tmp_path, length_alpha=0.5)
    records = []
    spy(trainer, lambda output, record: records.append(record))
    ((_, rows),) = batches(trainer)
    plain = odd([row["trial"].completion for row in rows])
    paid = records[0].returns.tolist()
    assert any(0 < one < 1 for one in paid)
    assert all((one > 0) == (right == 1) for one, right in zip(paid, plain, strict=True))
    logged = next(row for row in trainer.state.log_history if "loss" in row)
    assert logged["verifier/reward"] == pytest.approx(sum(plain) / len(plain))
    ids = [row["trial"].completion for row in rows]
    assert trainer.judge(rows, [""] * len(rows), ids) == plain
    with pytest.raises(ConfigError, match="shapes one reward function"):
        build(L1Trainer, tmp_path / "two", reward=[odd, odd])
    with pytest.raises(ConfigError, match="rollout='probed'"):
        build(L1Trainer, tmp_path / "plain", rollout="plain", thinking_budget=None)


def test_spae_measures_its_potential(tmp_path):
    trainer = build(SPAETrainer, tmp_path, credit="progress", probe="coupled", probe_samples=2)
    ((_, rows),) = batches(trainer)
    values = [v for row in rows for v in row["trial"].stop_values if v == v]
    assert all(-1 <= v <= 1 for v in values)
    assert min(values) < 0  # sure, or half sure, and wrong
    with pytest.raises(ConfigError, match="SPAE"):
        build(SPAETrainer, tmp_path / "gold", credit="progress", probe="gold")
