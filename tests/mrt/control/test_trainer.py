"""`ControlTrainer`: resume in the middle of a collection, free episodes, named failures, adapters, and numbers."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mrt.control import trainer as trainer_module
from mrt.control.envs import make_tasks
from mrt.control.failures import failures, shares
from mrt.control.loading import load_control_policy
from mrt.control.policy import ControlPolicy
from mrt.control.rollout import rollout
from mrt.control.trainer import VALUE, ControlConfig, ControlTrainer
from mrt.credit.returns import gae
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe
from mrt.trials import Trials
from tests.support import bandit
from tests.support.compare import assert_same_files, interrupted
from tests.support.policies import randomised
from tests.support.processes import run_module

pytestmark = pytest.mark.training

QUICK: dict[str, Any] = {
    "per_device_train_batch_size": 6,
    "max_steps": 10,
    "learning_rate": 1e-2,
    "logging_steps": 2,
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
}
HALLWAY = {"name": "hallway", "half": 2, "cost": 0.1, "episodes": 2}


def build(folder: Path, tasks: dict[str, Any] | None = None, policy: dict[str, Any] | None = None, **args: Any) -> Any:
    torch.manual_seed(0)
    made = make_tasks(**(tasks or HALLWAY))
    settings = ControlConfig(output_dir=str(folder), **{**QUICK, **args})
    model = ControlPolicy.for_spec(made.env.spec, **{"hidden_size": 8, **(policy or {})})
    return ControlTrainer(model, settings, made)


@pytest.mark.parametrize("memory", ["gru", "transformer"])
def test_a_run_goes_on_in_the_middle_of_a_collection(memory: str, tmp_path: Path) -> None:
    """Two epochs of two updates: checkpoints after 3, 6 and 9 updates fall inside collections of four."""
    options = {"epochs": 2, "minibatches": 2, "save_steps": 3, "auto_resume": True, "max_steps": 10}
    whole = build(tmp_path / "whole", policy={"memory": memory}, **options)
    whole.train()
    parts = interrupted(lambda: build(tmp_path / "parts", policy={"memory": memory}, **options), (4, 7))
    assert bandit.digest(parts) == bandit.digest(whole)
    assert_same_files(tmp_path / "whole", tmp_path / "parts")
    assert parts.cost.total == whole.cost.total
    rows = (tmp_path / "whole" / "trials.jsonl").read_text().splitlines()
    assert len(rows) == 3 * 6, "ten updates are three collections of six trials"


def test_two_processes_keep_one_policy(tmp_path: Path) -> None:
    """The critic's units follow the targets of both: each by its own would take the value heads apart."""
    done = run_module("tests.programs.control_ddp", tmp_path, processes=2, timeout=300)
    lines = done.stdout.replace("policy ", "\npolicy ").replace("logged ", "\nlogged ").splitlines()
    ours, theirs = (json.loads(line.split(maxsplit=2)[2]) for line in sorted(lines) if line.startswith("logged "))
    assert len(ours) == 6
    assert {"entropy", "value_error", "kl", "reward", "cost/env_steps"} <= set(ours[0])
    assert ours == theirs, "each logs what all of them did"
    first, second = (line.split(maxsplit=2)[2].split(" [") for line in sorted(lines) if line.startswith("policy "))
    assert first[0] == second[0], "weights and units"
    (*_, one, rows), (*_, other, more) = first[1].split(), second[1].split()
    assert float(one) + float(other) == pytest.approx(0, abs=1e-3), "weights of both together have mean 0"
    assert abs(float(one)) > 1e-2, "and each by itself has not"
    assert int(rows) > 0 < int(more)


def test_every_trial_of_a_collection_is_learnt_from_once_an_epoch(tmp_path: Path) -> None:
    trainer = build(tmp_path, epochs=2, minibatches=3)
    parts = [trainer.next_batch(range(6)) for _ in range(6)]
    assert [len(part) for part in parts] == [2] * 6
    collection = trainer.collection.batch.trials.inputs["observation"]
    for epoch in (parts[:3], parts[3:]):
        met = torch.cat([part.trials.logprobs for part in epoch])
        assert sorted(met.tolist()) == sorted(trainer.collection.batch.trials.logprobs.tolist())
    trainer.next_batch(range(6, 12))
    assert trainer.collection.batch.trials.inputs["observation"] is not collection, "used up: new trials are played"


def test_the_first_loss_by_hand(tmp_path: Path) -> None:
    """Before any update the ratio is 1: -mean(A) + w error / deviation^2 - beta entropy, over the acting steps."""
    trainer = build(tmp_path, value_weight=0.3, entropy=0.7, normalise=False, clip=None)
    batch = trainer.next_batch(range(6))
    trials = batch.trials
    loss = trainer.losses(batch)["policy"]
    mask = trials.mask
    with torch.no_grad():
        heads = trainer.policy(trials.inputs)
    plain = dataclasses.replace(trials, privileged={})
    error = (heads.values - gae(plain, 0.99, 0.95) - trials.values)[mask] / trainer.policy.value_std
    entropy = -(heads.logits.log_softmax(-1) * heads.logits.softmax(-1)).sum(-1)[mask].mean()
    expected = -gae(plain, 0.99, 0.95)[mask].mean() + 0.3 * error.square().mean() - 0.7 * entropy
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_clip_by_hand(tmp_path: Path) -> None:
    """min(r A, clip(r) A): a ratio of 1.5 counts 1.2 for A = 1 and 1.5 for A = -1; 0.5 counts 0.5 and 0.8."""
    trainer = build(tmp_path, clip=0.2, entropy=0.0, value_weight=0.0)
    batch = trainer.next_batch(range(6))
    trials = batch.trials
    losses = []
    for ratio, weight in ((1.5, 1.0), (1.5, -1.0), (0.5, 1.0), (0.5, -1.0)):
        old = trials.logprobs - torch.log(torch.tensor(ratio))
        moved = dataclasses.replace(trials, logprobs=old)
        changed = dataclasses.replace(batch, trials=moved, weights=torch.full_like(trials.rewards, weight))
        losses.append(trainer.losses(changed)["policy"].item())
    assert losses == pytest.approx([-1.2, 1.5, -0.5, 0.8], rel=1e-4)


def test_free_episodes_earn_nothing(tmp_path: Path) -> None:
    """What is paid in the first of two episodes moves neither the credit nor the critic's targets."""
    tasks = {"name": "dream-bus", "steps": 5, "episodes": 2, "free_episodes": 1}
    trainer = build(tmp_path, tasks, normalise=False, bounds=False)
    played = trainer.play(range(6))
    assert int(played.episode.max()) == 1
    bonus = torch.where(played.mask & (played.episode == 0), 5.0, 0.0)
    paid = dataclasses.replace(played, rewards=played.rewards + bonus)
    assert bool((bonus > 0).any())

    def weighed(trials: Trials) -> tuple[Tensor, Tensor]:
        batch = trainer.weighed(trials)
        return batch.weights, batch.targets[VALUE]

    for before, after in zip(weighed(played), weighed(paid), strict=True):
        assert torch.equal(before, after)
    assert not torch.equal(gae(paid), gae(played)), "in an episode that counts it would have"
    assert bool((weighed(played)[0][:, :5] != 0).any()), "exploring is credited with what it brings later"
    counted = build(tmp_path / "paid", {**tasks, "free_episodes": 0}, normalise=False, bounds=False)
    assert not torch.equal(counted.weighed(paid).weights, counted.weighed(played).weights)


def biased(trainer: Any, action: int, by: float) -> Any:
    with torch.no_grad():
        trainer.policy.actor.bias[action] += by
    return trainer


@pytest.mark.parametrize(
    ("tasks", "action", "by", "expected"),
    [
        ({"name": "bernoulli-bandit", "arms": 3, "pulls": 5}, 1, 50.0, ["constant action"]),
        ({"name": "bernoulli-bandit", "arms": 3, "pulls": 5}, 1, 2.0, []),
        ({"name": "informative-bandit"}, 10, -50.0, ["never explores"]),
        ({"name": "informative-bandit"}, 3, 50.0, ["constant action", "never explores"]),
        ({"name": "informative-bandit"}, 3, 0.0, []),
    ],
)
def test_failures_by_name(tasks: dict[str, Any], action: int, by: float, expected: list[str], tmp_path: Path) -> None:
    trainer = biased(build(tmp_path, tasks, per_device_train_batch_size=200), action, by)
    assert failures(shares(trainer.tasks.env, trainer.play(range(200)))) == expected


def test_a_failure_is_told_once_with_its_cure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"max_steps": 4, "logging_steps": 1, "learning_rate": 0.0, "save_strategy": "no"}
    tasks = {"name": "bernoulli-bandit", "arms": 2, "pulls": 5}
    with caplog.at_level(logging.WARNING, logger="mrt.control.trainer"):
        failed = biased(build(tmp_path / "failed", tasks, **options), 0, 50.0)
        failed.train()
    told = [record.getMessage() for record in caplog.records if "constant action" in record.getMessage()]
    assert len(told) == 1
    assert "Cure: lower gamma" in told[0]
    logged = [row["failure/constant_action"] for row in failed.state.log_history if "failure/constant_action" in row]
    assert logged[:4] == [0, 1, 1, 1], "the first collection is of a policy that has learnt nothing yet"
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="mrt.control.trainer"):
        healthy = build(tmp_path / "healthy", tasks, **options)
        healthy.train()
    assert not [record for record in caplog.records if record.name == "mrt.control.trainer"]
    assert all(row["failure/constant_action"] == 0 for row in healthy.state.log_history if "reward" in row)


def test_continuous_actions_have_no_shares(tmp_path: Path) -> None:
    trainer = build(tmp_path, {"name": "navigation-2d"})
    assert shares(trainer.tasks.env, trainer.play(range(2))) == {}


def test_the_entropy_weight_moves_in_a_line(tmp_path: Path) -> None:
    trainer = build(tmp_path, entropy=1.0, entropy_end=0.0)
    trainer.state.max_steps = 10
    weights = []
    for step in (0, 5, 10):
        trainer.state.global_step = step
        weights.append(trainer.entropy_weight)
    assert weights == [1.0, 0.5, 0.0]
    assert build(tmp_path, entropy=0.3).entropy_weight == 0.3


def test_progress_is_a_credit_here_too(tmp_path: Path) -> None:
    """Two trials a task, J by exploitation episodes: the weights are those of `credit.progress` on the record."""
    from mrt.credit.progress import progress

    options = {"credit": "progress", "trials_per_task": 2, "probe_samples": 1, "normalise": False}
    trainer = build(tmp_path, **options)
    batch = trainer.next_batch(range(6))
    trials = batch.trials
    assert len(trials) == 12
    assert trials.group.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert torch.allclose(batch.weights, progress(dataclasses.replace(trials, privileged={})))
    assert not trials.stop_values.isnan().any()
    trainer = build(tmp_path / "train", max_steps=2, **options)
    trainer.train()
    assert {"progress/mean", "regret/stop", "regret/return"} <= set(trainer.state.log_history[0])


@pytest.mark.parametrize("probe", [{"probe": "exact"}, {"probe_samples": 1}])
def test_progress_of_single_trials_comes_on_top_of_the_return(probe: dict[str, Any], tmp_path: Path) -> None:
    """One trial a task has no group: the base is GAE with the trainer's own gamma and lambda."""
    from mrt.credit.progress import progress_bonus
    from mrt.credit.returns import gae

    options = {"credit": "progress", "credit_options": {"alpha": 2.0, "center": "batch"}, "normalise": False, **probe}
    trainer = build(tmp_path, HALLWAY, gamma=0.9, lam=0.5, probe_last=False, **options)
    batch = trainer.next_batch(range(6))
    trials = dataclasses.replace(batch.trials, privileged={})
    bonus = progress_bonus(trials, center="batch")
    assert torch.allclose(batch.weights, gae(trials, 0.9, 0.5) + 2.0 * bonus)
    assert torch.allclose(batch.targets["value"], torch.where(trials.mask, gae(trials, 0.9, 0.5) + trials.values, 0.0))
    assert trials.stop_values is not None
    assert trials.stop_values.isnan().any(0).tolist() == [False] * (trials.stop_values.shape[1] - 1) + [True]
    paid = trainer.cost.total["probe_steps"]
    assert paid == 0 if "probe" in probe else paid > 0


def test_an_exact_probe_that_nobody_knows_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no exact value of stopping is known for sparse-semicircle"):
        build(tmp_path, {"name": "sparse-semicircle"}, credit="progress", probe="exact")


def test_every_pull_an_episode_learns_to_ask(tmp_path: Path) -> None:
    """The bonus reaches the step that asked: arm 11 at the first pull is weighed above every other first pull."""
    tasks = {"name": "informative-bandit", "pulls": 1, "episodes": 5}
    options = {"credit": "progress", "credit_options": {"center": "batch"}, "probe": "exact", "normalise": False}
    trainer = build(tmp_path, tasks, per_device_train_batch_size=256, minibatches=1, gamma=1.0, **options)
    batch = trainer.next_batch(range(256))
    first, asked = batch.weights[:, 0], batch.trials.actions[:, 0] == 10
    plain = batch.targets["value"][:, 0] - batch.trials.values[:, 0]
    assert float(first[asked].mean() - first[~asked].mean()) > 2
    assert float(plain[asked].mean() - plain[~asked].mean()) < 0.5  # who cannot use what it is told gains nothing


def test_an_adapter_from_a_recipe(tmp_path: Path) -> None:
    """LoRA on the transformer: base weights stay, the adapter learns, and what was saved says the same again."""
    from peft import PeftModel

    spec = make_tasks(**HALLWAY).env.spec
    options = {"layers": 1, "heads": 2}
    base = randomised(ControlPolicy.for_spec(spec, memory="transformer", hidden_size=8, memory_options=options))
    base.save_pretrained(tmp_path / "base")
    recipe = tmp_path / "lora.yaml"
    recipe.write_text(
        f"""
trainer: mrt.control.trainer:ControlTrainer
model: {tmp_path / "base"}
tasks: {{name: hallway, half: 2, cost: 0.1, episodes: 2}}
peft: {{r: 2, target_modules: [q_proj, v_proj], modules_to_save: [actor, critic]}}
args: {{max_steps: 3, per_device_train_batch_size: 6, learning_rate: 0.05, save_steps: 3, use_cpu: true,
       disable_tqdm: true, report_to: none}}
output_dir: {tmp_path / "run"}
"""
    )
    trainer = ControlTrainer.from_recipe(load_recipe(str(recipe)), tmp_path / "run")
    trainer.train()
    after = {name: value for name, value in trainer.policy.state_dict().items() if "lora_" not in name}
    kept = [name for name in after if name.endswith("q_proj.base_layer.weight") or name.endswith("o_proj.weight")]
    assert len(kept) == 2
    for name in kept:
        plain = name.replace("base_model.model.", "").replace(".base_layer", "")
        assert torch.equal(after[name], base.state_dict()[plain]), name
    moved = [value for name, value in trainer.policy.state_dict().items() if "lora_B" in name]
    assert len(moved) == 2
    assert all(bool((value != 0).any()) for value in moved)
    again = PeftModel.from_pretrained(load_control_policy(tmp_path / "base"), str(tmp_path / "run" / "checkpoint-3"))
    params = trainer.tasks.batch(0, range(4))
    trials = rollout(trainer.tasks.env, trainer.policy.eval(), params)
    with torch.no_grad():
        heads, expected, first = again.eval()(trials.inputs), trainer.policy(trials.inputs), base(trials.inputs)
    assert torch.allclose(heads.logits, expected.logits, atol=1e-6)
    assert torch.allclose(heads.values, expected.values, atol=1e-6), "the critic's units are the base's"
    assert not torch.allclose(heads.values, first.values, atol=1e-3)
    assert not torch.allclose(heads.logits, first.logits, atol=1e-3)


def test_a_recipe_goes_on_from_a_run(tmp_path: Path) -> None:
    trainer = build(tmp_path / "run", max_steps=1, save_strategy="no")
    trainer.save_model(str(tmp_path / "run" / "model"))
    policy = load_control_policy(tmp_path / "run")
    assert bandit.digest_of(policy.state_dict()) == bandit.digest_of(trainer.policy.state_dict())
    with pytest.raises(ConfigError, match="holds no policy"):
        load_control_policy(tmp_path)
    recipe = load_recipe("control/rl2-bandit", [f"model={tmp_path / 'run'}"])
    with pytest.raises(ConfigError, match="a model to go on from or a policy to build, not both"):
        ControlTrainer.make_policy(recipe, make_tasks(**HALLWAY))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"minibatches": 4}, "minibatches=4 does not divide the 6 trials of a collection"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"credit": "progress"}, "credit='progress' needs stop values: set probe_samples"),
        ({"credit": "gaee"}, "gaee"),
        ({"probe": "exacct"}, "probe='exacct' is unknown"),
    ],
)
def test_mistakes_in_the_arguments(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        build(tmp_path, **changed)


@pytest.mark.parametrize("credit", ["outcome", "leave_one_out"])
def test_a_group_of_one_has_no_outcome_credit(credit: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"every weight is 0\. Set trials_per_task to at least 2"):
        build(tmp_path, credit=credit)
    assert build(tmp_path, credit=credit, trials_per_task=2).credit is not None


def test_without_an_oracle_there_are_no_bounds(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Sumo's dense reward has no known optimum: said once, and the run goes on without regret."""
    with caplog.at_level(logging.WARNING, logger="mrt.control.trainer"):
        trainer = build(tmp_path, {"name": "sumo", "rounds": 2, "reward": "dense"}, max_steps=2)
    assert [record.message for record in caplog.records] == ["no bounds are known for sumo: regret is not logged"]
    trainer.train()
    assert not any("regret/return" in row for row in trainer.state.log_history)


def test_bounds_are_computed_where_they_are_logged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates a collection, a log every fourth: every second collection needs them."""
    asked = []
    known = trainer_module.episode_bounds
    monkeypatch.setattr(trainer_module, "episode_bounds", lambda *args: asked.append(1) or known(*args))
    trainer = build(tmp_path, epochs=2, minibatches=1, max_steps=8, logging_steps=4)
    asked.clear()
    trainer.train()
    assert len(asked) == 2
    logs = [row for row in trainer.state.log_history if "loss" in row]
    assert len(logs) == 2
    assert all(row["regret/return"] == row["regret/return"] for row in logs)
