"""Whole trials as a record: the memory is kept over the ends of episodes and dies with the trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from mrt.control.agent import NO_EXTRAS, Agent
from mrt.control.envs.base import Spec, TensorEnv
from mrt.control.interaction import Interaction, Moment
from mrt.trials import Stop, Trials


class Probe(Protocol):
    """Looks at the trials at every boundary between episodes; see `mrt.control.probes`."""

    def step(self, moment: Moment) -> None:
        """What every step of the trials brought; comes before the boundary that it reaches."""

    def boundary(self, interaction: Interaction, rows: Tensor) -> None:
        """`rows` (B,) bool are before their first episode, or have just ended one."""

    def result(self) -> dict[str, Tensor]:
        """Fields for `Trials`; `probe_steps` among them is a cost."""


@torch.no_grad()
def rollout(
    env: TensorEnv,
    agent: Agent,
    params: Mapping[str, Tensor],
    *,
    seed: int = 0,
    greedy: bool = False,
    group: Tensor | None = None,
    task: Tensor | None = None,
    keys: Sequence[str] = (),
    probe: Probe | None = None,
    generator: torch.Generator | None = None,
    facts: Sequence[str] = (),
) -> Trials:
    """One trial of each task, to its end.

    Args:
        params: {name: (B, ...)} as from `EnvTasks.batch`.
        seed: of the environment's noise. Actions are drawn from `generator`, or from torch's own.
        greedy: the agent's best actions instead of draws.
        group: (B,) which rows share a task; every row is its own group when it is left out.
        task: (B,) the tasks' numbers in the run; their group when left out.
        probe: measures stop values at the boundaries.
        facts: methods of the environment, asked after every step; (B, ...) each, recorded in `privileged`.

    Returns:
        `Trials` with one row a task: every episode ends with a closing row, `values` and `logprobs` are the agent's,
        its extras stand among `inputs`, `stop` says how episodes ended. The end of a trial is TERMINATED where its last
        episode ended by itself and BUDGET elsewhere: nothing follows it, so that nothing is bootstrapped from it.
    """
    interaction = Interaction(env, agent, params, seed=seed, greedy=greedy, generator=generator)
    rows = len(interaction.over)
    record = Record(rows, env.spec, env.device)
    if probe is not None:
        probe.boundary(interaction, ~interaction.over)
    for moment in interaction:
        record.add(moment, {name: getattr(env, name)() for name in facts})
        if probe is not None:
            probe.step(moment)
            if bool(moment.finished.any()):
                probe.boundary(interaction, moment.finished)
    record.close(interaction.seen, env.episode)
    measured = probe.result() if probe is not None else {}
    group = torch.arange(rows, device=env.device) if group is None else group
    return record.trials(group, task, keys, measured)


class Record:
    """The steps of a batch of trials as they come, from their first step on."""

    def __init__(self, rows: int, spec: Spec, device: torch.device) -> None:
        self.last = spec.episodes - 1
        self.over = torch.zeros(rows, dtype=torch.bool, device=device)  # whose trial has ended
        self.closed = torch.zeros_like(self.over)  # its closing row is recorded as well: nothing is left to say
        self.stop = torch.full((rows, spec.episodes), int(Stop.PADDING), dtype=torch.int8, device=device)
        self.steps: list[dict[str, Tensor]] = []

    def add(self, moment: Moment, facts: Mapping[str, Tensor] = NO_EXTRAS) -> None:
        """One step, and facts of the environment after it."""
        seen, acting, episode, choice, step, finished, _ = moment
        episode = episode.clamp(max=self.last)
        row = {f"inputs/{name}": value for name, value in (*seen.items(), *choice.extras.items())}
        row |= {f"privileged/{name}": value for name, value in facts.items()}
        row |= {"mask": acting, "episode": torch.where(self.closed, -1, episode), "actions": choice.actions}
        rewards = torch.where(acting, step.reward, 0.0)
        self.steps.append(row | {"rewards": rewards, "logprobs": choice.logprobs, "values": choice.values})
        how = torch.where(step.terminated, int(Stop.TERMINATED), int(Stop.TRUNCATED)).to(torch.int8)
        column = episode[:, None]
        self.stop.scatter_(1, column, torch.where(finished[:, None], how[:, None], self.stop.gather(1, column)))
        self.closed = self.over
        self.over = self.over | (step.trial_over & acting)

    def close(self, seen: Mapping[str, Tensor], episode: Tensor) -> None:
        """The closing row of whoever has none yet. Nothing is asked of the agent there."""
        last = self.steps[-1]
        kept = {name: value for name, value in last.items() if name.startswith("inputs/")}  # the agent's extras stay
        row = {**{name: torch.zeros_like(value) for name, value in last.items()}, **kept}
        row |= {f"inputs/{name}": value for name, value in seen.items()}
        row["episode"] = torch.where(self.closed, -1, episode.clamp(max=self.last))
        row["values"] = torch.full_like(last["values"], torch.nan)
        self.steps.append(row)

    def trials(self, group: Tensor, task: Tensor | None, keys: Sequence[str], measured: Mapping[str, Tensor]) -> Trials:
        """What was recorded; `measured` are further fields of `Trials`."""
        stacked: dict[str, Any] = {name: torch.stack([row[name] for row in self.steps], 1) for name in self.steps[0]}
        inputs, facts = (
            {name.removeprefix(kind): stacked.pop(name) for name in list(stacked) if name.startswith(kind)}
            for kind in ("inputs/", "privileged/")
        )
        ended_by_itself = self.stop[:, -1] == int(Stop.TERMINATED)
        trial_stop = torch.where(ended_by_itself, int(Stop.TERMINATED), int(Stop.BUDGET)).to(torch.int8)
        fields: dict[str, Any] = {**measured, "stop": self.stop, "trial_stop": trial_stop, "task": task}
        cost = {"env_steps": stacked["mask"].sum(1)}
        cost |= {"probe_steps": fields.pop("probe_steps")} if "probe_steps" in fields else {}
        made: dict[str, Any] = {"group": group, "task_keys": tuple(keys), "cost": cost}
        return Trials(inputs=inputs, privileged=facts, **made, **stacked, **fields)
