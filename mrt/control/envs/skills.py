"""Rooms without a task of their own: skills to tell apart, and rewards that a discriminator makes up."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from mrt.control.envs.grids import Room, pick, room_spec
from mrt.errors import ConfigError
from mrt.tasks import generator


class SkillRoom(Room):
    """A room that pays nothing. The task is one of `skills` numbers, which the observation shows behind the cell, both
    one-hot (DIAYN, Eysenbach 2018, arXiv 1802.06070). One episode, from the centre.
    """

    name = "skill-room"

    def __init__(self, size: int = 5, steps: int = 40, skills: int = 8, device: str | torch.device = "cpu") -> None:
        if skills < 2:
            raise ConfigError(f"skills={skills} must be at least 2")
        super().__init__(room_spec(size, "one_hot", steps, 1, skills), size, "one_hot", "centre", device)
        self.skills, self.task_choices = skills, (skills,)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"skill": pick(u[:, 0], self.skills)}

    def observe(self) -> Tensor:
        skill = torch.nn.functional.one_hot(self.params["skill"], self.skills).float()
        return torch.cat([super().observe(), skill], 1)

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        cell = self.walk(actions)
        return {"cell": cell}, torch.zeros(len(cell), device=self.device), torch.zeros_like(cell, dtype=torch.bool)


class DiscriminatorRoom(Room):
    """A room that pays log D(z|s) for a step to the cell s, brought to mean 0 and deviation 1 over the cells: the tasks
    of unsupervised meta-RL (Gupta 2018, arXiv 1806.04640). The task is z, one of K, which is not shown.

    Without the common scale the rewards of a goal, zero nearly everywhere, would look like the best of all.

    Args:
        skills: K of a random discriminator; of a learned one it is what that one tells apart.
        sharpness: standard deviation of a random discriminator's logits, normal and independent.
        draw: which random discriminator.
        learned: a run of DIAYN in a room of this size, whose discriminator is taken instead of a random one.

    Raises:
        ConfigError: for a run that holds no discriminator of such a room.
    """

    name = "discriminator-room"

    def __init__(
        self,
        size: int = 5,
        steps: int = 15,
        episodes: int = 4,
        *,
        skills: int = 32,
        sharpness: float = 3.0,
        draw: int = 0,
        learned: str = "",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(room_spec(size, "one_hot", steps, episodes), size, "one_hot", "centre", device)
        if learned:
            logits = _learned(Path(learned), self.cells)
        else:
            logits = sharpness * torch.randn(skills, self.cells, generator=generator(draw, skills, self.cells))
        self.rewards = standardised(logits.log_softmax(0)).to(self.device)
        self.task_choices = (len(logits),)

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"skill": pick(u[:, 0], len(self.rewards))}

    def move(self, actions: Tensor, u: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        cell = self.walk(actions)
        return {"cell": cell}, self.rewards[self.params["skill"], cell], torch.zeros_like(cell, dtype=torch.bool)


def standardised(rewards: Tensor) -> Tensor:
    """Rewards (..., cells) with mean 0 and deviation 1 over the cells."""
    return (rewards - rewards.mean(-1, keepdim=True)) / rewards.std(-1, keepdim=True, correction=0).clamp(min=1e-6)


def _learned(run: Path, cells: int) -> Tensor:
    """(K, cells) logits of the discriminator of a run."""
    from safetensors.torch import load_file

    path = run / "model" / "model.safetensors"
    if not path.is_file():
        raise ConfigError(f"{run} holds no trained model: train task_distributions/diayn first (tasks.learned=RUN)")
    weights = load_file(path)
    if "discriminator.weight" not in weights or weights["discriminator.weight"].shape[1] != cells:
        raise ConfigError(f"{run} holds no discriminator of a room of {cells} cells")
    return weights["discriminator.weight"] + weights["discriminator.bias"][:, None]
