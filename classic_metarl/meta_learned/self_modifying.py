"""Self-modifying policies: a policy whose own actions change it, and a stack that takes back what did not pay.

    policy   one chance P_i for each instruction: pull arm k, or modify
    modify   some instruction i, drawn evenly, becomes more likely: P <- (1 - c) P + c e_i
    stack    (t_k, R_k, P before the change) of every modification that still stands
    success-story criterion, before every modification:

        R / t  <  (R - R_1) / (t - t_1)  <  ...  <  (R - R_n) / (t - t_n)                    t, R: now

             as long as it does not hold, the latest entry is popped and the policy before it is restored

Schmidhuber, Zhao & Wiering 1997, "Shifting inductive bias with success-story algorithm, adaptive Levin search, and
incremental self-improvement", Machine Learning 28, section 2; Schmidhuber 1994, "On learning how to learn learning
strategies". A modification survives while the reward a step since it was made is larger than
that since the one before. Each is judged by all that follows, later modifications included, so that what helps to
modify well survives too: "modify" itself is an instruction with a chance of its own.

Without the stack (`stack: false`) the policy is a random walk and earns what chance does (gate SSA).

Deviations: one program cell instead of many, and the argument of a modification is drawn evenly; a modification takes
no time of its own: the pull that a step needs follows it. Every chance stays at least `least`. A full stack forgets
its oldest entry.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from classic_metarl.trainers.lifelong import LifelongTrainer
from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.envs import Spec
from mrt.errors import ConfigError, nearest


class SelfModifyingConfig(PreTrainedConfig):
    """Shapes as in `Spec`.

    Args:
        change: c, how far a modification goes. least: every instruction keeps at least this chance.
        modify: chance to modify that a life begins with; the arms share the rest. depth: entries of the stack.
        stack: false takes nothing back.
    """

    model_type = "mrt-self-modifying"

    def __init__(
        self,
        observation: int = 1,
        actions: int = 2,
        *,
        change: float = 0.5,
        least: float = 0.01,
        modify: float = 0.05,
        depth: int = 64,
        stack: bool = True,
        **kwargs: Any,
    ) -> None:
        self.observation, self.actions, self.change, self.least = observation, actions, change, least
        self.modify, self.depth, self.stack = modify, depth, stack
        super().__init__(**kwargs)


class Story(NamedTuple):
    """Of B lives: `chances` (B, A + 1), the last of which modifies; `time` (B,) steps and `reward` (B,) so far; the
    stack's `times`, `rewards` (B, D) and `before` (B, D, A + 1), of which `height` (B,) entries stand.
    """

    chances: Tensor
    time: Tensor
    reward: Tensor
    times: Tensor
    rewards: Tensor
    before: Tensor
    height: Tensor


class SelfModifying(PreTrainedModel, Agent):
    """The agent. It has nothing to train: all that it learns is in its state."""

    config_class: type[Any] = SelfModifyingConfig
    base_model_prefix = "policy"
    main_input_name = "observation"

    def __init__(self, config: SelfModifyingConfig) -> None:
        super().__init__(config)
        self.shape = Shape(config.observation, config.actions, 0)
        arms = torch.full((config.actions,), (1 - config.modify) / config.actions)
        self.first = nn.Parameter(torch.cat([arms, torch.tensor([config.modify])]), requires_grad=False)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Parts come initialised."""

    @classmethod
    def for_spec(cls, spec: Spec, **options: Any) -> Any:
        """A fresh agent for an environment.

        Raises:
            ConfigError: for continuous actions, unknown options, and values out of range.
        """
        known = {"change", "least", "modify", "depth", "stack"}
        for name in options:
            if name not in known:
                raise ConfigError(f"policy has no option '{name}'; {nearest(name, known)}")
        made = SelfModifyingConfig(spec.observation, spec.actions, **options)
        sound = 0 < made.change < 1 and 0 <= made.least * (spec.actions + 1) < 1 and 0 < made.modify < 1
        if not spec.actions or not sound or made.depth < 1:
            raise ConfigError(
                f"change={made.change} and modify={made.modify} must lie between 0 and 1, least={made.least} below 1 / "
                f"(actions + 1), depth={made.depth} must be at least 1, and actions discrete"
            )
        return cls(made)

    def init_state(self, rows: int) -> Story:
        config, width = self.config, self.config.actions + 1
        zeros = torch.zeros(rows, device=self.device)
        stack = torch.zeros(rows, config.depth, device=self.device)
        return Story(
            chances=self.first.detach().expand(rows, width).clone(),
            time=zeros,
            reward=zeros.clone(),
            times=stack,
            rewards=stack.clone(),
            before=torch.zeros(rows, config.depth, width, device=self.device),
            height=torch.zeros(rows, dtype=torch.long, device=self.device),
        )

    @torch.no_grad()
    def act(self, seen: Seen, state: Story, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        config = self.config
        state = state._replace(reward=state.reward + seen["reward"].to(self.device))
        rows, width = state.chances.shape
        drawn = torch.rand(rows, 3, generator=generator, device=self.device)
        bounds = state.chances.cumsum(1)
        modifies = drawn[:, 0] >= bounds[:, -2]
        if bool(modifies.any()):
            state = success_story(state, modifies) if config.stack else state
            target = (drawn[:, 1] * width).long().clamp(max=width - 1)
            state = modified(state, modifies, target, config)
        pulls = state.chances[:, :-1]
        shares = pulls.cumsum(1) / pulls.sum(1, keepdim=True)
        actions = (drawn[:, 2:] >= shares[:, :-1]).sum(1)
        if greedy:
            actions = pulls.argmax(1)
        chosen = pulls.gather(1, actions[:, None])[:, 0] / pulls.sum(1)
        extras = {"height": state.height.float()}
        return Choice(
            actions, chosen.log(), torch.full_like(chosen, torch.nan), state._replace(time=state.time + 1), extras
        )


def success_story(state: Story, rows: Tensor) -> Story:
    """Pops the stacks of `rows` (B,) bool until the criterion holds, and restores the policies before."""
    slot = torch.arange(state.times.shape[1], device=rows.device)
    stands = slot < state.height[:, None]
    since = (state.reward[:, None] - state.rewards) / (state.time[:, None] - state.times)
    whole = (state.reward / state.time)[:, None]
    # An entry fails where what it brought is no more than what the one below, or the whole life, brought.
    fails = stands & ~(since > torch.cat([whole, since[:, :-1]], 1)) & rows[:, None]
    height = torch.where(fails.any(1), fails.int().argmax(1), state.height)  # it goes, and all above it
    restored = state.before[torch.arange(len(rows), device=rows.device), height.clamp(max=len(slot) - 1)]
    chances = torch.where((height < state.height)[:, None], restored, state.chances)
    return state._replace(chances=chances, height=height)


def modified(state: Story, rows: Tensor, target: Tensor, config: Any) -> Story:
    """The policies of `rows` (B,) bool with instruction `target` (B,) more likely; what they were goes on the stack."""
    full = rows & (state.height >= config.depth)
    times, rewards, before = state.times, state.rewards, state.before
    if bool(full.any()):
        times, rewards = (torch.where(full[:, None], part.roll(-1, 1), part) for part in (times, rewards))
        before = torch.where(full[:, None, None], before.roll(-1, 1), before)
    height = state.height - full.long()
    slot = (torch.arange(config.depth, device=rows.device) == height[:, None]) & rows[:, None]
    times = torch.where(slot, state.time[:, None], times)
    rewards = torch.where(slot, state.reward[:, None], rewards)
    before = torch.where(slot[..., None], state.chances[:, None], before)
    one = torch.nn.functional.one_hot(target, state.chances.shape[1]).to(state.chances)
    moved = ((1 - config.change) * state.chances + config.change * one).clamp(min=config.least)
    moved = moved / moved.sum(1, keepdim=True)
    chances = torch.where(rows[:, None], moved, state.chances)
    return state._replace(chances=chances, times=times, rewards=rewards, before=before, height=height + rows.long())


class SelfModifyingTrainer(LifelongTrainer):
    """Lives on new tasks; nothing is learned across lives."""

    policy_class = SelfModifying
