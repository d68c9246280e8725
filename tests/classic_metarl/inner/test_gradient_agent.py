"""A gradient-based learner as an agent: the same phi as from the record, forks that are apart, and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from classic_metarl.inner.gradient_agent import GradientAgent
from classic_metarl.inner.stage_credit import with_credit
from classic_metarl.trainers.meta_rl import GradientRLTrainer
from mrt.control.evaluation.run import evaluate_policy
from mrt.control.interaction import Interaction
from mrt.control.loading import load_agent, load_policy
from mrt.control.probes import ExploitProbe
from mrt.control.rollout import rollout
from mrt.runs.recipe import import_trainer, load_recipe
from mrt.trials import Trials

pytestmark = pytest.mark.training

QUICK = ["args.use_cpu=true", "args.disable_tqdm=true", "args.report_to=none", "args.curve_tasks=0", "args.hidden=[8]"]


def agent_of(name: str, folder: Path, episodes: int = 2, *changed: str) -> tuple[GradientAgent, GradientRLTrainer]:
    recipe = load_recipe(f"gradient/{name}", [*QUICK, f"args.episodes={episodes}", *changed])
    trainer: Any = import_trainer(recipe.trainer).from_recipe(recipe, folder)  # type: ignore[attr-defined]
    args, learner = trainer.args, trainer.learner
    own = {"credit": args.make_credit(), "gamma": args.gamma, "normalise": args.normalise}
    return GradientAgent(learner, trainer.tasks.env.spec, episodes=episodes, **own), trainer


@pytest.mark.parametrize("name", ["rl/maml_trpo", "rl/promp", "rl/maesn"])
def test_its_steps_are_those_of_the_record(name: str, tmp_path: Path) -> None:
    """Two episodes a step: phi after two and four episodes is what the learner makes of the recorded ones."""
    agent, trainer = agent_of(name, tmp_path)
    env, learner = trainer.tasks.env.with_spec(episodes=4, free_episodes=0), trainer.learner
    params = trainer.tasks.batch(0, range(3))
    torch.manual_seed(0)
    trial = Interaction(env, agent, params)
    phis, kept = [trial.state["phi"]], []
    for moment in trial:
        if bool(moment.finished.all()):
            phis.append(trial.state["phi"])
    torch.manual_seed(0)
    record = rollout(env, agent, params)
    extras = [n for n in record.inputs if n not in ("observation", "action", "reward", "done")]
    phi = {n: v.expand(3, *v.shape) for n, v in learner.start().items()}
    for number in range(2):
        rows = []
        for row in range(3):
            for episode in (2 * number, 2 * number + 1):
                chosen = torch.nonzero(record.mask[row] & (record.episode[row] == episode))[:, 0]
                rows.append((row, chosen))
        inputs = {n: torch.stack([record.inputs[n][r, c] for r, c in rows]) for n in ["observation", *extras]}
        steps = len(rows[0][1])
        stage = Trials(
            actions=torch.stack([record.actions[r, c] for r, c in rows]),
            rewards=torch.stack([record.rewards[r, c] for r, c in rows]),
            mask=torch.ones(6, steps, dtype=torch.bool),
            episode=torch.zeros(6, steps, dtype=torch.long),
            group=torch.arange(3).repeat_interleave(2),
            inputs=inputs,
            logprobs=torch.stack([record.logprobs[r, c] for r, c in rows]),
        )
        batch = with_credit(stage, trainer.args.make_credit(), trainer.args.gamma, trainer.args.normalise)
        phi = learner.adapt(phi, number, batch, order="first")
        kept.append(phi)
    for found, expected in ((phis[1], phis[0]), (phis[2], kept[0]), (phis[3], kept[0]), (phis[4], kept[1])):
        for part, value in expected.items():
            assert torch.allclose(found[part], value, atol=1e-5), part
    moved = max(float((kept[0][n] - phis[0][n]).detach().abs().max()) for n in phi)
    assert moved > 1e-4


def test_rows_adapt_when_their_own_episodes_are_complete(tmp_path: Path) -> None:
    """Rows whose episodes end at different times: each takes its step after its own second episode."""
    agent, _ = agent_of("rl/promp", tmp_path, 2, "tasks={name: hallway, half: 2, cost: 0.1}")
    from mrt.control.envs import make_tasks

    tasks = make_tasks("hallway", half=2, cost=0.1, episodes=4)
    torch.manual_seed(1)
    trial = Interaction(tasks.env, agent, tasks.batch(0, range(12)))
    done, apart = torch.zeros(12, dtype=torch.long), False
    for moment in trial:
        done += moment.finished
        assert torch.equal(trial.state["number"], done // 2)
        assert torch.equal(trial.state["count"], done % 2)
        apart |= len(done.unique()) > 1
    assert apart, "some were ahead of others"
    assert trial.state["number"].tolist() == [2] * 12


def test_probes_leave_it_as_it_was(tmp_path: Path) -> None:
    agent, trainer = agent_of("rl/maml_trpo", tmp_path, 1, "tasks.steps=5")
    env, params = trainer.tasks.env.with_spec(episodes=3), trainer.tasks.batch(0, range(4))
    made = [torch.Generator().manual_seed(3) for _ in range(2)]
    plain = rollout(env, agent, params, generator=made[0])
    probed = rollout(env, agent, params, generator=made[1], probe=ExploitProbe(2, greedy=False))
    assert torch.equal(plain.actions, probed.actions)
    assert not probed.stop_values.isnan().any()


def test_a_run_is_loaded_evaluated_and_acts(tmp_path: Path) -> None:
    """The three lines, for a gradient policy; `evaluate_policy` takes it beside the others."""
    overrides = [*QUICK, "args.max_steps=1", "args.episodes=2", "args.per_device_train_batch_size=4", "tasks.steps=5"]
    recipe = load_recipe("gradient/rl/promp", [*overrides, f"output_dir={tmp_path}"])
    trainer: Any = import_trainer(recipe.trainer).from_recipe(recipe, tmp_path)  # type: ignore[attr-defined]
    from mrt.runs.rundir import start_run

    start_run(tmp_path, recipe, ["mrt"])
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    agent = load_agent(tmp_path)
    assert isinstance(agent, GradientAgent)
    for name, value in trainer.learner.state_dict().items():
        assert torch.equal(agent.state_dict()[name], value.cpu()), name
    found = evaluate_policy(agent, trainer.tasks.test, count=6, progress=False)
    assert found["players"]["policy"]["measures"]["total"]["mean"] < 0
    policy = load_policy(tmp_path)
    state, position = policy.reset(), torch.zeros(2)
    for _ in range(2):
        for step in range(6):
            action, state = policy.act(position, state, -1.0 if step else 0.0, step == 5)
            assert action.shape == (2,)
    assert int(state.memory["number"]) == 1, "two episodes, one step"
