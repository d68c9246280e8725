"""VariBAD and task inference: the terms of their losses by hand, which gradient reaches what, resume, and learning."""

from __future__ import annotations

import dataclasses
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, Normal, kl_divergence

from classic_metarl.inference.task_inference import TaskInferencePolicy, TaskInferencePolicyConfig
from classic_metarl.inference.varibad import (
    PairDecoder,
    VariBADConfig,
    VariBADPolicy,
    VariBADPolicyConfig,
    divergences,
    head_loglik,
    pair_loglik,
)
from classic_metarl.trainers.beliefs import ACTS, LATENT, TASK, TaskDecoder, describe, split
from evals.gates.inference import exact_belief, log_odds
from mrt.control.envs import make_env, make_tasks
from mrt.control.latents import Latent
from mrt.control.loading import load_agent
from mrt.control.oracles.beliefs import BELIEF, RoomSearch, TwoHypotheses, listed_tasks
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe
from tests.support import bandit
from tests.support.compare import assert_same_run, interrupted
from tests.support.policies import SEES, make_inputs, randomised, stepped

pytestmark = pytest.mark.training

QUICK = ["args.use_cpu=true", "args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no"]
SMALL = ["args.per_device_train_batch_size=8", "args.inference_batch=4", "policy.hidden_size=8", "args.capacity=2000"]
NAVI, TWO = ["tasks.episodes=2", "args.updates_per_step=1", *SMALL], ["tasks.pulls=4", *SMALL]
RECIPES = {
    "inference/varibad-grid-navi": NAVI,
    "inference/task_inference-grid-navi": NAVI,
    "inference/varibad-two-hypotheses": TWO,
    "inference/task_inference-two-hypotheses": TWO,
}


def trainer_of(name: str, folder: Path, *changed: str) -> Any:
    recipe = load_recipe(name, [*QUICK, *RECIPES[name], "args.max_steps=2", *changed])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def named_of(policy: Any, acts: bool) -> list[torch.nn.Parameter]:
    return [p for name, p in policy.named_parameters() if name.startswith(ACTS) == acts]


# ---- the terms of the losses


def latents(rows: int = 3, steps: int = 5, size: int = 2) -> Latent:
    made = torch.Generator().manual_seed(0)
    return Latent(*(torch.randn(rows, steps, size, generator=made) for _ in range(2)))


def test_each_posterior_is_held_to_the_one_before() -> None:
    """KL to the previous posterior, to N(0, I) at the first step; the gradient reaches both posteriors."""
    q = latents()
    found = divergences(q)
    normal = Independent(Normal(q.mean, q.std), 1)
    for t in range(5):
        here = Independent(Normal(q.mean[:, t], q.std[:, t]), 1)
        unit = Independent(Normal(torch.zeros(3, 2), torch.ones(3, 2)), 1)
        before = Independent(Normal(q.mean[:, t - 1], q.std[:, t - 1]), 1) if t else unit
        assert torch.allclose(found[:, t], kl_divergence(here, before), atol=1e-5), t
    assert normal.batch_shape == found.shape
    mean = q.mean.clone().requires_grad_()
    divergences(Latent(mean, q.log_variance))[:, 3].sum().backward()
    assert mean.grad is not None
    assert mean.grad.abs().sum((0, 2)).gt(0).tolist() == [False, False, True, True, False]


@pytest.mark.parametrize("future", [True, False])
def test_heads_count_every_step_of_the_past_and_of_the_future(future: bool) -> None:
    made = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 4, 3, generator=made)
    index = torch.randint(3, (2, 4), generator=made)
    paid, acted = (torch.rand(2, 4, generator=made) < 0.6 for _ in range(2))
    found = head_loglik(logits, torch.eye(3)[index], paid, acted, future)
    for b in range(2):
        for t in range(4):
            chance = logits[b, t].sigmoid()
            terms = [
                (chance[index[b, j]] if paid[b, j] else 1 - chance[index[b, j]]).log() for j in range(4) if acted[b, j]
            ]
            kept = [
                term for term, j in zip(terms, [j for j in range(4) if acted[b, j]], strict=True) if future or j < t
            ]
            assert float(found[b, t]) == pytest.approx(float(sum(kept, torch.zeros(()))), abs=1e-5), (b, t)


def test_pairs_are_what_one_layer_on_both_says() -> None:
    """The first layer of a pair is linear in m and x side by side; past and future, or what came before."""
    torch.manual_seed(0)
    decoder, m, x, true = PairDecoder(2, 3, 4, 1), torch.randn(2, 3, 2), torch.randn(2, 5, 3), torch.randn(2, 5, 1)
    said, steps = decoder(m, x), torch.tensor([4, 0, 2])
    acted = torch.tensor([[True, True, False, True, True]] * 2)
    weight = torch.cat([decoder.of_m.weight, decoder.of_x.weight], 1)
    for s, t in enumerate(steps.tolist()):
        both = torch.cat([m[:, s, None].expand(-1, 5, -1), x], -1)
        plain = decoder.rest(both @ weight.T + decoder.of_m.bias)
        assert torch.allclose(said[:, s], plain, atol=1e-5)
        errors = (plain - true).square()[..., 0] * acted
        assert torch.allclose(pair_loglik(said, true, acted)[:, s], -errors.sum(1), atol=1e-5)
        assert torch.allclose(pair_loglik(said, true, acted, steps)[:, s], -errors[:, :t].sum(1), atol=1e-5)


def test_tasks_are_decoded_into_names_or_vectors() -> None:
    torch.manual_seed(0)
    m = torch.randn(4, 3, 2)
    listed = TaskDecoder(VariBADPolicyConfig(observation=2, actions=3, latent=2, tasks=5))
    numbers = torch.randint(5, (4, 3))
    assert torch.allclose(listed.logprob(m, numbers), Categorical(logits=listed(m)).log_prob(numbers), atol=1e-5)
    vectors = TaskDecoder(VariBADPolicyConfig(observation=2, actions=3, latent=2, task_size=3))
    said, task = split(vectors(m)), torch.randn(4, 3, 3)
    expected = Normal(said.mean, said.std).log_prob(task).sum(-1)
    assert torch.allclose(vectors.logprob(m, task), expected, atol=1e-5)
    with pytest.raises(ConfigError, match="listed"):
        TaskDecoder(VariBADPolicyConfig(observation=2, actions=3, latent=2))


def test_the_elbo_of_the_two_hypothesis_bandit(tmp_path: Path) -> None:
    """A latent that is the task with certainty, and heads that know both arms: the reward term is the entropy of 0.75
    for every pull, -0.5623; the task term 0; the KL that of the first posterior alone.
    """
    trainer = trainer_of("inference/varibad-two-hypotheses", tmp_path, "tasks.pulls=6", "policy.latent=1")
    policy, tasks = trainer.policy, trainer.tasks
    trials = rollout(tasks.env, TwoHypotheses(tasks.env), tasks.batch(0, range(3000)), seed=1)
    shape, number = describe(tasks.env, tasks.batch(0, range(3000)))
    assert shape == {"tasks": 2, "task_size": 2}
    sign = 1 - 2.0 * number
    mean = 3 * sign[:, None, None].expand(-1, 7, 1)
    policy.encode = lambda inputs: Latent(mean, torch.full_like(mean, -30.0))
    policy.heads = _Signed(math.log(3) / 3 * torch.tensor([1.0, -1.0]))
    policy.tasks.logprob = lambda m, task: (
        (_Signed(20 * torch.tensor([1.0, -1.0]))(m)).log_softmax(-1).gather(-1, task[..., None])[..., 0]
    )
    known = {TASK: number[:, None].expand(-1, 7)}
    found = trainer.elbo(dataclasses.replace(trials, privileged=known))
    entropy = 6 * (0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(found["reward"]) == pytest.approx(entropy, abs=4 * 6**0.5 * 0.476 / 3000**0.5)
    assert float(found["task"]) == pytest.approx(0.0, abs=1e-6)
    first = 0.5 * (9 + math.exp(-30) - 1 + 30)  # KL(N(3, e^-30) || N(0, 1)); later posteriors do not move
    assert float(found["kl"]) == pytest.approx(first / 7, rel=1e-5)
    trainer.log_metric = lambda name, value: None
    loss = float(trainer.inference_loss(dataclasses.replace(trials, privileged=known)))
    weight = trainer.args.kl_weight
    assert loss == pytest.approx(weight * first / 7 - float(found["reward"]), abs=1e-4)


class _Signed(torch.nn.Module):
    """m (..., 1) times given weights."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, m: Tensor) -> Tensor:
        return m * self.weights


def test_all_decoders_together(tmp_path: Path) -> None:
    """Continuous states, rewards and tasks: every term is there, finite, and reaches the encoder."""
    changed = ["tasks={name: point-robot, episodes: 2, steps: 4}", "policy.reward=gaussian", "policy.transition=true"]
    trainer = trainer_of("inference/varibad-grid-navi", tmp_path, *changed, "policy.task=true", "args.elbo_terms=3")
    trainer.next_batch(range(8))
    for future in (True, False):
        trainer.args.future = future
        terms = trainer.elbo(trainer.replay.rows(4))
        assert terms.keys() == {"kl", "reward", "task", "transition"}
        for name, term in terms.items():
            (grad,) = torch.autograd.grad(term, [trainer.policy.posterior.weight], retain_graph=True)
            assert bool(grad.isfinite().all()), name
            assert float(grad.abs().sum()) > 0, name


# ---- the policy


def belief_policies() -> list[Any]:
    options: dict[str, Any] = {
        "observation": 2,
        "actions": 3,
        "latent": 3,
        "hidden_size": 8,
        "see": SEES,
        "memory_options": {"layers": 2},
        "tasks": 4,
    }
    torch.manual_seed(2)
    made = [
        VariBADPolicy(VariBADPolicyConfig(reward="action", **options)),
        TaskInferencePolicy(TaskInferencePolicyConfig(**options)),
    ]
    return [randomised(policy).eval() for policy in made]


@pytest.mark.parametrize("kind", [0, 1])
def test_whole_trials_say_what_steps_say(kind: int, tmp_path: Path) -> None:
    policy, inputs = belief_policies()[kind], make_inputs()
    whole = policy(inputs)
    steps = stepped(policy, inputs)
    assert torch.allclose(whole.logits, steps.logits, atol=1e-5)
    assert torch.allclose(whole.values, steps.values, atol=1e-5)
    recorded = {**inputs, LATENT: torch.cat(policy.encode(inputs), -1)}
    assert torch.allclose(policy(recorded).logits, whole.logits, atol=1e-6)
    _, state = policy.step({name: value[:, 0] for name, value in inputs.items()}, policy.init_state(4))
    halves = [policy.fork(state, torch.tensor(rows)) for rows in ([0, 1], [2, 3])]
    for rows, part in zip(([0, 1], [2, 3]), halves, strict=True):
        seen = {name: value[rows] for name, value in inputs.items()}
        assert torch.allclose(stepped(policy, seen, part, 1).logits, steps.logits[rows, 1:], atol=1e-5)
    policy.save_pretrained(tmp_path)
    again = type(policy).from_pretrained(tmp_path)
    assert torch.equal(again(inputs).logits, whole.logits)
    width = {0: 3, 1: 4}[kind]
    seen = {name: value[:, 0] for name, value in inputs.items()}
    said = policy.act(seen, policy.init_state(4)).extras
    assert (said[LATENT].shape, said[BELIEF].shape) == ((4, 6), (4, width))
    assert BELIEF not in policy.train().act(seen, policy.init_state(4)).extras


# ---- which gradient reaches what


@pytest.mark.parametrize("name", ["inference/varibad-grid-navi", "inference/task_inference-two-hypotheses"])
def test_the_policys_loss_does_not_reach_the_encoder_unless_asked(name: str, tmp_path: Path) -> None:
    for through in (False, True):
        trainer = trainer_of(name, tmp_path, f"args.rl_through_encoder={through}")
        randomised(trainer.policy)
        losses = trainer.losses(trainer.next_batch(range(8)))
        encoder, acting = named_of(trainer.policy, acts=False), named_of(trainer.policy, acts=True)
        grads = torch.autograd.grad(losses["policy"], encoder, retain_graph=True, allow_unused=True)
        assert any(g is not None and bool(g.abs().sum() > 0) for g in grads) == through
        if not through:
            assert all(g is None for g in grads), "exactly nothing: not even a zero is computed"
            back = torch.autograd.grad(losses["inference"], acting, retain_graph=True, allow_unused=True)
            assert all(g is None for g in back)
        trainer.create_optimizer()
        before = bandit.digest_of(trainer.policy.state_dict())
        assert trainer.optimizer.learners.keys() == {"policy", "inference"}
        assert bandit.digest_of(trainer.policy.state_dict()) == before


@pytest.mark.parametrize("through", [False, True])
def test_learners_step_when_they_are_due(through: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every second update moves the encoder, every one the policy; with RL through the encoder each moves both."""
    options = ("args.inference_every=2", f"args.rl_through_encoder={through}", "args.max_steps=3")
    trainer = trainer_of("inference/varibad-grid-navi", tmp_path, *options)
    original, digests = trainer.losses, []

    def note() -> None:
        state = {name: value for name, value in trainer.policy.state_dict().items() if not name.startswith("value_")}
        sides = ({n: v for n, v in state.items() if n.startswith(ACTS) == acts} for acts in (True, False))
        digests.append([bandit.digest_of(side) for side in sides])

    def watched(batch: Any) -> Any:
        note()
        return original(batch)

    monkeypatch.setattr(trainer, "losses", watched)
    trainer.train()
    note()
    moved = [[a != b for a, b in pairwise(side)] for side in zip(*digests, strict=True)]
    assert moved == [[True] * 3, [True] * 3 if through else [True, False, True]]


def test_the_task_is_told_to_the_learner_alone(tmp_path: Path) -> None:
    trainer = trainer_of("inference/task_inference-grid-navi", tmp_path)
    batch = trainer.next_batch(range(8))
    assert TASK not in {**batch.trials.inputs, **batch.trials.privileged}
    stored = trainer.replay.rows(5)
    goals = trainer.tasks.batch(trainer.args.seed, stored.task.tolist())
    assert torch.equal(stored.privileged[TASK][:, 0], describe(trainer.tasks.env, goals)[1])
    assert set(stored.inputs) == {"observation", "action", "reward", "done"}


# ---- runs


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_run(name: str, tmp_path: Path) -> None:
    trainer = trainer_of(name, tmp_path, "args.max_steps=1", "args.logging_steps=1")
    before = bandit.digest_of(trainer.policy.state_dict())
    trainer.train()
    assert bandit.digest_of(trainer.policy.state_dict()) != before
    assert {"reward", "regret/return"} <= trainer.state.log_history[0].keys()


@pytest.mark.parametrize("name", ["inference/varibad-grid-navi", "inference/task_inference-two-hypotheses"])
def test_a_killed_run_goes_on_exactly(name: str, tmp_path: Path) -> None:
    """Killed inside a collection, between two checkpoints: the replay, its draws and both optimisers come back."""
    changed = ["args.max_steps=4", "args.save_strategy=steps", "args.save_steps=1", "args.auto_resume=true"]
    changed += ["args.logging_steps=1", "args.minibatches=2", "args.epochs=1"]
    whole = trainer_of(name, tmp_path / "whole", *changed)
    whole.train()
    assert_same_run(whole, interrupted(lambda: trainer_of(name, tmp_path / "parts", *changed), (2,)))


def test_a_run_plays_again_and_says_what_it_believes(tmp_path: Path) -> None:
    from mrt.runs.rundir import write_json

    name = "inference/varibad-grid-navi"
    trainer = trainer_of(name, tmp_path)
    trainer.policy.save_pretrained(tmp_path / "model")
    recipe = load_recipe(name, [*RECIPES[name], f"output_dir={tmp_path}"])
    write_json(tmp_path / "run.json", {"schema_version": 1, "recipe": recipe.to_dict()})
    agent = load_agent(tmp_path)
    tasks = make_tasks("grid-navi", episodes=2, encoding="one_hot")
    trials = rollout(tasks.env, agent, tasks.batch(0, range(3)))
    assert trials.inputs[BELIEF].shape == (3, 32, 25)
    exact = exact_belief(RoomSearch(tasks.env), trials.inputs)
    own = rollout(tasks.env, RoomSearch(tasks.env), tasks.batch(0, range(3)))
    assert torch.equal(exact_belief(RoomSearch(tasks.env), own.inputs)[:, :-1], own.inputs[BELIEF][:, :-1])
    assert torch.allclose(exact.sum(2), torch.ones(3, 32))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("policy.reward=sate", "is no decoder"),
        ("policy.reward=none", "decoded into nothing"),
        ("policy.separate_critic=true", "read the same belief"),
        ("args.inference_batch=0", "inference_batch=0 must be at least 1"),
        ("args.kl_weight=-1", "neither may be negative"),
        ("peft={r: 2}", "a belief policy has two"),
        ("policy.latnt=2", "policy has no option"),
    ],
)
def test_mistakes_are_named(changed: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        trainer_of("inference/varibad-grid-navi", tmp_path, changed)
    assert VariBADConfig(output_dir=str(tmp_path), max_steps=1, use_cpu=True).future
    assert len(listed_tasks(make_env("grid-navi"))["goal"]) == 21


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inference/task_inference-two-hypotheses", "inference/varibad-two-hypotheses"])
def test_the_belief_becomes_the_log_odds(name: str, tmp_path: Path, learning: Any) -> None:
    """T37 in small: (s - f) log 3 after up to three pulls; the prior alone misses it by 1.51 on average."""
    options = ["tasks.pulls=4", "args.max_steps=25", "args.updates_per_step=10", f"seed={learning.seed()}"]
    options += ["args.per_device_train_batch_size=64", "args.inference_batch=256", "args.inference_rate=1.0e-2"]
    recipe = load_recipe(name, [*QUICK, *options, "args.bounds=false", "args.write_trials=false"])
    trainer = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)
    trainer.train()
    error = log_odds(trainer.policy.eval(), trainer.tasks, 500)
    learning.check("error of the log-odds", float(error.mean()), below=0.4)
