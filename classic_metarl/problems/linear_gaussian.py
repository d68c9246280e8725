"""A task to be inferred exactly: with linear dynamics and Gaussian noise the Kalman filter is the posterior.

    s_0 ~ N(0, 1)     s_(t+1) = a s_t + b u_t + w        g ~ N(0, 1), the task, the same for the whole trial
    o_t = s_t + v                                        r_t = g - s_(t+1) + e, seen with o_(t+1)

The hidden state (s, g) is linear in itself and in actions, and everything seen is linear in it. The reward is linear
too, so nothing is to be gained by knowing g: this is a problem of inference, not of control.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mrt.control.envs.bandits import normal
from mrt.control.envs.base import Spec, TensorEnv

Move = tuple[dict[str, Tensor], Tensor, Tensor]


class LinearGaussian(TensorEnv):
    """Params {"goal": (B,)}, state {"position": (B,), "shown": (B,)}; one number is seen, one action taken.

    Args:
        decay, push: a and b.
        drift, blur, luck: deviations of w, v and e.
    """

    name = "linear-gaussian"
    task_draws, start_draws, step_draws = 1, 2, 3

    def __init__(
        self,
        steps: int = 10,
        episodes: int = 1,
        *,
        decay: float = 0.9,
        push: float = 0.3,
        drift: float = 0.1,
        blur: float = 0.2,
        luck: float = 0.5,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(Spec(observation=1, episode_steps=steps, episodes=episodes, action_size=1), device)
        self.decay, self.push = decay, push
        self.drift, self.blur, self.luck = drift, blur, luck

    def task_params(self, u: Tensor) -> dict[str, Tensor]:
        return {"goal": normal(u[:, 0])}

    def begin_episode(self, u: Tensor) -> dict[str, Tensor]:
        position = normal(u[:, 0])
        return {"position": position, "shown": position + self.blur * normal(u[:, 1])}

    def move(self, actions: Tensor, u: Tensor) -> Move:
        drift, blur, luck = (normal(u[:, i]) for i in range(3))
        position = self.decay * self.state["position"] + self.push * actions[:, 0].clamp(-1, 1) + self.drift * drift
        reward = self.params["goal"] - position + self.luck * luck
        state = {"position": position, "shown": position + self.blur * blur}
        return state, reward, torch.zeros_like(reward, dtype=torch.bool)

    def observe(self) -> Tensor:
        return self.state["shown"][:, None]


class Filtered(NamedTuple):
    """Of B trials of one episode, T rows each, in float64."""

    mean: Tensor  # (B, T, 2) of (s, g), after what row t shows
    covariance: Tensor  # (T, 2, 2), the same for all
    loglik: Tensor  # (B, T) of what row t shows, after the rows before: o_0, then o_t and r_(t-1)


def kalman(env: LinearGaussian, observation: Tensor, action: Tensor, reward: Tensor) -> Filtered:
    """The exact filter (Kalman 1960), along the rows of trials of one episode.

    Args:
        observation: (B, T, 1). action, reward: (B, T, 1) and (B, T), what came before each row, as a policy sees it.
    """
    o, u, r = observation[..., 0].double(), action[..., 0].double().clamp(-1, 1), reward.double()
    eye, fixed = torch.eye(2, dtype=o.dtype), torch.diag(o.new_tensor([env.decay, 1.0]))
    noise, see = torch.diag(o.new_tensor([env.drift**2, 0.0])), o.new_tensor([[1.0, 0.0], [-1.0, 1.0]])
    spread = torch.diag(o.new_tensor([env.blur**2, env.luck**2]))
    mean, cov = o.new_zeros(len(o), 2), eye
    means, covs, logs = [], [], []
    for t in range(o.shape[1]):
        if t:
            mean = mean @ fixed.T
            mean[:, 0] += env.push * u[:, t]
            cov = fixed @ cov @ fixed.T + noise
        rows = slice(0, 2 if t else 1)  # at first there is no reward
        c = see[rows]
        away = torch.stack([o[:, t], r[:, t]], 1)[:, rows] - mean @ c.T
        innovation = c @ cov @ c.T + spread[rows, rows]
        law = torch.distributions.MultivariateNormal(o.new_zeros(len(c)), innovation)
        gain = cov @ c.T @ torch.linalg.inv(innovation)
        mean, cov = mean + away @ gain.T, (eye - gain @ c) @ cov
        logs.append(law.log_prob(away))
        means.append(mean)
        covs.append(cov)
    return Filtered(torch.stack(means, 1), torch.stack(covs), torch.stack(logs, 1))
