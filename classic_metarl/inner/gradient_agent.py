"""A gradient-based meta-learner as an agent: it plays, keeps what it played, and takes its gradient step in between.

Every row is a task with weights phi of its own. After `episodes` episodes of a row the system's own step is taken on
them, phi_(j+1) = phi_j + alpha_j grad U(phi_j; D_j), and the row goes on with phi_(j+1). Rows are apart: their episodes
may differ in length, and each adapts when its own are complete.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from classic_metarl.inner.gradient_steps import Tree
from classic_metarl.inner.meta_policy import MetaPolicy
from classic_metarl.inner.stage_credit import with_credit
from classic_metarl.inner.task_policy import TaskAgent
from mrt.adaptation import Cadence
from mrt.control.agent import Agent, Choice, Seen, Shape
from mrt.control.envs.base import Spec
from mrt.credit.table import Credit
from mrt.trials import Trials

State = dict[str, Any]
KEPT = ("observation", "action", "reward", "logprob", "acting")


class GradientAgent(Agent):
    """A trained `MetaPolicy` in environments.

    Its state: `phi` {name: (B, ...)}; `drawn`, what a row drew for its episode; the episodes since the last step as
    `kept` {name: (B, E, S, ...)}, E = `episodes`, S the steps of the longest one; `count` (B,) episodes kept, `clock`
    (B,) steps of the present one, `last` (B,) whether the last step counted, `number` (B,) gradient steps taken.

    Args:
        spec: of the environment.
        episodes: of each row before its next gradient step, as in training.
        credit, gamma, normalise: of a step, as in training.
    """

    cadence: Cadence = "episode"

    def __init__(
        self, learner: MetaPolicy, spec: Spec, *, episodes: int, credit: Credit, gamma: float, normalise: bool
    ) -> None:
        self.learner, self.spec, self.shape = learner, spec, Shape.of(spec)
        self.episodes, self.credit, self.gamma, self.normalise = episodes, credit, gamma, normalise

    @property
    def device(self) -> torch.device:
        """Where the learner is."""
        return next(self.learner.parameters()).device

    def state_dict(self) -> dict[str, Tensor]:
        """The learner's."""
        return self.learner.state_dict()

    def init_state(self, rows: int) -> State:
        net, device = self.learner.net, self.device
        phi = {name: value.detach().expand(rows, *value.shape).clone() for name, value in self.learner.start().items()}
        size, spec = (rows, self.episodes, self.spec.episode_steps), self.spec
        action = torch.zeros(size, dtype=torch.long, device=device)
        kept = {
            "observation": torch.zeros(*size, spec.observation, device=device),
            "action": action if spec.actions else torch.zeros(*size, spec.action_size, device=device),
            "reward": torch.zeros(size, device=device),
            "logprob": torch.zeros(size, device=device),
            "acting": torch.zeros(size, dtype=torch.bool, device=device),
        }
        drawn = net.draw(phi, rows)
        kept |= {f"drawn/{name}": value.new_zeros(*size, *value.shape[1:]) for name, value in drawn.items()}
        zeros = torch.zeros(rows, dtype=torch.long, device=device)
        counters = {"count": zeros, "clock": zeros.clone(), "number": zeros.clone(), "last": zeros.bool()}
        return {"phi": phi, "drawn": drawn, "kept": kept, **counters}

    @torch.no_grad()
    def act(self, seen: Seen, state: State, greedy: bool = False, generator: torch.Generator | None = None) -> Choice:
        """One step by each row's own weights. Rows at the end of an episode act to no purpose, and keep nothing."""
        seen = {name: value.to(self.device) for name, value in seen.items()}
        state = self._rewarded(seen, state)
        choice = self.choose(seen, state, greedy, generator)
        acting = (seen["done"] < 0.5) & (state["clock"] < self.spec.episode_steps)
        rows = torch.nonzero(acting)[:, 0]
        place = (rows, state["count"][rows], state["clock"][rows])
        now = {"observation": seen["observation"], "action": choice.actions, "logprob": choice.logprobs}
        now |= {"acting": acting} | {f"drawn/{name}": value for name, value in state["drawn"].items()}
        for name, value in now.items():
            state["kept"][name][place] = value[rows]
        state = {**state, "clock": state["clock"] + acting, "last": acting}
        return choice._replace(state=state)

    def choose(self, seen: Seen, state: State, greedy: bool, generator: torch.Generator | None) -> Choice:
        """One step of all rows. Here each by its own weights, whatever it has seen."""
        return TaskAgent(self.learner.net, state["phi"]).act(seen, state["drawn"], greedy, generator)

    @torch.no_grad()
    def adapt(self, seen: Seen, state: State, ended: Tensor) -> State:
        """After the rows `ended` finished an episode: a gradient step for those that have enough of them."""
        state = self._rewarded({name: value.to(self.device) for name, value in seen.items()}, state)
        ended = ended.to(self.device)
        count = state["count"] + ended
        due = ended & (count == self.episodes)
        phi, number = dict(state["phi"]), state["number"]
        for step in number[due].unique().tolist():  # rows that are as far as each other adapt together
            rows = torch.nonzero(due & (number == step))[:, 0]
            before = {name: value[rows] for name, value in phi.items()}
            after = self.learner.adapt(before, step, self._batch(state["kept"], rows), order="first")
            phi = {name: value.index_copy(0, rows, after[name].detach()) for name, value in phi.items()}
        acting = torch.where(due[:, None, None], False, state["kept"]["acting"])
        again = self.learner.net.draw(phi, len(ended))
        drawn = {name: _where(ended, again[name], value) for name, value in state["drawn"].items()}
        return {
            "phi": phi,
            "drawn": drawn,
            "kept": {**state["kept"], "acting": acting},
            "count": torch.where(due, 0, count),
            "clock": torch.where(ended, 0, state["clock"]),
            "number": number + due,
            "last": state["last"],
        }

    def _rewarded(self, seen: Seen, state: State) -> State:
        """The state with the reward of the last step; what it brought is written once."""
        rows = torch.nonzero(state["last"])[:, 0]
        place = (rows, state["count"][rows], state["clock"][rows] - 1)
        state["kept"]["reward"][place] = seen["reward"][rows]
        return {**state, "last": torch.zeros_like(state["last"])}

    def _batch(self, kept: Tree, rows: Tensor) -> Any:
        """The episodes of these rows as one stage of the record, with their credit."""
        flat = {name: value[rows].flatten(0, 1) for name, value in kept.items()}
        acting = flat["acting"]
        inputs = {"observation": flat["observation"]}
        inputs |= {n.removeprefix("drawn/"): value for n, value in flat.items() if n.startswith("drawn/")}
        trials = Trials(
            actions=flat["action"],
            rewards=torch.where(acting, flat["reward"], 0.0),
            mask=acting,
            episode=torch.where(acting, 0, -1),
            group=torch.arange(len(rows), device=rows.device).repeat_interleave(self.episodes),
            inputs=inputs,
            logprobs=flat["logprob"],
        )
        return with_credit(trials, self.credit, self.gamma, self.normalise)


def _where(rows: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    return torch.where(rows.view(-1, *[1] * (no.ndim - 1)), yes, no)
