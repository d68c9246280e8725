"""A two-armed Bernoulli bandit, learnt in a few hundred updates of a second: the toy on which resume is proven.

    python -m tests.support.bandit OUTPUT_DIR [name=value ...]

Trains, going on from the newest whole checkpoint; prints a digest.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mrt.optim.learners import Learner
from mrt.tasks import Task, generator
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.collection import Batch
from mrt.trials import Trials

PULLS, TRIALS = 10, 8


class Bandits:
    """p(M): the chances of two arms, uniform and independent."""

    name = "bandits"

    def sample(self, seed: int, index: int) -> Task:
        chances = torch.rand(2, generator=generator(seed, index))
        return Task(key=f"{seed}:{index}", data={"chances": chances.tolist()})


class Policy(nn.Module):
    """A GRU over (last arm, last reward): RL2 in its smallest form. A critic of its own reads the same history."""

    def __init__(self, hidden: int = 24) -> None:
        super().__init__()
        self.actor, self.head = nn.GRU(3, hidden, batch_first=True), nn.Linear(hidden, 2)
        self.critic, self.value = nn.GRU(3, hidden, batch_first=True), nn.Linear(hidden, 1)

    def forward(self, history: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """history (B, T, 3) -> logits (B, T, 2) and the state."""
        hidden, state = self.actor(history, state)
        return self.head(hidden), state

    def values(self, history: Tensor) -> Tensor:
        return self.value(self.critic(history)[0]).squeeze(-1)


def history_of(actions: Tensor, rewards: Tensor) -> Tensor:
    """(B, T, 3) what was seen before each pull: last arm one-hot and last reward, zeros before the first."""
    seen = torch.cat([nn.functional.one_hot(actions, 2).float(), rewards[..., None]], -1)
    return torch.cat([torch.zeros_like(seen[:, :1]), seen[:, :-1]], 1)


def above_group(trials: Trials) -> Tensor:
    """(B, T) rewards still to come, less their mean over the trials of the same task."""
    to_go = trials.rewards.flip(1).cumsum(1).flip(1).view(-1, TRIALS, PULLS)
    return (to_go - to_go.mean(1, keepdim=True)).view(-1, PULLS)


class BanditTrainer(TrialTrainer):
    """REINFORCE over whole trials, with the rewards that are still to come as credit."""

    def collect(self, tasks: Sequence[Task]) -> Trials:
        chances = torch.tensor([task.data["chances"] for task in tasks]).repeat_interleave(TRIALS, 0)
        rows = len(chances)
        actions, rewards = torch.zeros(rows, PULLS, dtype=torch.long), torch.zeros(rows, PULLS)
        state, seen = None, torch.zeros(rows, 1, 3)
        for t in range(PULLS):
            logits, state = self.model(seen, state)
            actions[:, t] = torch.multinomial(logits[:, 0].softmax(-1), 1)[:, 0]
            rewards[:, t] = (torch.rand(rows) < chances.gather(1, actions[:, t : t + 1])[:, 0]).float()
            seen = torch.cat([nn.functional.one_hot(actions[:, t], 2).float(), rewards[:, t, None]], -1)[:, None]
        return Trials(
            actions=actions,
            rewards=rewards,
            mask=torch.ones(rows, PULLS, dtype=torch.bool),
            episode=torch.arange(PULLS).expand(rows, PULLS),
            group=torch.arange(len(tasks)).repeat_interleave(TRIALS),
            inputs={"history": history_of(actions, rewards)},
            privileged={"oracle": chances.amax(1), "floor": chances.mean(1)},
            cost={"env_steps": torch.full((rows,), PULLS)},
            task_keys=tuple(task.key for task in tasks for _ in range(TRIALS)),
        )

    def logprobs(self, trials: Trials) -> Tensor:
        logits, _ = self.model_wrapped(trials.inputs["history"])
        return logits.log_softmax(-1).gather(-1, trials.actions[..., None]).squeeze(-1)


class TwoLearners(BanditTrainer):
    """The same with a critic as baseline: two learners, the actor due in every second update only."""

    def learners(self) -> dict[str, Learner]:
        actor = [*self.model.actor.parameters(), *self.model.head.parameters()]
        critic = [*self.model.critic.parameters(), *self.model.value.parameters()]
        return {
            "policy": Learner(torch.optim.Adam(actor, lr=0.01)),
            "critic": Learner(torch.optim.SGD(critic, lr=0.05, momentum=0.9), max_grad_norm=0.5),
        }

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        trials = batch.trials
        values = self.model.values(trials.inputs["history"])
        to_go = trials.rewards.flip(1).cumsum(1).flip(1)
        losses = {"critic": (values - to_go).square().mean()}
        if self.state.global_step % 2 == 0:
            losses |= super().losses(Batch(trials, to_go - values))  # the critic stays in the graph: it must not leak
        return losses


def build(output_dir: Path, trainer: type[TrialTrainer] = BanditTrainer, **changed: Any) -> TrialTrainer:
    """A trainer of the toy with small, quick settings."""
    torch.manual_seed(changed.get("seed", 0))
    options: dict[str, Any] = {
        "per_device_train_batch_size": 8,
        "max_steps": 12,
        "save_steps": 3,
        "learning_rate": 0.01,
        "logging_steps": 2,
        "use_cpu": True,
        "disable_tqdm": True,
        "auto_resume": True,
        **changed,
    }
    args = TrialConfig(output_dir=str(output_dir), **options)
    return trainer(Policy(), args, Bandits(), credit=above_group)


def digest(trainer: Any) -> str:
    """sha256 over weights, optimiser state and schedule."""
    parts = (trainer.model, trainer.optimizer, trainer.lr_scheduler)
    return digest_of([part.state_dict() for part in parts if part is not None])


def digest_of(tree: Any) -> str:
    """sha256 over every bit of a tree of tensors and plain values."""
    hashed = hashlib.sha256()
    _feed(hashed, tree)
    return hashed.hexdigest()


def _feed(hashed: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        hashed.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key, inner in value.items():
            hashed.update(repr(key).encode())
            _feed(hashed, inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _feed(hashed, inner)
    else:
        hashed.update(repr(value).encode())


def main(output_dir: str, *options: str) -> None:
    changed = {name: int(value) for name, _, value in (option.partition("=") for option in options)}
    trainer = build(Path(output_dir), **changed)
    print("ready", flush=True)
    trainer.train()
    print("digest", digest(trainer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
