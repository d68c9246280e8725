"""MFEC and NEC: tables by hand, what is repeated, the gamble, and the loss of the embedding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.memory.dictionary import distances, empty_table, kernel_weights, touch, write
from classic_metarl.memory.episodic_control import n_step_returns
from classic_metarl.memory.mfec import MFEC
from classic_metarl.memory.nec import NEC
from classic_metarl.problems.episodic_tasks import EpisodicMaze, Gamble
from evals.gates import memory
from mrt.cli.main import main
from mrt.control.envs import EnvTasks
from mrt.control.envs.bandits import BernoulliBandit
from mrt.control.envs.navigation import PointRobot
from mrt.control.probes import ExploitProbe
from mrt.control.rollout import rollout
from mrt.errors import ConfigError
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.training.records import episode_returns

pytestmark = pytest.mark.training

QUICK = ("args.disable_tqdm=true", "args.report_to=none", "args.save_strategy=no", "args.max_steps=2")
SMALL = ("tasks.size=3", "tasks.steps=12", "tasks.episodes=4", "args.per_device_train_batch_size=6")
ONE = torch.ones(1, dtype=torch.bool)


def trainer_of(name: str, folder: Path, *overrides: str) -> Any:
    recipe = load_recipe(f"memory/{name}", [*QUICK, *SMALL, *overrides])
    return import_trainer(recipe.trainer).from_recipe(recipe, folder)


def entry(key: float, action: int, value: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.tensor([[key]]), torch.tensor([action]), torch.tensor([value])


# ---- the table


def test_kernel_weights_by_hand() -> None:
    """Squared distances 0, 1 and an empty slot, delta 1: 1 / 1 and 1 / 2, that is 2/3, 1/3, 0."""
    apart = torch.tensor([[0.0, 1.0, torch.inf]])
    assert kernel_weights(apart, delta=1.0)[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0.0])
    assert kernel_weights(apart, neighbours=1, delta=1.0)[0].tolist() == [1.0, 0.0, 0.0]
    assert kernel_weights(torch.full((1, 3), torch.inf)).sum() == 0
    stored = kernel_weights(torch.tensor([[0.0, 1.0]]), delta=1e-9)[0]  # a stored key answers for itself
    assert stored[0] > 1 - 1e-6


def test_a_key_keeps_its_slot_and_the_longest_unused_goes() -> None:
    table = empty_table(1, 2, 2, torch.zeros(1, 1))
    for now, (key, value) in enumerate([(0.0, 1.0), (5.0, 2.0), (0.0, 3.0)]):
        write(table, entry(key, 1, value), ONE, torch.tensor([now]), torch.maximum)
    assert sorted(table.values[0, 1].tolist()) == [2.0, 3.0]
    assert table.used[0, 0].tolist() == [-1, -1]  # the other action's table is its own
    touch(table, distances(table, torch.tensor([[5.0]])), 1, torch.tensor([7]))
    write(table, entry(9.0, 1, 4.0), ONE, torch.tensor([8]), torch.maximum)
    assert sorted(table.values[0, 1].tolist()) == [2.0, 4.0]  # 5 was looked up at 7, 0 not since 2


def test_n_step_returns_by_hand() -> None:
    """Rewards 1, 2, 4 | 8 in two episodes, gamma 1/2, values 10: N = 1, 2 and all."""
    rewards, values = torch.tensor([[1.0, 2.0, 4.0, 8.0, 0.0]]), torch.full((1, 5), 10.0)
    episode = torch.tensor([[0, 0, 0, 1, -1]])
    by_hand = {1: [6.0, 7.0, 4.0, 8.0, 0.0], 2: [4.5, 4.0, 4.0, 8.0, 0.0], 9: [3.0, 4.0, 4.0, 8.0, 0.0]}
    for steps, wanted in by_hand.items():
        assert n_step_returns(rewards, values, episode, steps, 0.5)[0].tolist() == wanted


def test_estimates_of_mfec_by_hand() -> None:
    """A stored key returns its own value, another the mean of its two nearest, an empty table `unknown`."""
    agent = MFEC.for_spec(Gamble().spec, neighbours=2, unknown=-7.0)
    table = empty_table(1, 2, 4, torch.zeros(1, 1))
    for key, value in ((0.0, 1.0), (1.0, 3.0), (10.0, 100.0)):
        write(table, entry(key, 0, value), ONE, torch.tensor([0]), agent.merge)
    assert agent.estimate(table, distances(table, torch.tensor([[1.0]])))[0].tolist() == [3.0, -7.0]
    assert agent.estimate(table, distances(table, torch.tensor([[0.4]])))[0].tolist() == [2.0, -7.0]
    assert agent.merge(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 5.0])).tolist() == [1.0, 5.0]
    learner = NEC.for_spec(Gamble().spec, rate=0.25)
    assert learner.merge(torch.tensor([1.0]), torch.tensor([-1.0])).tolist() == [0.5]


# ---- trials


def test_one_trial_of_two_steps_is_written_by_hand() -> None:
    """A safe and a risky pull that wins: both actions are stored with their returns, and the best is repeated."""
    env = Gamble(win=1.0, episodes=3)
    agent = MFEC.for_spec(env.spec, unknown=0.5, epsilon=0.0)
    state = agent.init_state(1)
    seen = {"observation": torch.zeros(1, 1), "action": torch.tensor([-1]), "reward": torch.zeros(1)}
    seen["done"] = torch.zeros(1)
    choice = agent.act(seen, state, greedy=True)
    assert (choice.actions.item(), choice.values.item()) == (0, 0.5)
    after = {**seen, "reward": torch.tensor([0.25]), "done": torch.ones(1)}
    state = agent.adapt(after, choice.state, ONE)
    assert state.table.values[0, 0].max() == 0.25
    assert state.length.item() == 0
    again = agent.act(seen, state, greedy=True)
    assert (again.actions.item(), again.values.item()) == (1, 0.5)  # what is unknown is thought better


def test_the_best_episode_is_repeated_exactly() -> None:
    """Gate T44: in mazes without noise a greedy episode returns no less than the best before it, for every task."""
    tasks = EnvTasks(EpisodicMaze(4, steps=24, episodes=6))
    agent = MFEC.for_spec(tasks.env.spec, neighbours=0, limit=False, epsilon=0.1)
    torch.manual_seed(0)
    trials = rollout(tasks.env, agent, tasks.batch(0, range(16)), seed=1, probe=ExploitProbe(1))
    best = episode_returns(trials).cummax(1).values
    assert bool((trials.stop_values[:, 1:] >= best - 1e-6).all())
    assert best[:, -1].mean() > 0.3
    first = trials.stop_values[:, 0]
    assert first.mean() < trials.stop_values[:, -1].mean() - 0.5


def test_a_gamble_fools_the_maximum_and_not_the_mean() -> None:
    tasks = EnvTasks(Gamble(episodes=100))
    params = tasks.batch(0, range(200))
    share = {}
    for kind in (MFEC, NEC):
        torch.manual_seed(0)
        trials = rollout(tasks.env, kind.for_spec(tasks.env.spec, epsilon=0.2), params, seed=1)
        late = trials.mask & (trials.episode >= 75)
        share[kind] = float(((trials.actions == params["risky"][:, None]) & late).sum() / late.sum())
    assert share[MFEC] > 0.75  # 0.9 where every action was tried: a fifth of the actions is chance
    assert share[NEC] < 0.25


# ---- learning


def test_the_loss_reads_what_the_table_held_then(tmp_path: Path) -> None:
    """Two episodes of one step by hand: the second asks, the first answers, and nothing answers across actions."""
    env = Gamble(episodes=3)
    tasks = EnvTasks(env)
    torch.manual_seed(0)
    agent = NEC.for_spec(env.spec, neighbours=0)
    trials = rollout(env, agent, tasks.batch(0, range(30)), seed=3)
    targets = trials.rewards
    found, told = agent(trials, targets, torch.tensor([[0, 2, 4]]).expand(30, 3))
    assert not told[:, 0].any()
    same = trials.actions[:, 0] == trials.actions[:, 2]
    assert torch.equal(told[:, 1], same)
    assert torch.allclose(found[same, 1], targets[same, 0])  # one entry answers with its value, whatever the embedding
    three = same & (trials.actions[:, 0] == trials.actions[:, 4])
    mean = (targets[three, 0] + targets[three, 2]) / 2  # the observation never changes: equal weights
    assert torch.allclose(found[three, 2], mean)


def test_the_embedding_learns_which_numbers_matter(tmp_path: Path, learning: Any) -> None:
    trainer = trainer_of(
        "nec", tmp_path, "args.max_steps=24", "args.learning_rate=0.01", f"seed={learning.seed(0)}", "tasks.noise=2"
    )
    before = _reach(trainer.unwrapped)
    trainer.train()
    learning.check("place over noise", _reach(trainer.unwrapped) / before, above=1.3)


def _reach(agent: NEC) -> float:
    """How far the key moves with the place, over how far it moves with the noise."""
    draws = torch.Generator().manual_seed(5)
    seen = 2 * torch.rand(256, 4, generator=draws) - 1
    with torch.no_grad():
        moved = []
        for columns in (slice(0, 2), slice(2, 4)):
            other = seen.clone()
            other[:, columns] = other[torch.randperm(256, generator=draws)][:, columns]
            moved.append((agent.key(other) - agent.key(seen)).square().sum(-1).mean())
    return float(moved[0] / moved[1])


def test_a_resumed_run_ends_bit_for_bit(tmp_path: Path) -> None:
    options = ("args.max_steps=4", "args.save_strategy=steps", "args.save_steps=2", "args.epochs=3")
    whole = trainer_of("nec", tmp_path / "whole", *options)
    whole.train()
    resumed = trainer_of("nec", tmp_path / "resumed", *options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_what_gates_measure(tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = [*QUICK, *SMALL, "args.max_steps=1"]
    assert main(["train", "memory/mfec", *options, f"output_dir={run}"]) == 0
    recipe = load_recipe("memory/mfec", options)
    found = memory.maze(run, recipe, 8, ["kept", "least", "last", "last_random", "last_mfec"])
    assert found["kept"].mean == 1.0
    assert found["least"].mean == 0.0
    assert found["last_random"].mean < found["last"].mean
    assert found["last"].floor < found["last"].mean <= found["last"].ceiling + 1e-6


def test_mistakes_in_a_recipe_are_told(tmp_path: Path) -> None:
    for agent, spec, options, message in (
        (MFEC, PointRobot().spec, {}, "discrete"),
        (MFEC, BernoulliBandit().spec, {"neighbors": 3}, "did you mean 'neighbours'"),
        (NEC, BernoulliBandit().spec, {"slots": 0}, "at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            agent.for_spec(spec, **options)
    with pytest.raises(ConfigError, match="epochs=0"):
        trainer_of("nec", tmp_path, "args.epochs=0")
