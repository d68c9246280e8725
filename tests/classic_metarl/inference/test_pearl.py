"""PEARL: beliefs of whole contexts and of single steps, who moves the encoder, what is drawn when, exact resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.inference.pearl import PEARLConfig, PEARLPolicy, PEARLTrainer, transitions
from mrt.control.agent import Entrant
from mrt.control.envs import make_tasks
from mrt.control.interaction import Interaction
from mrt.control.latents import Latent
from mrt.control.loading import load_control_policy
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.optim.learners import accumulate_own
from tests.support.compare import assert_same_run, interrupted

pytestmark = pytest.mark.training

POINT = {"name": "point-robot", "episodes": 3, "steps": 4}
SPARSE = {"name": "sparse-semicircle", "episodes": 2, "steps": 4}
SMALL = {"hidden_size": 8, "latent": 2, "encoder_size": 8, "encoder_layers": 2}
QUICK = {
    "per_device_train_batch_size": 4,
    "random_steps": 48,
    "train_tasks": 6,
    "meta_batch": 3,
    "batch_size": 8,
    "context": 0,
    "max_steps": 3,
}


def build(folder: Path, tasks: dict[str, Any] = POINT, policy: dict[str, Any] | None = None, **args: Any) -> Any:
    torch.manual_seed(args.get("seed", 0))
    made = make_tasks(**tasks)
    options = {"use_cpu": True, "disable_tqdm": True, "report_to": [], "save_strategy": "no"}
    config = PEARLConfig(output_dir=str(folder), **{**options, **QUICK, **args})
    return PEARLTrainer(PEARLPolicy.for_spec(made.env.spec, **{**SMALL, **(policy or {})}), config, made)


def fresh(encoder: str = "product") -> PEARLPolicy:
    torch.manual_seed(0)
    return PEARLPolicy.for_spec(make_tasks(**POINT).env.spec, encoder=encoder, **SMALL)


def filled(folder: Path, tasks: dict[str, Any] = POINT, **args: Any) -> Any:
    """A trainer whose replay holds two trials of each of four tasks."""
    trainer = build(folder, tasks, **args)
    trainer.numbers = lambda indices, number: [0, 1, 2, 3]
    for _ in range(2):
        trainer._play([0, 1, 2, 3], 0)
    return trainer


@pytest.mark.parametrize("encoder", ["product", "recurrent"])
def test_the_belief_of_an_agent_is_that_of_its_whole_context(encoder: str) -> None:
    """Step by step in use, at once in training: after every episode the same posterior."""
    policy, tasks = fresh(encoder), make_tasks(**POINT)
    interaction = Interaction(tasks.env, policy, tasks.batch(0, range(5)), seed=1)
    seen: dict[str, list[Tensor]] = {"x": [], "mask": []}
    for moment in interaction:
        x = transitions(moment.seen["observation"], moment.choice.actions, moment.step.reward)
        seen["x"].append(x)
        seen["mask"].append(moment.acting)
        if bool(moment.finished.any()):
            whole = policy.encoder(*(torch.stack(part, 1) for part in seen.values()))
            torch.testing.assert_close(policy.encoder.belief(interaction.state.belief), whole, atol=1e-5, rtol=1e-4)
    assert int(torch.stack(seen["mask"], 1).sum()) == 5 * 3 * 4


@pytest.mark.parametrize("encoder", ["product", "recurrent"])
def test_nothing_met_is_the_prior_and_padding_counts_for_nothing(encoder: str) -> None:
    net = fresh(encoder).encoder
    x, mask = torch.randn(3, 6, 5), torch.zeros(3, 6, dtype=torch.bool)
    unit = Latent.unit(torch.zeros(3, 2))
    torch.testing.assert_close(net(x, mask), unit)
    torch.testing.assert_close(net.belief(net.begin(3)), unit)
    mask[:, [0, 2, 3]] = True
    torch.testing.assert_close(net(x, mask), net(x[:, [0, 2, 3]], mask[:, [0, 2, 3]]))


def test_the_product_does_not_care_for_the_order_and_the_recurrent_one_does() -> None:
    x, mask = torch.randn(3, 6, 5), torch.ones(3, 6, dtype=torch.bool)
    net = fresh().encoder
    torch.testing.assert_close(net(x, mask), net(x.flip(1), mask), atol=1e-5, rtol=1e-4)
    net = fresh("recurrent").encoder
    assert (net(x, mask).mean - net(x.flip(1), mask).mean).abs().max() > 1e-4


def test_z_holds_for_an_episode_is_recorded_and_comes_from_the_belief() -> None:
    policy, tasks = fresh(), make_tasks(**POINT)
    trials = rollout(tasks.env, policy, tasks.batch(0, range(400)), seed=1)
    z = trials.inputs["z"]
    per_episode = []
    for episode in range(3):
        rows = trials.mask & (trials.episode == episode)
        own = z[rows].unflatten(0, (400, 4))
        assert torch.equal(own, own[:, :1].expand_as(own))
        per_episode.append(own[:, 0])
    assert (per_episode[0] != per_episode[1]).all()
    assert per_episode[0].mean(0).abs().max() < 0.2, "the first is drawn from the prior"
    assert (per_episode[0].std(0) - 1).abs().max() < 0.15
    context = transitions(trials.inputs["observation"], trials.actions, trials.rewards)
    for episode in (1, 2):  # and standardised by the belief before it the others are normal, too
        belief = policy.encoder(context, trials.mask & (trials.episode < episode))
        noise = (per_episode[episode] - belief.mean) / belief.std
        assert noise.mean(0).abs().max() < 0.2
        assert (noise.std(0) - 1).abs().max() < 0.15


def test_an_entrant_draws_z_of_its_own_generator() -> None:
    policy, tasks = fresh(), make_tasks(**POINT)
    torch.manual_seed(0)
    one = rollout(tasks.env, Entrant(policy, True, seed=3), tasks.batch(0, range(5)), seed=1)
    torch.manual_seed(1)
    two = rollout(tasks.env, Entrant(policy, True, seed=3), tasks.batch(0, range(5)), seed=1)
    assert torch.equal(one.inputs["z"], two.inputs["z"])
    assert torch.equal(one.actions, two.actions)


@pytest.mark.parametrize(("encoder", "context"), [("product", 0), ("product", 6), ("recurrent", 0)])
def test_the_critics_move_the_encoder_and_the_actor_does_not(encoder: str, context: int, tmp_path: Path) -> None:
    trainer = filled(tmp_path, policy={"encoder": encoder}, context=context, penalty=0.0)
    parameters = list(trainer.policy.encoder.parameters())
    losses = trainer.losses(trainer.sample())
    for name in ("actor", "temperature"):
        grads = torch.autograd.grad(losses[name], parameters, retain_graph=True, allow_unused=True)
        assert all(grad is None for grad in grads), name
    learners = trainer.learners()
    accumulate_own(losses, learners, lambda grad: grad)
    moved = [float(p.grad.abs().max()) for p in parameters]
    assert min(moved) > 0
    owned = {id(p) for p in learners["critics"].parameters()}
    assert {id(p) for p in parameters} <= owned


def test_the_divergence_counts_in_the_critics_loss(tmp_path: Path) -> None:
    trainer = filled(tmp_path, penalty=0.0)
    batch, state = trainer.sample(), torch.get_rng_state()
    found = {}
    for penalty in (0.0, 3.0):
        torch.set_rng_state(state)
        trainer.args.penalty = penalty
        found[penalty] = trainer.losses(batch)["critics"]
    belief = trainer.policy.encoder(batch["context"], batch["context_mask"])
    torch.testing.assert_close(found[3.0] - found[0.0], 3 * belief.kl_unit().mean(), atol=1e-4, rtol=1e-4)


def test_one_z_a_task_and_the_context_is_of_the_same_task(tmp_path: Path) -> None:
    """The goal follows from two transitions of a task: every context and every row of its block agree on it."""
    trainer = filled(tmp_path, context=5)
    batch = trainer.sample()
    tasks = batch["task"].view(3, 8)
    assert torch.equal(tasks, tasks[:, :1].expand_as(tasks))
    assert len(set(tasks[:, 0].tolist())) == 3
    goals = trainer.tasks.batch(trainer.args.seed, tasks[:, 0].tolist())["goal"]
    x = batch["context"]
    away = (x[..., :2] + 0.1 * x[..., 2:4] - goals[:, None]).norm(dim=-1)
    torch.testing.assert_close(-away, x[..., 4])


def test_a_context_of_episodes_is_the_beginning_of_a_recent_trial(tmp_path: Path) -> None:
    trainer = filled(tmp_path, recent=1)
    newest = trainer.replay.rows(1, tasks=[0, 1, 2, 3], recent=1)
    lengths = set()
    for _ in range(20):
        batch = trainer.sample()
        tasks = batch["task"].view(3, 8)[:, 0]
        expected = transitions(newest.inputs["observation"], newest.actions, newest.rewards)[tasks]
        assert torch.equal(batch["context"], expected)
        counts = batch["context_mask"].sum(1)
        lengths |= set(counts.tolist())
        assert not batch["context_mask"][:, 9:].any(), "the last episode is adapted to by nobody"
    assert lengths == {4, 8}


def test_critics_may_learn_a_dense_reward_that_the_context_does_not_show(tmp_path: Path) -> None:
    trainer = filled(tmp_path, SPARSE, critic_reward="dense")
    batch = trainer.sample()
    goals = trainer.tasks.batch(trainer.args.seed, batch["task"].tolist())["goal"]
    torch.testing.assert_close(batch["reward"], -(batch["next_observation"] - goals).norm(dim=-1))
    assert batch["context"][..., -1].eq(0).all(), "four steps do not reach the goal: nothing is paid"
    with pytest.raises(ConfigError, match="no dense reward"):
        build(tmp_path, {"name": "fading-legs", "stages": 3, "each": 1, "steps": 5}, critic_reward="dense")


def test_only_training_tasks_are_played_and_all_of_them(tmp_path: Path) -> None:
    trainer = build(tmp_path, per_device_train_batch_size=8)
    trainer.train()
    assert trainer.replay.tasks.tolist() == list(range(6))
    for drawn in (trainer.numbers(range(100, 108), 1), trainer.numbers(range(6), 0)):
        assert sorted(set(drawn)) == list(range(6)), "none twice before all are in"


@pytest.mark.parametrize("encoder", ["product", "recurrent"])
def test_a_resumed_run_equals_one_left_alone(encoder: str, tmp_path: Path) -> None:
    def options(name: str) -> dict[str, Any]:
        saved = {"save_strategy": "steps", "save_steps": 2, "auto_resume": True, "max_steps": 7, "capacity": 300}
        return {
            "folder": tmp_path / name,
            "policy": {"encoder": encoder},
            **saved,
            "updates_per_step": 4,
            "updates_per_env_step": 0.25,
        }

    alone = build(**options("alone"))
    alone.train()
    resumed = interrupted(lambda: build(**options("resumed")), [3, 5])
    assert_same_run(alone, resumed)
    left, right = (t.replay.steps(100, torch.Generator().manual_seed(0)) for t in (alone, resumed))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_policy_comes_back_from_disk(tmp_path: Path) -> None:
    policy = fresh("recurrent")
    policy.save_pretrained(tmp_path / "model")
    back = load_control_policy(tmp_path, PEARLPolicy)
    assert back.config.latent == 2
    assert all(torch.equal(v, back.state_dict()[name]) for name, v in policy.state_dict().items())


def test_mistakes_are_told(tmp_path: Path) -> None:
    for wrong in ({"train_tasks": 0}, {"meta_batch": 0}, {"context": -1}, {"recent": 0}, {"penalty": -1.0}):
        with pytest.raises(ConfigError, match=f"{next(iter(wrong))}=.* must be at least"):
            build(tmp_path, **wrong)
    with pytest.raises(ConfigError, match="the encoder is recurrent: set context: 0"):
        build(tmp_path, policy={"encoder": "recurrent"}, context=5)
    with pytest.raises(ConfigError, match="encoder='produkt'"):
        build(tmp_path, policy={"encoder": "produkt"})
    with pytest.raises(ConfigError, match="no option \\['memory'\\]"):
        build(tmp_path, policy={"memory": "gru"})
