"""Skills without rewards: what is paid, what learns from what, and rooms whose rewards a discriminator makes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from classic_metarl.task_distributions.diayn import DIAYNConfig, DIAYNTrainer, SkillPolicy
from evals.gates.unsupervised import skills
from mrt.control.envs import make_env, make_tasks
from mrt.control.envs.skills import DiscriminatorRoom, standardised
from mrt.errors import ConfigError
from mrt.runs.recipe import load_recipe

TASKS = {"name": "skill-room", "size": 3, "steps": 6, "skills": 4}


def trainer(folder: Path, **options: object) -> DIAYNTrainer:
    tasks = make_tasks(**TASKS)
    policy = SkillPolicy.for_spec(tasks.env.spec, skills=4, memory="none", hidden_size=8, see=["observation"])
    args = DIAYNConfig(str(folder), max_steps=3, per_device_train_batch_size=16, use_cpu=True, **options)
    return DIAYNTrainer(policy, args, tasks)


def test_a_step_earns_the_log_chance_of_its_skill(tmp_path: Path) -> None:
    """A discriminator that gives skill z all of cell z but 0.1 of it, by hand."""
    one = trainer(tmp_path)
    with torch.no_grad():
        one.policy.discriminator.weight[:, :4] = math.log(27) * torch.eye(4)  # 27 of 30 for the skill of the cell
    trials = one.play(range(16))
    seen = trials.inputs["observation"]
    skill, cell = seen[..., -4:].argmax(-1), seen[..., :9].argmax(-1)
    for row in range(16):
        for t in range(6):
            z, there = int(skill[row, t]), int(cell[row, t + 1])
            chance = 0.25 if there > 3 else (0.9 if there == z else 1 / 30)
            assert float(trials.rewards[row, t]) == pytest.approx(math.log(chance) + math.log(4), abs=1e-5)
    assert not trials.rewards[:, 6].any(), "nothing is paid behind the last step"
    assert len({tuple(row.tolist()) for row in seen[:, 0, -4:]}) > 1
    assert (skill == skill[:, :1]).all(), "one skill an episode"


def test_each_learner_moves_by_its_own_loss(tmp_path: Path) -> None:
    one = trainer(tmp_path)
    batch = one.next_batch(range(16))
    losses = one.losses(batch)
    own = list(one.policy.discriminator.parameters())
    others = [p for name, p in one.policy.named_parameters() if not name.startswith("discriminator")]
    by_policy = torch.autograd.grad(losses["policy"], own, allow_unused=True, retain_graph=True)
    assert by_policy == (None, None), "PPO's loss knows the reward as a number"
    by_discriminator = torch.autograd.grad(losses["discriminator"], others, allow_unused=True)
    assert all(grad is None for grad in by_discriminator)
    learners = one.learners()
    counted = [sum(p.numel() for p in learner.parameters()) for learner in learners.values()]
    assert sum(counted) == sum(p.numel() for p in one.policy.parameters())
    assert float(losses["discriminator"]) == pytest.approx(math.log(4), abs=1e-5), "it knows nothing yet"


def test_training_saves_a_discriminator_that_makes_tasks(tmp_path: Path) -> None:
    one = trainer(tmp_path, report_to=[])
    one.train()
    one.save_model(str(tmp_path / "model"))
    room = make_env("discriminator-room", size=3, learned=str(tmp_path))
    assert isinstance(room, DiscriminatorRoom)
    with torch.no_grad():
        said = one.policy.discriminate(torch.cat([torch.eye(9), torch.zeros(9, 4)], 1)).T
    assert torch.allclose(room.rewards, standardised(said), atol=1e-5)
    recipe = load_recipe("task_distributions/diayn", [f"tasks={TASKS}".replace("'", ""), f"output_dir={tmp_path}"])
    found = skills(tmp_path, recipe, 50, ["pseudo_reward", "accuracy"])
    assert (found["pseudo_reward"].floor, found["accuracy"].floor) == (0.0, 0.25)
    assert -1 < found["pseudo_reward"].mean < math.log(4)
    assert 0 <= found["accuracy"].mean <= 1
    with pytest.raises(ConfigError, match="holds no discriminator of a room of 25 cells"):
        make_env("discriminator-room", size=5, learned=str(tmp_path))
    with pytest.raises(ConfigError, match="train task_distributions/diayn first"):
        make_env("discriminator-room", learned=str(tmp_path / "nothing"))


def test_a_room_pays_the_standardised_reward_of_its_skill() -> None:
    tasks = make_tasks("discriminator-room", size=3, skills=5, episodes=1)
    env = tasks.env
    assert isinstance(env, DiscriminatorRoom)
    assert torch.allclose(env.rewards.mean(1), torch.zeros(5), atol=1e-5)
    assert torch.allclose(env.rewards.std(1, correction=0), torch.ones(5), atol=1e-5)
    env.reset({"skill": torch.tensor([2, 4])})
    step = env.step(torch.tensor([0, 2]))  # from the centre, cell 4: stay; right, cell 7
    assert step.reward.tolist() == [float(env.rewards[2, 4]), float(env.rewards[4, 7])]
    other = make_env("discriminator-room", size=3, skills=5, draw=1)
    assert isinstance(other, DiscriminatorRoom)
    assert not torch.equal(other.rewards, env.rewards)


def test_tasks_without_skills_are_refused(tmp_path: Path) -> None:
    tasks = make_tasks("dark-room")
    args = DIAYNConfig(str(tmp_path), max_steps=1, use_cpu=True)
    policy = SkillPolicy.for_spec(tasks.env.spec, skills=2, memory="none")
    with pytest.raises(ConfigError, match="skill-room"):
        DIAYNTrainer(policy, args, tasks)
    with pytest.raises(ConfigError, match="skills=1"):
        make_env("skill-room", skills=1)
