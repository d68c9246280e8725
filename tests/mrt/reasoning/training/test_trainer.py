"""MRTTrainer: with the outcome credit it is TRL's GRPO; with progress every episode gets its own weight."""

import json
import math
from itertools import pairwise

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from mrt.credit.outcome import outcome
from mrt.errors import ConfigError
from mrt.reasoning.engines.attach import engine_of
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.mixed import PrefixPool
from mrt.reasoning.training.record import build_trials, completion_weights
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.trials import PROVERS, Stop

pytestmark = pytest.mark.training

TOKENIZER = build_tokenizer()
COMMON = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 16,
    "learning_rate": 1e-3,
    "max_steps": 2,
    "use_cpu": True,
    "report_to": [],
    "logging_steps": 1,
    "save_strategy": "no",
    "seed": 3,
    "top_k": 0,
}
TRL_ONLY = {"bf16": False, "gradient_checkpointing": False, "lr_scheduler_type": "constant", "data_seed": 3}


def small_model(hidden: int = 32):
    return build_model(TOKENIZER, hidden=hidden, layers=2, heads=2, seed=1)


def odd_tokens(completions, completion_ids, **_):
    """A reward that varies: the share of odd token ids, unscorable for a completion that begins with token 7."""
    return [None if ids[0] == 7 else sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]


def problems(count=16):
    prompts = [[{"role": "user", "content": f"{i} 5->{i + 5}"}] for i in range(count)]
    solutions = [[f"{i}+5", f"5+{i}"] for i in range(count)]
    return Dataset.from_dict({"prompt": prompts, "solutions": solutions, "key": [f"k{i}" for i in range(count)]})


def mrt(tmp_path, reward=odd_tokens, dataset=None, model=None, **changed):
    args = MRTConfig(output_dir=str(tmp_path / "mrt"), **{**COMMON, "segmenter": "blocks", **changed})
    if args.segmenter == "blocks":
        args.segmenter_options = {"size": 4}
    return MRTTrainer(
        model=model or small_model(),
        reward_funcs=reward,
        args=args,
        train_dataset=dataset or problems(),
        processing_class=TOKENIZER,
    )


def weights(trainer):
    return {name: value.detach().clone() for name, value in trainer.model.named_parameters()}


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "bnpo"])
def test_with_the_outcome_credit_it_is_grpo(tmp_path, loss_type):
    """Two updates of TRL and of ours from one seed: the same losses and weights, hence the same gradients."""
    ours = mrt(tmp_path, credit="outcome", rollout="plain", loss_type=loss_type, beta=0.0)
    theirs = GRPOTrainer(
        model=small_model(),
        reward_funcs=odd_tokens,
        args=GRPOConfig(output_dir=str(tmp_path / "trl"), loss_type=loss_type, beta=0.0, **COMMON, **TRL_ONLY),
        train_dataset=problems(),
        processing_class=TOKENIZER,
    )
    for trainer in (ours, theirs):
        torch.manual_seed(0)
        trainer.train()
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (ours, theirs)]
    assert len(losses[0]) == 2
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    before, reference = dict(small_model().named_parameters()), weights(theirs)
    for name, value in weights(ours).items():
        assert torch.allclose(value, reference[name], atol=1e-6), name
    assert any(not torch.equal(before[name], value) for name, value in reference.items())


def test_rows_of_similar_length_at_a_time_change_neither_loss_nor_gradients(tmp_path):
    """40 rows of 1 to 30 tokens, more than go through the loss at once: log-probabilities, entropies and gradients."""
    trainer = mrt(tmp_path, credit="outcome", rollout="plain")
    generator = torch.Generator().manual_seed(0)
    prompt, width = 6, 30
    ids = torch.randint(4, len(TOKENIZER), (40, prompt + width), generator=generator)
    lengths = torch.randint(1, width + 1, (40,), generator=generator)
    before = torch.randint(0, 3, (40,), generator=generator)  # left padding of the prompts
    mask = torch.ones_like(ids)
    mask[:, prompt:] = torch.arange(width) < lengths[:, None]
    mask[:, :prompt] = torch.arange(prompt) >= before[:, None]
    grids = torch.rand(40, width, generator=generator) * mask[:, prompt:]
    results = []
    for one in (
        trainer._get_per_token_logps_and_entropies,
        super(MRTTrainer, trainer)._get_per_token_logps_and_entropies,
    ):
        trainer.model.zero_grad()
        logps, entropies, _ = one(trainer.model, ids, mask, width, compute_entropy=True)
        (logps * grids).sum().backward()
        gradients = torch.cat([p.grad.flatten() for p in trainer.model.parameters()])
        results.append((logps * mask[:, prompt:], entropies * mask[:, prompt:], gradients))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5, rtol=1e-4)
    chunked, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, width, batch_size=7)
    assert torch.allclose(chunked * mask[:, prompt:], results[1][0], atol=1e-5)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_our_outcome_weights_are_trls_advantages(tmp_path, scale):
    trainer = mrt(tmp_path, credit="outcome", rollout="probed", probe="gold", scale_rewards=scale)
    seen = []

    def compare(output, record):
        expected = output["advantages"][:, None] * output["completion_mask"]
        got = completion_weights(outcome(record, scale=scale), output["completion_ids"].shape[1])
        seen.append((expected - got).abs().max())

    spy(trainer, compare)
    trainer.train()
    assert len(seen) == 2
    assert max(seen) < 1e-6


def spy(trainer, look):
    """Calls look(output, record) after every generation, without changing anything."""
    original, records = trainer._measure, []
    trainer._measure = lambda record, *rest: (records.append(record), original(record, *rest))[1]
    generate = trainer._generate_and_score_completions

    def watched(inputs):
        output = generate(inputs)
        look(output, records[-1])
        return output

    trainer._generate_and_score_completions = watched


@pytest.mark.parametrize("probe", ["gold", "coupled", "pooled", "learned", "greedy"])
def test_progress_weighs_every_episode_by_its_own_gain(tmp_path, probe):
    trainer = mrt(tmp_path, credit="progress", alpha=2.0, probe=probe, probe_samples=3)
    checked = []

    def look(output, record):
        extra = output["advantages"] - completion_weights(outcome(record), output["completion_ids"].shape[1])
        episode = completion_weights(record.episode, output["completion_ids"].shape[1])
        for b in range(len(record)):
            for e in range(int(record.episodes[b])):
                gain = float(record.stop_values[b, e + 1] - record.stop_values[b, e])
                chosen = extra[b][(episode[b] == e) & output["completion_mask"][b].bool()]
                if bool(record.scored[b]):
                    assert torch.allclose(chosen, torch.tensor(2.0 * gain), atol=1e-5)
                    checked.append(len(chosen))
        assert (extra[(episode < 0)].abs() < 1e-6).all()

    spy(trainer, look)
    trainer.train()
    assert sum(checked) > 50
    logged = [row for row in trainer.state.log_history if "loss" in row]
    names = ("probe/J0", "progress/mean", "regret/stop", "regret/normalised", "watch/answer_at_once", "cost/total")
    assert all(math.isfinite(row[name]) for row in logged for name in names)
    assert logged[0]["watch/held_out_gap"] == pytest.approx(0, abs=1e-6) or probe not in ("gold", "greedy")
    rows = [json.loads(line) for line in (tmp_path / "mrt" / "trials.jsonl").read_text().splitlines()]
    assert len(rows) == 16
    assert all(len(row["stop_values"]) == len(row["ends"]) + 1 for row in rows)


def test_looking_where_j_moved_changes_little_but_the_cost(tmp_path):
    """Threshold 0: every interval over which J moved at all is split, so every boundary is known; and a huge one."""
    records = {}
    for moved in (None, 0.0, 10.0):
        trainer = mrt(tmp_path / str(moved), credit="progress", alpha=2.0, probe="gold", probe_moved=moved)
        seen = []
        spy(trainer, lambda output, record, seen=seen: seen.append((output["advantages"], record.stop_values)))
        torch.manual_seed(0)
        trainer.train()
        records[moved] = (*seen[0], trainer.cost()["probed"])
    for one, other in zip(records[None][:2], records[0.0][:2], strict=True):
        assert torch.allclose(one.nan_to_num(9), other.nan_to_num(9), atol=1e-5)
    ends_only = records[10.0][1]
    assert ((~ends_only.isnan()).sum(1) <= 2).all()
    assert records[10.0][2] < 0.7 * records[None][2]


def test_the_probe_that_is_chosen_where_none_is_named(tmp_path):
    assert mrt(tmp_path).args.probe == "coupled"
    assert MRTConfig(output_dir=str(tmp_path), use_vllm=True, use_cpu=True).probe == "sampled"


def test_the_length_of_a_forced_answer_is_an_argument(tmp_path):
    trainer = mrt(tmp_path, answer_tokens=5)
    assert trainer.rollout.fmt.max_answer_tokens == trainer.rollout.plan.fmt.max_answer_tokens == 5
    assert mrt(tmp_path / "other").rollout.fmt.max_answer_tokens == 128
    with pytest.raises(ConfigError, match="answer_tokens=0 must be at least 1"):
        mrt(tmp_path, answer_tokens=0)


@pytest.mark.parametrize("probe", ["gold", "none"])
def test_a_thought_that_used_up_its_budget_is_made_to_answer(tmp_path, probe):
    """Budget 8 of 30: the close is given and never trained, the answer is the policy's own; the stop is BUDGET."""
    credit = "progress" if probe == "gold" else "outcome"
    trainer = mrt(tmp_path, credit=credit, probe=probe, thinking_budget=8, max_completion_length=30)
    close = TOKENIZER("</think>\\boxed{")["input_ids"]
    seen = {"forced": 0, "own": 0}

    def look(output, record):
        for b, (ids, mask) in enumerate(zip(output["completion_ids"], output["completion_mask"], strict=True)):
            ids = ids[mask.bool()].tolist()
            chosen = output["tool_mask"][b][mask.bool()].tolist()
            if len(ids) <= 8 or close[0] in ids[:8]:  # it ended its turn or its thought by itself
                assert all(chosen[:-1])
                seen["own"] += 1
                continue
            assert int(record.trial_stop[b]) == Stop.BUDGET
            seen["forced"] += 1
            assert ids[8 : 8 + len(close)] == close
            assert chosen[: 8 + len(close)] == [1] * 8 + [0] * len(close)
            assert chosen[8 + len(close)] == 1
            assert len(ids) <= 30
            assert int(record.episode[b].max()) == 1  # two blocks of four: close and answer are no episode
            if probe == "gold":
                assert not record.stop_values[b, :3].isnan().any()

    spy(trainer, look)
    trainer.train()
    assert seen["forced"] > 5
    with pytest.raises(ConfigError, match="leave room"):
        mrt(tmp_path, thinking_budget=30, max_completion_length=30)
    with pytest.raises(ConfigError, match="needs rollout='probed'"):
        mrt(tmp_path, rollout="mixed", thinking_budget=8)


def test_a_run_ends_at_its_cost_and_schedules_follow_it(tmp_path):
    """The learning rate falls linearly with the cost, alpha moves with it, and the last update is the one that brings
    the run to `max_cost`."""
    options = {"credit": "progress", "probe": "gold", "alpha": 2.0, "alpha_end": 1.0, "lr_scheduler_type": "linear"}
    trainer = mrt(tmp_path, max_cost=6000, max_steps=100, **options)
    trainer.train()
    rows = [row for row in trainer.state.log_history if "cost/total" in row]
    assert rows[-2]["cost/total"] < 6000 <= rows[-1]["cost/total"]
    for before, row in pairwise(rows):
        done = before["cost/total"] / 6000
        assert row["progress/alpha"] == pytest.approx(2.0 - done, abs=0.2)
        assert row["learning_rate"] <= before["learning_rate"]
    assert rows[-1]["learning_rate"] < 0.5e-3
    with pytest.raises(ConfigError, match="max_cost counts positions"):
        mrt(tmp_path / "plain", credit="outcome", rollout="plain", max_cost=100)


def test_mixed_group_cuts_a_prefix_and_forces_half_of_the_group(tmp_path):
    trainer = mrt(tmp_path, credit="outcome", rollout="mixed", probe="none", train_forced=False)
    seen = []

    def look(output, record):
        forced = record.trial_stop == Stop.FORCED
        assert forced.tolist() == [False, False, True, True] * 2
        for g in range(2):
            rows = slice(4 * g, 4 * g + 4)
            forks = record.fork_episode[rows]
            assert len(forks.unique()) == 1
            mask = output["completion_mask"][rows] * output["tool_mask"][rows]
            assert mask[2:].sum() == 0  # neither prefix, suffix nor answer of a forced row is trained
            assert (mask[:2].sum(1) > 0).all()
            start, ids = int(mask[0].argmax()), output["completion_ids"][rows]
            assert (ids[:, :start] == ids[:1, :start]).all()  # the shared prefix
            seen.append(int(forks[0]))

    spy(trainer, look)
    trainer.train()
    assert len(seen) == 4


def test_mixed_group_can_train_the_forced_answers_but_never_the_suffix(tmp_path):
    trainer = mrt(tmp_path, credit="outcome", rollout="mixed", probe="none", train_forced=True)
    close = trainer.rollout.fmt.close_ids[0]

    def look(output, record):
        for b in range(len(record)):
            if record.trial_stop[b] != Stop.FORCED:
                continue
            ids, mask = output["completion_ids"][b].tolist(), output["tool_mask"][b] * output["completion_mask"][b]
            first = ids.index(close)
            assert mask[: first + 2].sum() == 0  # prefix, </think> and \boxed{
            assert mask.sum() >= 1

    spy(trainer, look)
    trainer.train()


def test_mixed_group_with_a_probe_measures_from_the_fork_on(tmp_path):
    trainer = mrt(tmp_path, credit="progress", alpha=1.0, rollout="mixed", probe="gold", max_completion_length=24)

    def look(output, record):
        for b in range(len(record)):
            measured = (~record.stop_values[b].isnan()).nonzero()[:, 0].tolist()
            if record.trial_stop[b] == Stop.FORCED:
                assert measured == []
            else:
                fork = int(record.fork_episode[b])
                assert measured == list(range(fork, int(record.episodes[b]) + 1))

    spy(trainer, look)
    trainer.train()


def test_stale_prefixes_carry_their_age_and_are_refreshed():
    pool = PrefixPool(max_age=5)
    pool.put("a", [1, 2, 3], step=10)
    assert pool.take("a", 13) == ([1, 2, 3], 3)
    assert pool.take("a", 16) is None
    assert pool.take("b", 10) is None
    pool.put("a", [4], step=16)
    restored = PrefixPool(max_age=5)
    restored.load_state_dict(json.loads(json.dumps(pool.state_dict())))
    assert restored.take("a", 16) == ([4], 0)
    PrefixPool(max_age=0).put("a", [1], step=0)


def test_stale_prefixes_are_used_in_training(tmp_path):
    trainer = mrt(
        tmp_path, credit="outcome", rollout="mixed", probe="none", prefix_max_age=3, max_steps=3, dataset=problems(2)
    )
    ages = []
    spy(trainer, lambda output, record: ages.append(record.prefix_age.unique().tolist()))
    trainer.train()
    assert ages == [[0], [1], [1]]


def assert_drawn_from_the_adapter(trainer):
    """Rollouts and probes come from the adapted model, and not from its base."""
    ids = [[9, 10, 11, 12, 13, 14]]

    def expected(model):
        with torch.no_grad():
            return model(torch.tensor(ids)).logits[0, :-1].double().log_softmax(-1).gather(-1, torch.tensor(ids).T[1:])

    trainer.model.eval()
    with engine_of(trainer) as engine:
        (drawn,) = engine.token_logprobs(ids)
    with trainer.model.disable_adapter():
        base = expected(trainer.model)
    assert torch.allclose(drawn, expected(trainer.model)[:, 0], atol=1e-6)
    assert (drawn - base[:, 0]).abs().max() > 1e-5
    trainer.model.train()


def test_lora_trains_the_adapter_alone(tmp_path):
    from peft import LoraConfig

    args = MRTConfig(output_dir=str(tmp_path), credit="progress", probe="gold", segmenter="blocks", **COMMON)
    args.segmenter_options = {"size": 4}
    trainer = MRTTrainer(
        model=small_model(),
        reward_funcs=odd_tokens,
        args=args,
        train_dataset=problems(),
        processing_class=TOKENIZER,
        peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    )
    before = weights(trainer)
    trainer.train()
    assert_drawn_from_the_adapter(trainer)
    changed = {name for name, value in weights(trainer).items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora" in name for name in changed)
    assert trainer.held_out.frozen is None  # the disabled adapter is the held-out prover
    assert "watch/held_out_J" in trainer.state.log_history[0]


def test_a_bonus_that_cancels_stops_the_run_before_its_first_update(tmp_path):
    with pytest.raises(ConfigError, match="mixed"):
        mrt(tmp_path, credit="progress", progress_mode="trace")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credit": "progres"}, "did you mean 'progress'"),
        ({"credit": "progress", "rollout": "plain"}, "needs stop values"),
        ({"credit": "brpo", "probe": "none"}, "needs stop values"),
        ({"probe": "golden"}, "did you mean 'gold'"),
        ({"probe_share": 0.0}, "probe_share"),
        ({"num_generations": 3, "per_device_train_batch_size": 9, "rollout": "mixde"}, "did you mean 'mixed'"),
    ],
)
def test_impossible_settings_are_named(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        mrt(tmp_path, **options)


def test_record_of_a_batch_by_hand():
    """Prompt of 2 (one padded), completion of 5: a thought in episodes of 2 + 1 tokens, its close, one answer token."""
    output = {
        "prompt_ids": torch.tensor([[5, 6], [0, 6]]),
        "prompt_mask": torch.tensor([[1, 1], [0, 1]]),
        "completion_ids": torch.tensor([[10, 11, 12, 13, 14], [20, 21, 0, 0, 0]]),
        "completion_mask": torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
    }
    trials = [
        Trial([10, 11, 12, 13, 14], 0, [2, 3], True, stop_values=[0.1, 0.4, 0.2], errors=[0.0] * 3),
        Trial([20, 21], 0, [2], False, stop_values=[0.1, 0.3], errors=[0.0] * 2),
    ]
    record = build_trials(output, trials, torch.tensor([1.0, math.nan]), 2, prover="forced", keys=["a", "a"])
    assert record.inputs["input_ids"][0].tolist() == [5, 6, 10, 11, 12, 13]
    assert record.actions[0].tolist() == [6, 10, 11, 12, 13, 14]
    assert record.mask[0].tolist() == [False, True, True, True, True, True]
    assert record.episode[0].tolist() == [-1, 0, 0, 1, -1, -1]
    assert record.episode[1].tolist() == [-1, 0, 0, -1, -1, -1]
    assert record.rewards[0].tolist() == [0, 0, 0, 0, 0, 1]
    assert record.scored.tolist() == [True, False]
    assert record.group.tolist() == [0, 0]
    assert record.stop.tolist() == [[Stop.TERMINATED, Stop.TERMINATED], [Stop.BUDGET, Stop.PADDING]]
    assert record.trial_stop.tolist() == [Stop.TERMINATED, Stop.BUDGET]
    assert record.stop_values[1].tolist()[:2] == pytest.approx([0.1, 0.3])
    assert record.stop_values[1, 2].isnan()
    assert record.prover.tolist() == [PROVERS["forced"]] * 2
    weights = torch.arange(12.0).reshape(2, 6)
    assert completion_weights(weights, 5).tolist() == [[1, 2, 3, 4, 5], [7, 8, 9, 10, 11]]
