"""DREAM and IMPORT: rewards sum to what was found out, who moves what, targets by hand, acting as learned, resume."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from classic_metarl.inference.dream import DREAMPolicy, DREAMTrainer, information_gain
from classic_metarl.inference.informed_policy import IMPORTPolicy
from classic_metarl.trainers.beliefs import TASK
from classic_metarl.trainers.informed import DuelingQ, Told
from mrt.control.agent import RandomAgent
from mrt.control.envs import make_env, make_tasks
from mrt.control.envs.buses import ORDERS
from mrt.control.interaction import play
from mrt.control.oracles.beliefs import task_features
from mrt.control.oracles.bounds import task_bounds
from mrt.control.oracles.buses import uninformed_bus
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.optim.learners import accumulate_own
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.trials import Trials
from tests.support import bandit
from tests.support.compare import assert_same_run, interrupted
from tests.support.policies import at, randomised

pytestmark = pytest.mark.training

QUICK = ["args.use_cpu=true", "args.disable_tqdm=true", "args.report_to=none", "args.logging_steps=1"]
SMALL = ["args.per_device_train_batch_size=4", "args.random_steps=60", "args.batch_size=5", "policy.hidden_size=8",
         "policy.head_size=8", "policy.latent=3", "args.updates_per_step=2", "args.updates_per_env_step=0.05",
         "args.max_steps=5"]  # fmt: skip
DREAM, IMPORT = "inference/dream-bus", "inference/import-bus"


def build(name: str, folder: Path, *changed: str) -> Any:
    recipe = load_recipe(name, [*QUICK, *SMALL, "args.save_strategy=no", *changed])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def filled(name: str, folder: Path, *changed: str) -> tuple[Any, Trials]:
    """A trainer in double precision whose networks and targets all differ, and a batch of its replay."""
    trainer = build(name, folder, *changed)
    batch = trainer.next_batch(range(4))
    randomised(trainer.policy.double(), seed=1)
    inputs = {key: value.double() if value.is_floating_point() else value for key, value in batch.inputs.items()}
    return trainer, dataclasses.replace(batch, inputs=inputs, rewards=batch.rewards.double())


def explored(trainer: Any, batch: Trials) -> tuple[Tensor, Tensor]:
    """(B, T) distances of the decoder from the task, and who acts in the exploration."""
    with torch.no_grad():
        f = trainer.policy.tasks(trainer.task_of(batch))
        away = (trainer.policy.decoder(batch.inputs) - f[:, None]).square().sum(-1)
    return away, batch.mask & (batch.episode < trainer.policy.config.free_episodes)


@pytest.mark.parametrize("free", [1, 2])
def test_the_explorers_rewards_sum_to_what_was_found_out(free: int, tmp_path: Path) -> None:
    changed = (f"tasks.episodes={free + 1}", f"tasks.free_episodes={free}", "tasks.steps=5")
    trainer, batch = filled(DREAM, tmp_path, *changed)
    away, acted = explored(trainer, batch)
    handed: list[Trials] = []
    trainer.explorer_loss = lambda own: handed.append(own) or torch.zeros(())
    trainer.losses(batch)
    (own,) = handed
    rewards, last = own.rewards, [int(row.nonzero().max()) for row in acted]
    expected = [float(away[b, 0] - away[b, t + 1]) - 0.1 * int(acted[b].sum()) for b, t in enumerate(last)]
    assert rewards.sum(1).tolist() == pytest.approx(expected, abs=1e-6)
    steps = own.rewards.shape[1]
    assert torch.equal(own.mask, acted[:, :steps])
    assert not acted[:, steps:].any()
    assert (rewards[~own.mask] == 0).all()
    one_by_one = away[:, :-1] - away[:, 1:]  # within an episode, step by step
    inside = acted[:, : steps - 1] & acted[:, 1:steps]
    torch.testing.assert_close(rewards[:, :-1][inside], one_by_one[:, : steps - 1][inside] - 0.1, atol=1e-6, rtol=1e-6)


def test_information_lost_between_explorations_counts_too() -> None:
    away = torch.tensor([[5.0, 4.0, 7.0, 3.0, 1.0, 9.0]])
    acted = torch.tensor([[1, 0, 1, 1, 0, 0]]).bool()  # row 1 and row 4 close the episodes
    assert information_gain(away, acted).tolist() == [[-2.0, 0.0, 4.0, 2.0, 0.0, 0.0]]


def gradient(loss: Tensor, part: torch.nn.Module) -> float | None:
    """The largest entry; None where nothing reaches the part."""
    grads = torch.autograd.grad(loss, list(part.parameters()), retain_graph=True, allow_unused=True)
    found = [float(grad.abs().max()) for grad in grads if grad is not None]
    return max(found) if found else None


def test_every_loss_moves_what_it_should_and_nothing_else(tmp_path: Path) -> None:
    trainer, batch = filled(DREAM, tmp_path, "args.free_norm=1e9")
    policy, losses = trainer.policy, trainer.losses(batch)
    parts = {name: getattr(policy, name) for name in ("tasks", "exploiter", "decoder", "explorer", "targets")}
    reached = {"exploiter": {"tasks", "exploiter"}, "decoder": {"decoder"}, "explorer": {"explorer"}}
    for name, loss in losses.items():
        found = {part for part, module in parts.items() if part != "targets" and (gradient(loss, module) or 0) > 1e-12}
        assert found == reached[name], name
    learners = trainer.learners()
    accumulate_own(losses, learners, lambda grad: grad)
    for name, learner in learners.items():
        owned = {id(p) for p in learner.parameters()}
        assert owned == {id(p) for part in reached[name] for p in parts[part].parameters()}
    assert all(p.grad is None for p in policy.targets.parameters())


def test_the_bottleneck_begins_at_its_norm(tmp_path: Path) -> None:
    trainer, batch = filled(DREAM, tmp_path, "args.free_norm=2", "args.bottleneck=3", "args.noise=0")
    with torch.no_grad():
        norm = trainer.policy.tasks(trainer.task_of(batch)).square().sum(-1)
    found = trainer.losses(batch)["exploiter"].item()
    trainer.args.bottleneck = 0.0
    assert found - trainer.losses(batch)["exploiter"].item() == pytest.approx(3 * float(norm.clamp(min=2).mean()))


def test_targets_of_the_exploiter_by_hand(tmp_path: Path) -> None:
    """y = r + gamma Q'(s', argmax Q(s')), and y = r in the last step of the trial, step by step."""
    trainer, batch = filled(DREAM, tmp_path, "args.noise=0")
    policy, squares = trainer.policy, []
    f = policy.tasks(trainer.task_of(batch))
    found = trainer.exploiter_loss(batch, f).item()
    for b, t in (batch.mask & (batch.episode == 1)).nonzero().tolist():
        now, then = (policy.exploit(batch.inputs["observation"][b, i], f[b]).tolist() for i in (t, t + 1))
        ahead = policy.exploit(batch.inputs["observation"][b, t + 1], f[b], target=True).tolist()
        after = ahead[then.index(max(then))] if bool(batch.mask[b, t + 1]) else 0.0
        y = float(batch.rewards[b, t]) + 0.99 * after
        squares.append((now[int(batch.actions[b, t])] - y) ** 2)
    assert len(squares) > 20
    assert found == pytest.approx(0.5 * sum(squares) / len(squares), rel=1e-9)


def test_targets_of_the_explorer_by_hand(tmp_path: Path) -> None:
    """Its return ends with the exploration: nothing of the paid episode is bootstrapped."""
    trainer, batch = filled(DREAM, tmp_path)
    policy, (away, acted) = trainer.policy, explored(trainer, batch)
    found = float(trainer.losses(batch)["explorer"].detach())
    with torch.no_grad():
        values, ahead = policy.explorer(batch.inputs), policy.targets["explorer"](batch.inputs)
    squares = []
    for b, t in acted.nonzero().tolist():
        after = float(ahead[b, t + 1, int(values[b, t + 1].argmax())]) if bool(acted[b, t + 1]) else 0.0
        y = float(away[b, t] - away[b, t + 1]) - 0.1 + 0.99 * after
        squares.append((float(values[b, t, int(batch.actions[b, t])]) - y) ** 2)
    assert found == pytest.approx(0.5 * sum(squares) / len(squares), rel=1e-6)


def test_features_tell_tasks_apart() -> None:
    """By bus and stop, by number, or by parameters; those of listed tasks have length 1."""
    for name in ("dream-bus", "grid-navi", "point-robot"):
        tasks = make_tasks(name)
        env: Any = tasks.env
        params = env.all_tasks() if name != "point-robot" else tasks.batch(0, range(20))
        found = task_features(env, params)
        assert len(found.unique(dim=0)) == len(found)
        if name != "point-robot":
            torch.testing.assert_close(found.norm(dim=1), torch.ones(len(found)))


def test_advantages_have_no_mean() -> None:
    head, x = DuelingQ(5, 7, 4), torch.randn(3, 2, 5)
    torch.testing.assert_close(head(x).mean(-1), head.value(head.hidden(x).relu())[..., 0])


@torch.no_grad()
def test_the_agent_explores_decodes_and_exploits_as_it_was_taught() -> None:
    """Step by step in use, at once in training: z is what the decoder makes of the whole exploration."""
    tasks, rows = make_tasks("dream-map"), torch.arange(30)
    policy = randomised(DREAMPolicy.for_spec(tasks.env.spec, hidden_size=8, head_size=8, latent=3))
    trials = rollout(tasks.env, RandomAgent(tasks.env.spec), tasks.batch(0, range(30)), seed=1)
    first, inside = trials.episode == 0, trials.episode >= 0
    closing = first.sum(1) - 1
    assert len(set(closing.tolist())) > 5
    z = policy.decoder(trials.inputs)[rows, closing]
    exploit = policy.exploit(trials.inputs["observation"], z[:, None].expand(-1, first.shape[1], -1))
    expected = torch.where(first, policy.explorer(trials.inputs).argmax(-1), exploit.argmax(-1))
    state, acted = policy.init_state(30), []
    for t in range(first.shape[1]):
        choice = policy.act(at(trials.inputs, t), state)
        acted.append(choice.actions)
        state = policy.fork(choice.state, rows)
        here = closing == t
        torch.testing.assert_close(choice.extras["z"][here], z[here])
    counted = inside & ~(first & (torch.arange(first.shape[1]) == closing[:, None]))
    assert torch.equal(torch.stack(acted, 1)[counted], expected[counted])
    assert len(expected[counted].unique()) > 2


@pytest.mark.parametrize("name", [DREAM, IMPORT])
def test_trials_of_training_are_played_on_the_task_itself_in_a_share(name: str, tmp_path: Path) -> None:
    trainer = build(name, tmp_path, "args.noise=0", "args.epsilon=0", "args.epsilon_end=0", "args.told=0.5")
    policy, env = trainer.policy, trainer.tasks.env
    params = trainer.tasks.batch(0, range(400))
    known = trainer.known(params)
    player = trainer.player_on(known)
    assert isinstance(player.policy, Told)
    told, f = player.policy.told, policy.tasks(known[TASK])
    assert 150 < int(told.sum()) < 250
    state = player.init_state(400)
    seen = {"observation": env.reset(params, 0), "action": torch.full((400,), -1), "reward": torch.zeros(400)}
    _, (_, after) = player.policy, player.act({**seen, "done": torch.zeros(400)}, state).state
    torch.testing.assert_close(after.z[told], f[told])
    assert (after.z[~told] - f[~told]).abs().sum(1).min() > 1e-4, "the others act on what they infer"


@pytest.mark.parametrize("name", [DREAM, IMPORT])
def test_a_stored_trial_knows_its_task(name: str, tmp_path: Path) -> None:
    trainer, batch = filled(name, tmp_path)
    orders = trainer.tasks.batch(trainer.args.seed, batch.task.tolist())["order"]
    stops = trainer.task_of(batch).view(len(batch), 4, 4).argmax(-1)
    assert stops.tolist() == [list(ORDERS[order]) for order in orders.tolist()]
    assert set(batch.inputs) == {"observation", "action", "reward", "done"}


def test_the_loss_of_import_by_hand(tmp_path: Path) -> None:
    """Told or not for a whole trial, one head; exploration earns nothing by itself; g alone is drawn to f."""
    found = {}
    for told in (0.0, 1.0):
        trainer, batch = filled(IMPORT, tmp_path, f"args.told={told}", "args.noise=0", "args.regularisation=0")
        policy, ahead = trainer.policy, trainer.policy.targets
        batch = dataclasses.replace(batch, rewards=batch.rewards + 5.0 * (batch.episode == 0) * batch.mask)
        with torch.no_grad():
            task, squares = trainer.task_of(batch), []
            z = {
                name: (tasks(task)[:, None].expand(-1, batch.mask.shape[1], -1) if told else histories(batch.inputs))
                for name, tasks, histories in (
                    ("now", policy.tasks, policy.histories),
                    ("ahead", ahead["tasks"], ahead["histories"]),
                )
            }
            q = policy.head(torch.cat([batch.inputs["observation"], z["now"]], -1))
            later = ahead["head"](torch.cat([batch.inputs["observation"], z["ahead"]], -1))
        for b in range(len(batch)):
            acting = batch.mask[b].nonzero()[:, 0].tolist()
            for t, following in zip(acting, [*acting[1:], None], strict=True):
                after = 0.0 if following is None else float(later[b, following, int(q[b, following].argmax())])
                reward = float(batch.rewards[b, t]) * int(batch.episode[b, t] > 0)
                squares.append((float(q[b, t, int(batch.actions[b, t])]) - reward - 0.99 * after) ** 2)
        found[told] = float(trainer.losses(batch)["agent"].detach())
        assert found[told] == pytest.approx(0.5 * sum(squares) / len(squares), rel=1e-6)
    assert found[0.0] != pytest.approx(found[1.0], rel=1e-3)
    policy.zero_grad()
    before = trainer.losses(batch)["agent"]
    trainer.args.regularisation = 2.0
    added = trainer.losses(batch)["agent"] - before
    assert gradient(added, policy.histories) > 1e-6  # type: ignore[operator]
    assert gradient(added, policy.tasks) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("name", [DREAM, IMPORT])
def test_padding_is_nothing(name: str, tmp_path: Path) -> None:
    trainer, batch = filled(name, tmp_path, "args.told=1", "args.noise=0")
    losses = trainer.losses(batch)

    def longer(value: Tensor, fill: float = 0) -> Tensor:
        return torch.cat([value, torch.full_like(value[:, :4], fill)], 1)

    padded = Trials(
        longer(batch.actions),
        longer(batch.rewards, 3),
        longer(batch.mask, False),
        longer(batch.episode, -1),
        batch.group,
        inputs={key: longer(value, 1) for key, value in batch.inputs.items()},
        privileged={key: longer(value) for key, value in batch.privileged.items()},
    )
    again = {key: float(value) for key, value in trainer.losses(padded).items()}
    assert again == pytest.approx({key: float(value) for key, value in losses.items()}, rel=1e-9)


@pytest.mark.parametrize("name", [DREAM, IMPORT])
def test_a_resumed_run_equals_one_left_alone(name: str, tmp_path: Path) -> None:
    def made(folder: str) -> Any:
        options = ("args.save_strategy=steps", "args.save_steps=2", "args.auto_resume=true", "args.capacity=400")
        return build(name, tmp_path / folder, *options)

    alone = made("alone")
    alone.train()
    resumed = interrupted(lambda: made("resumed"), [3])
    assert_same_run(alone, resumed)
    left, right = (t.replay.rows(20, torch.Generator().manual_seed(0)) for t in (alone, resumed))
    assert torch.equal(left.rewards, right.rewards)
    assert torch.equal(left.privileged[TASK], right.privileged[TASK])
    assert all(not p.requires_grad for p in alone.policy.targets.parameters())


@pytest.mark.parametrize("name", [DREAM, IMPORT, "inference/dream-map"])
def test_recipes_run_and_what_they_saved_acts_as_it_did(name: str, tmp_path: Path) -> None:
    trainer = build(name, tmp_path, "args.max_steps=1", f"output_dir={tmp_path}")
    before = bandit.digest_of(trainer.policy.state_dict())
    trainer.train()
    assert bandit.digest_of(trainer.policy.state_dict()) != before
    trainer.save_model(str(tmp_path / "model"))
    back = type(trainer).agent_of(tmp_path, load_recipe(name, SMALL))
    params, env = trainer.tasks.batch(9, range(20)), trainer.tasks.env
    assert torch.equal(play(env, trainer.policy.eval(), params, seed=2), play(env, back, params, seed=2))


def test_what_knowing_the_task_is_worth() -> None:
    """The figures of the gate: 0.8 with the task known, 0.3 on foot, which is the best without exploration."""
    for name in ("dream-bus", "dream-map"):
        env: Any = make_env(name)
        assert uninformed_bus(env) == pytest.approx(0.3, abs=1e-9)
        known = task_bounds(env, env.all_tasks()).ceiling
        assert known.tolist() == pytest.approx([0.8] * 24, abs=1e-6)


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs discrete actions"):
        DREAMPolicy.for_spec(make_tasks("point-robot").env.spec)
    with pytest.raises(ConfigError, match="0 of 4 episodes are free"):
        IMPORTPolicy.for_spec(make_tasks("grid-navi", episodes=4).env.spec)
    for wrong in ("told=1.5", "epsilon=-1", "noise=-1", "epsilon_steps=0", "penalty=-1", "free_norm=-1"):
        with pytest.raises(ConfigError, match=wrong.split("=")[0]):
            build(DREAM, tmp_path, f"args.{wrong}")
    with pytest.raises(ConfigError, match="regularisation"):
        build(IMPORT, tmp_path, "args.regularisation=-1")
    assert DREAMTrainer.args_class()(output_dir=str(tmp_path), max_steps=1, use_cpu=True).penalty == 0.1
