"""The trainer of trials in text: its loss, its exact resume, what it refuses, and that it learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mrt.control.envs.text import EnvInText
from mrt.errors import ConfigError
from mrt.reasoning.attempts.countdown import CountdownAttempts
from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.training.attempts import AttemptsTrainer
from mrt.reasoning.training.attempts_config import AttemptsConfig
from mrt.runs.recipe import load_recipe
from mrt.text_tasks import TextTasks

TOKENIZER = build_tokenizer()


def trainer(folder: Path, tasks: TextTasks | None = None, **changed: Any) -> AttemptsTrainer:
    options: dict[str, Any] = {
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "trials_per_task": 3,
        "epochs": 2,
        "minibatches": 2,
        "style": "plain",
        "choose": True,
        "learning_rate": 1e-2,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": [],
        "save_strategy": "no",
        **changed,
    }
    model = build_model(TOKENIZER, hidden=16, layers=1, heads=2)
    tasks = tasks or EnvInText("bernoulli-bandit", arms=2, pulls=4)
    return AttemptsTrainer(model, AttemptsConfig(output_dir=str(folder), **options), tasks, TOKENIZER)


@pytest.mark.parametrize("choose", [True, False])
def test_logprobs_of_the_rollout_are_those_of_the_loss(tmp_path, choose):
    torch.manual_seed(0)
    one = trainer(tmp_path, choose=choose, temperature=0.8, action_tokens=3)
    trials = one.play([0, 1])
    assert trials.logprobs is not None
    assert torch.allclose(one.logprobs(trials), trials.logprobs, atol=1e-5)
    assert trials.group.tolist() == [0] * 3 + [1] * 3
    assert choose or float(trials.privileged["unread"].mean()) > 0.5, "an untrained model writes no arms"


def test_the_loss_is_the_gradient_of_the_weighted_logprobs(tmp_path):
    torch.manual_seed(0)
    one = trainer(tmp_path, epochs=1, minibatches=1, entropy=0.0)
    batch = one.next_batch([0, 1])
    mask = batch.trials.mask
    loss = one.losses(batch)["policy"]
    (found,) = torch.autograd.grad(loss, one.model.model.norm.weight)
    plain = -(batch.weights * one.logprobs(batch.trials))[mask].mean()
    (expected,) = torch.autograd.grad(plain, one.model.model.norm.weight)
    assert torch.allclose(found, expected, atol=1e-6), "before the first update every ratio is 1"
    assert bool(batch.weights[mask].any())


def test_a_resumed_run_is_the_run(tmp_path):
    """The checkpoint lies in the middle of a collection."""
    options = {"max_steps": 6, "credit": "progress", "probe": "payoff"}
    whole = trainer(tmp_path / "whole", **options)
    whole.train()
    cut = trainer(tmp_path / "cut", save_strategy="steps", save_steps=3, **options)
    cut.train()
    again = trainer(tmp_path / "cut", save_strategy="no", **options)
    torch.manual_seed(99)
    again.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-3"))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    assert whole.cost.total == again.cost.total
    assert {"sampled", "probed", "updated"} <= set(whole.cost.total)


def test_a_run_ends_at_its_cost(tmp_path):
    one = trainer(tmp_path, max_steps=50, max_cost=600.0)
    one.train()
    assert one.state.global_step < 50


def test_countdown_across_attempts_takes_a_step(tmp_path):
    tasks = CountdownAttempts(attempts=2, high=9, train=40, warmstart=8, test=8)
    one = trainer(tmp_path, tasks, style="chat", choose=False, action_tokens=4, max_steps=1, clip=None)
    one.train()
    trials = one.play([0])
    assert trials.episodes.tolist() == [2] * 3
    logged = [row for row in one.state.log_history if "unread" in row]
    assert logged[0]["unread"] == 1.0
    assert logged[0]["reward"] == pytest.approx(-0.2)


def test_what_cannot_be_is_refused(tmp_path):
    for wrong, said in (
        ({"credit": "progress"}, "needs stop values"),
        ({"credit": "gae"}, "needs a critic"),
        ({"credit": "vineppo", "probe": "payoff"}, "going on"),
        ({"trials_per_task": 1}, "at least 2"),
        ({"temperature": 0.0}, "above 0"),
        ({"minibatches": 5}, "does not divide"),
        ({"credit_options": {"gama": 1}}, "did you mean 'gamma'"),
        ({"probe": "guessed"}, "unknown"),
    ):
        with pytest.raises(ConfigError, match=said):
            AttemptsConfig(output_dir=str(tmp_path), **{"max_steps": 1, "use_cpu": True, **wrong})


@pytest.mark.parametrize("name", ["attempts/bandit-two-arms", "attempts/countdown", "attempts/countdown-single"])
def test_recipes_build_their_trainers(name, tmp_path, tiny_dir):
    small = ["args.use_cpu=true", "args.report_to=[]", "args.bf16=false", "args.tiny_hidden=16", "args.tiny_heads=2"]
    if "countdown" in name:
        small += [f"model={tiny_dir}", "tasks.high=9", "tasks.train=40", "tasks.warmstart=8", "tasks.test=8"]
    for more in ([], ["args.credit=progress", "args.credit_options={alpha: 10.0}", "args.probe=payoff"]):
        recipe = load_recipe(name, [*small, *more])
        one = AttemptsTrainer.from_recipe(recipe, tmp_path / str(len(more)))
        assert one.tasks.attempts == (30 if "bandit" in name else 1 if "single" in name else 4)
        assert bool(one.manner.choices) == ("bandit" in name)


@pytest.mark.slow
@pytest.mark.training
def test_it_learns_to_pull_the_better_arm(tmp_path, learning):
    """Two arms that pay nearly always or nearly never (0.9, 0.1): random play earns 0.5 a pull, the best 0.9."""
    tasks = EnvInText("dependent-bandit", kind="easy", pulls=5)
    seed = learning.seed()
    one = trainer(
        tmp_path,
        tasks,
        seed=seed,
        max_steps=60,
        per_device_train_batch_size=8,
        trials_per_task=8,
        epochs=2,
        minibatches=1,
        learning_rate=2e-2,
        credit_options={"gamma": 0.5, "scale": "batch"},
        logging_steps=60,
    )
    one.train()
    torch.manual_seed(seed)
    earned = float(one.play(range(1000, 1032)).returns.mean())
    learning.check("reward of 5 pulls, tiny model in text", earned, above=3.1)
