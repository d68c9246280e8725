"""The parts of gradient-based meta-RL: policies whose weights differ, stages in the record, and exact derivatives."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.gradient.emaml import EMAMLConfig, EMAMLTrainer, standardised
from classic_metarl.gradient.maesn import MAESNConfig, MAESNTrainer
from classic_metarl.gradient.maml_trpo import MAMLTRPOConfig, MAMLTRPOTrainer, fewer
from classic_metarl.gradient.promp import ProMPConfig, ProMPTrainer
from classic_metarl.inner import estimators
from classic_metarl.inner.meta_policy import inner_loop
from classic_metarl.inner.stage_credit import credit_of
from classic_metarl.inner.stages import as_batch, as_data, join, numbers_of, stage, task_means
from classic_metarl.inner.task_policy import TaskPolicy, play
from classic_metarl.problems.paired import paired_tasks
from classic_metarl.trainers.meta_rl_config import GradientRLConfig
from mrt.control.envs import Spec
from mrt.credit.returns import reward_to_go
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.training.collection import Batch
from mrt.trials import Trials

M, N, STEPS = 3, 4, 5
POINT = {"name": "point-robot", "steps": STEPS}
ARMS = {"name": "dependent-bandit", "kind": "easy", "pulls": STEPS}
QUICK: dict[str, Any] = {
    "max_steps": 2,
    "per_device_train_batch_size": M,
    "episodes": N,
    "hidden": [5],
    "use_cpu": True,
    "disable_tqdm": True,
    "report_to": "none",
    "save_strategy": "no",
    "curve_tasks": 0,
    "bounds": False,
}


def build(system: Any, config: Any, folder: Path, tasks: dict[str, Any] = POINT, **changed: Any) -> Any:
    args = config(output_dir=str(folder), **{**QUICK, **changed})
    return system.of(paired_tasks(**tasks), args)


def double(trials: Trials) -> Trials:
    """The same trials with float64 numbers."""

    def cast(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: cast(inner) for name, inner in value.items()}
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return replace(trials, **{entry.name: cast(getattr(trials, entry.name)) for entry in fields(Trials)})


def collected(trainer: Any) -> Batch:
    """One collection, learner and trials in float64."""
    batch = trainer.next_batch(range(M))
    trainer.model.double()
    return Batch(double(batch.trials), batch.weights.double())


# ---- policies


@pytest.mark.parametrize("spec", [Spec(2, 5, 1, actions=3), Spec(2, 5, 1, action_size=2)])
@pytest.mark.parametrize("std", ["free", "state"])
def test_tasks_with_their_own_weights_are_one_product(spec: Spec, std: Any) -> None:
    torch.manual_seed(0)
    policy = TaskPolicy(spec, [4], std=std)
    own = {name: value + torch.randn(M, *value.shape) for name, value in policy.named_parameters()}
    x = torch.randn(M, 7, 2)
    logits = policy.of_tasks(own, {"observation": x})
    assert logits.shape == (M, 7, spec.actions or 2 * spec.action_size)
    assert policy.tasks_of(own) == M
    assert policy.tasks_of(dict(policy.named_parameters())) is None
    for task in range(M):
        w = {name: value[task] for name, value in own.items()}
        hidden = torch.tanh(x[task] @ w["net.layers.0.weight"].T + w["net.layers.0.bias"])
        out = hidden @ w["net.layers.1.weight"].T + w["net.layers.1.bias"]
        if "log_std" in w:
            out = torch.cat([out, w["log_std"].expand_as(out)], -1)
        assert torch.allclose(logits[task], out, atol=1e-5)
    with pytest.raises(ConfigError, match="init_std=0"):
        TaskPolicy(spec, init_std=0)


def test_a_deviation_does_not_fall_below_its_floor(tmp_path: Path) -> None:
    spec = paired_tasks("navigation-2d").env.spec
    policy = TaskPolicy(spec, [4], init_std=0.6, min_std=0.5)
    start, low = ({**dict(policy.named_parameters()), "log_std": torch.tensor(v)} for v in ([-0.6, -0.4], [-9.0, 1.0]))
    told = [policy.of_tasks(phi, {"observation": torch.zeros(1, 1, 2)})[0, 0, 2:].tolist() for phi in (start, low)]
    assert told == [pytest.approx([-0.6, -0.4]), pytest.approx([math.log(0.5), 1.0])]
    with pytest.raises(ConfigError, match="at least min_std"):
        TaskPolicy(spec, init_std=0.4, min_std=0.5)
    for name in ("rl/maml_trpo", "rl/maesn", "continuous"):
        recipe = load_recipe(f"gradient/{name}", ["args.init_std=0.9", "args.min_std=0.8"])
        made = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)  # type: ignore[attr-defined]
        assert made.learner.net.log_min_std == pytest.approx(math.log(0.8)), "the arguments reach every policy"


def test_episodes_are_played_by_their_tasks_weights() -> None:
    """Each task's weights push to a corner of its own, without noise worth the name."""
    torch.manual_seed(0)
    tasks = paired_tasks("navigation-2d", steps=STEPS)
    policy = TaskPolicy(tasks.env.spec, [4], init_std=0.01)
    phi = {name: torch.zeros(M, *value.shape) for name, value in policy.named_parameters()}
    phi["net.layers.1.bias"] = torch.tensor([[1.0, 1.0], [-0.5, 0.5], [0.0, -1.0]])
    phi["log_std"] = torch.full((M, 2), -5.0)
    trials = play(tasks.env, policy, phi, tasks.batch(0, range(M)), N)
    assert trials.group.tolist() == [i // N for i in range(M * N)]
    ends = trials.inputs["observation"][:, -1].reshape(M, N, 2)
    assert torch.allclose(ends, 0.5 * phi["net.layers.1.bias"][:, None].expand(-1, N, -1), atol=0.02)
    assert torch.allclose(policy.logprobs(phi, trials)[trials.mask], trials.logprobs[trials.mask], atol=1e-4)


# ---- the record


def test_stages_are_the_episodes_of_a_trial(tmp_path: Path) -> None:
    trainer = build(MAMLTRPOTrainer, MAMLTRPOConfig, tmp_path, inner_steps=2)
    batch = trainer.next_batch(range(M))
    trials = batch.trials
    assert trials.episodes.tolist() == [3] * (M * N)
    assert trials.mask.sum(1).tolist() == [3 * STEPS] * (M * N)
    stages = [stage(batch, number) for number in range(int(batch.trials.episode.max()) + 1)]
    rejoined, parts = join(stages).trials, [one.trials for one in stages]
    assert torch.equal(join(stages).weights, batch.weights)
    for name in ("actions", "rewards", "mask", "episode", "logprobs", "stop", "stop_values", "group"):
        assert torch.equal(getattr(rejoined, name).nan_to_num(), getattr(trials, name).nan_to_num()), name
    for number, part in enumerate(parts):
        returns = part.rewards.sum(1).reshape(M, N)
        assert torch.allclose(trials.stop_values[:, number].reshape(M, N), returns.mean(1, keepdim=True).expand(-1, N))
        error = returns.std(1, keepdim=True) / N**0.5
        assert torch.allclose(trials.stop_value_se[:, number].reshape(M, N), error.expand(-1, N), atol=1e-6)
        assert not part.mask[:, -1].any(), "the closing row comes last"
        assert (part.inputs["observation"][0, 1:] - part.inputs["observation"][0, :-1]).abs().max() <= 0.1001
    assert trials.stop_values[:, 3].isnan().all()
    again = as_batch(as_data(stages[1]))
    assert torch.equal(again.trials.actions, parts[1].actions)
    assert torch.equal(again.trials.group, parts[1].group)
    assert torch.equal(again.weights, stages[1].weights)


def test_what_adapts_is_what_acted(tmp_path: Path) -> None:
    """phi_1 from the record gives the log-probabilities that stage 1 was sampled with; so does phi_2."""
    trainer = build(MAMLTRPOTrainer, MAMLTRPOConfig, tmp_path, inner_steps=2, inner_rates=[0.3, 0.1])
    batch = trainer.next_batch(range(M))
    for number, phi in enumerate(trainer.adapted(batch)):
        part = stage(batch, number).trials
        found = trainer.learner.net.logprobs(phi, part)
        assert torch.allclose(found[part.mask], part.logprobs[part.mask], atol=1e-4), number
    moved = [phi["net.layers.1.bias"].detach() for phi in trainer.adapted(batch)[1:]]
    assert (moved[0] - trainer.learner.net.net.layers[1].bias).abs().max() > 1e-3
    assert (moved[1] - moved[0]).abs().max() > 1e-4


def test_credit_is_standardised_within_each_task(tmp_path: Path) -> None:
    trainer = build(MAMLTRPOTrainer, MAMLTRPOConfig, tmp_path, tasks=ARMS)
    one = stage(trainer.next_batch(range(M)), 0)
    part = one.trials
    each = one.weights.reshape(M, -1)[part.mask.reshape(M, -1)].reshape(M, -1)
    assert torch.allclose(each.mean(1), torch.zeros(M), atol=1e-5)
    assert torch.allclose(each.std(1, correction=0), torch.ones(M), atol=1e-4)
    flat = credit_of(part, lambda trials: trials.mask.float(), 0.9, normalise=True)
    assert flat.abs().max() < 1e-6, "a credit that is the same everywhere says nothing"
    raw = credit_of(part, lambda trials: trials.values, 0.9, normalise=False)
    to_go = torch.zeros(M * N, STEPS)
    for t in reversed(range(STEPS)):
        to_go[:, t] = part.rewards[:, t] + (0.9 * to_go[:, t + 1] if t + 1 < STEPS else 0)
    residual = (to_go - raw[:, :STEPS]).reshape(M, -1).sum(1)
    assert residual.abs().max() < 1e-2, "values are fitted by least squares with a constant: residuals sum to 0"


# ---- derivatives


def finite_differences(function: Any, parameters: list[Tensor], h: float = 1e-6) -> list[Tensor]:
    """Central differences of a scalar function, entry by entry."""
    found = []
    for parameter in parameters:
        slopes, flat = torch.zeros_like(parameter), parameter.detach().view(-1)
        for i in range(len(flat)):
            start = flat[i].item()
            ends = []
            for sign in (1, -1):
                flat[i] = start + sign * h
                ends.append(function().item())
            flat[i] = start
            slopes.view(-1)[i] = (ends[0] - ends[1]) / (2 * h)
        found.append(slopes)
    return found


SYSTEMS: dict[str, tuple[Any, Any, dict[str, Any], dict[str, Any]]] = {
    "maml": (MAMLTRPOTrainer, MAMLTRPOConfig, POINT, {"learn_rates": "tensor"}),
    "maml-two-steps": (MAMLTRPOTrainer, MAMLTRPOConfig, ARMS, {"inner_steps": 2, "surrogate": "likelihood_ratio"}),
    "emaml": (EMAMLTrainer, EMAMLConfig, POINT, {"std": "state"}),
    "maesn": (MAESNTrainer, MAESNConfig, {**POINT, "name": "point-robot"}, {"num_tasks": M, "hidden": [3]}),
    "maesn-weights": (MAESNTrainer, MAESNConfig, POINT, {"num_tasks": M, "hidden": [3], "adapt_weights": True}),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_meta_gradients_against_finite_differences(name: str, tmp_path: Path) -> None:
    """The episodes fixed, the outer objective is a function of theta: its gradient goes through the inner step."""
    system, config, tasks, options = SYSTEMS[name]
    trainer = build(system, config, tmp_path, tasks=tasks, **{"inner_rates": [0.4], **options})
    batch = collected(trainer)
    parameters = [p for p in trainer.learner.parameters() if p.requires_grad]

    def objective() -> Tensor:
        return trainer.meta_objective(trainer.adapted(batch), batch)

    exact = torch.autograd.grad(objective(), parameters)
    assert sum(float(slope.abs().sum()) for slope in exact) > 0.1
    near = finite_differences(objective, parameters)
    assert all(torch.allclose(a, b, atol=1e-7, rtol=1e-4) for a, b in zip(exact, near, strict=True))
    if name == "maml":  # what the step through the inner gradient is worth: FOMAML leaves it out
        steps = inner_loop(trainer.learner.net, "naive", "first")
        trainer.learner.steps = steps
        first = torch.autograd.grad(objective(), parameters)
        assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(first, near, strict=True))


def test_promps_gradient_against_finite_differences(tmp_path: Path) -> None:
    """Away from theta_o, so that ratios are not 1 and the divergence has a slope."""
    trainer = build(ProMPTrainer, ProMPConfig, tmp_path, penalty=0.5, inner_rates=[0.4])
    batch = collected(trainer)
    with torch.no_grad():
        for parameter in trainer.learner.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    parameters = list(trainer.learner.parameters())

    def loss() -> Tensor:
        return trainer.losses(batch)["policy"]

    exact, near = torch.autograd.grad(loss(), parameters), finite_differences(loss, parameters)
    assert all(torch.allclose(a, b, atol=1e-7, rtol=1e-4) for a, b in zip(exact, near, strict=True))


def meta_gradient(trainer: Any, batch: Batch, surrogate: str) -> Tensor:
    trainer.learner.steps = inner_loop(trainer.learner.net, surrogate)
    one = stage(batch, 1)
    last = one.trials
    logprobs = trainer.learner.net.logprobs(trainer.adapted(batch)[1], last)
    each = estimators.likelihood_ratio(logprobs, one.weights, last)
    slopes = torch.autograd.grad(task_means(each, last).mean(), list(trainer.learner.parameters()))
    return torch.cat([slope.flatten() for slope in slopes])


def test_promps_identity(tmp_path: Path) -> None:
    """At theta = theta_o likelihood ratios and the low variance curvature estimator lead to the same meta-gradient
    (Rothfuss et al. 2019, section 5); the naive surrogate and DiCE do not.
    """
    trainer = build(ProMPTrainer, ProMPConfig, tmp_path, inner_rates=[0.4])
    batch = collected(trainer)
    with torch.no_grad():  # log-probabilities in float64, those of theta_o to the last digit
        phis = trainer.adapted(batch, "first")
        exact = torch.cat([trainer.learner.net.logprobs(phi, stage(batch, j).trials) for j, phi in enumerate(phis)], 1)
    batch = replace(batch, trials=replace(batch.trials, logprobs=exact))
    found = {name: meta_gradient(trainer, batch, name) for name in ("likelihood_ratio", "lvc", "naive", "loaded_dice")}
    assert torch.allclose(found["likelihood_ratio"], found["lvc"], atol=1e-10)
    for name in ("naive", "loaded_dice"):
        assert (found[name] - found["lvc"]).norm() > 1e-3 * found["lvc"].norm(), name
    with torch.no_grad():  # elsewhere they part
        for parameter in trainer.learner.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    apart = meta_gradient(trainer, batch, "likelihood_ratio") - meta_gradient(trainer, batch, "lvc")
    assert apart.norm() > 1e-4


def test_the_sampling_term_by_hand(tmp_path: Path) -> None:
    """E-MAML's gradient less MAML's: mean over tasks of the standardised return, times the mean grad log pi before."""
    trainer = build(EMAMLTrainer, EMAMLConfig, tmp_path, sampling=0.7)
    batch = collected(trainer)
    parameters = list(trainer.learner.parameters())

    def gradient(weight: float) -> Tensor:
        trainer.args.sampling = weight
        value = trainer.meta_objective(trainer.adapted(batch), batch)
        slopes = torch.autograd.grad(value, parameters, allow_unused=True)
        return torch.cat([slope.flatten() for slope in slopes])

    before, after = stage(batch, 0).trials, stage(batch, 1).trials
    earned = after.rewards.sum(1).reshape(M, N).mean(1)
    earned = (earned - earned.mean()) / earned.std()
    assert torch.allclose(standardised(after), earned, atol=1e-6)
    logprobs = trainer.learner.net.logprobs(dict(trainer.learner.net.named_parameters()), before)
    each = (logprobs * before.mask).reshape(M, -1).sum(1) / (N * STEPS)
    slopes = torch.autograd.grad((0.7 * each * earned).mean(), parameters)
    expected = torch.cat([slope.flatten() for slope in slopes])
    assert expected.norm() > 1e-4
    assert torch.allclose(gradient(0.7) - gradient(0.0), expected, atol=1e-7)


# ---- the trust region


def test_a_meta_step_stays_in_its_region(tmp_path: Path) -> None:
    """Measured here anew, on the adapted policies: the divergence is at most max_kl, and the surrogate has grown."""
    for share in (1.0, 0.5):
        trainer = build(
            MAMLTRPOTrainer, MAMLTRPOConfig, tmp_path, max_kl=0.02, curvature_share=share, inner_rates=[0.4]
        )
        batch = trainer.next_batch(range(M))
        last, net = stage(batch, 1).trials, trainer.learner.net
        with torch.no_grad():
            old = net.logits(trainer.adapted(batch)[1], last)
        assert trainer.update(batch)
        with torch.no_grad():
            new = net.logits(trainer.adapted(batch)[1], last)
        (m0, s0), (m1, s1) = (each[last.mask].chunk(2, -1) for each in (old, new))
        kl = torch.distributions.kl_divergence(
            torch.distributions.Normal(m0, s0.exp()), torch.distributions.Normal(m1, s1.exp())
        )
        assert 0.002 < float(kl.sum(-1).mean()) <= 0.02 * 1.001
        ratio = (net.distribution.logprob(new, last.actions) - last.logprobs).exp()
        gain = task_means(((ratio - 1) * stage(batch, 1).weights * last.mask).sum(1), last).mean()
        assert gain > 1e-3
        assert all(parameter.grad is None for parameter in net.parameters())


def test_a_share_of_each_task_is_of_every_task(tmp_path: Path) -> None:
    trainer = build(MAMLTRPOTrainer, MAMLTRPOConfig, tmp_path)
    batch = trainer.next_batch(range(M))
    part = fewer(batch, N, 0.5)
    assert part.trials.group.tolist() == [0, 0, 1, 1, 2, 2]
    assert numbers_of(part.trials).tolist() == numbers_of(batch.trials).tolist() == [0, 1, 2]
    assert torch.equal(part.trials.actions[2:4], batch.trials.actions[N : N + 2])
    assert torch.equal(part.weights[2:4], batch.weights[N : N + 2])
    assert fewer(batch, N, 1.0) is batch
    assert len(fewer(batch, N, 0.01)) == M


def test_mistakes_are_told(tmp_path: Path) -> None:
    for config, options, message in (
        (GradientRLConfig, {"episodes": 0}, "episodes=0"),
        (GradientRLConfig, {"surrogate": "dise"}, "did you mean 'dice'"),
        (GradientRLConfig, {"inner_rates": []}, "at least one step size"),
        (MAMLTRPOConfig, {"epochs": 2}, "one step on a whole collection"),
        (MAMLTRPOConfig, {"max_kl": 0.0}, "max_kl"),
        (MAMLTRPOConfig, {"curvature_share": 0.0}, "curvature_share=0"),
        (MAESNConfig, {"num_tasks": 0}, "latent for each training task"),
        (MAESNConfig, {"decay": 0.0}, "decay=0"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(output_dir=str(tmp_path), **{**QUICK, **options})
    with pytest.raises(ConfigError, match=r"test='sparse' must hold the options"):
        paired_tasks("sparse-semicircle", test="sparse")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no option 'rewards'"):
        paired_tasks("sparse-semicircle", test={"rewards": "sparse"})


@pytest.mark.parametrize("surrogate", ["dice", "loaded_dice", "naive"])
def test_every_inner_objective_discounts(surrogate: str, tmp_path: Path) -> None:
    """The inner step of any of them depends on gamma. DiCE's is, by hand, sum_t gamma^t r_t over what came before."""
    steps = {}
    for gamma in (0.99, 0.5):
        plain = {"credit": "reward_to_go", "normalise": False, "gamma": gamma, "surrogate": surrogate}
        trainer = build(MAMLTRPOTrainer, MAMLTRPOConfig, tmp_path, inner_rates=[1.0], **plain)
        batch = collected(trainer)
        phi = trainer.adapted(batch, "first")
        steps[gamma] = torch.cat([(phi[1][n] - phi[0][n]).flatten() for n in phi[0]])
        if surrogate == "dice":
            one, parameters = stage(batch, 0).trials, dict(trainer.learner.net.named_parameters())
            logprobs = trainer.learner.net.logprobs(parameters, one) * one.mask
            to_go = reward_to_go(one, gamma=gamma)
            weights = gamma ** torch.arange(one.mask.shape[1], dtype=torch.float64) * to_go
            value = task_means((logprobs * weights).sum(1), one)
            slopes = torch.autograd.grad(value[0], list(parameters.values()))
            for (name, _), slope in zip(parameters.items(), slopes, strict=True):
                assert torch.allclose(phi[1][name][0] - phi[0][name], slope, atol=1e-6), name
    assert (steps[0.99] - steps[0.5]).norm() > 1e-3


def test_dice_refuses_a_credit(tmp_path: Path) -> None:
    for options in ({}, {"credit": "reward_to_go"}, {"normalise": False}):
        with pytest.raises(ConfigError, match="sums the rewards itself"):
            GradientRLConfig(output_dir=str(tmp_path), **{**QUICK, "surrogate": "dice", **options})
