"""LOLA-DiCE: each of two players learns through the other's next learning steps, and reciprocity appears.

    theta_2^(k+1) = theta_2^k + alpha grad_2 V_2(theta_1, theta_2^k)       k < K, what the other is about to learn
    theta_1 <- theta_1 + beta grad_1 V_1(theta_1, theta_2^K(theta_1))      through those steps; so does the other

Foerster et al. 2018, 1709.04326 (LOLA) and 1802.05098, section 5 (LOLA-DiCE). Of V only samples are known: the inner
gradient is itself an expectation under theta_1, so its estimator has to be right in its derivative, which is what DiCE
is for (`estimators.py`). K = 0 is naive learning, in the iterated prisoner's dilemma mutual defection (-2 a step);
with lookahead the players find tit for tat (about -1).

    V = d' (I - gamma P)^-1 r      d, P: first outcome and outcome to outcome, by both policies; r: payoffs of outcomes

is the exact value (`exact_values`), against which the estimator is tested and the result is measured;
`estimator: exact` learns from it.

A trial is one play of the game, both players in one row: `actions` (B, T, 2), 0 cooperate and 1 defect; `rewards` are
the mean of the two payoffs; the payoffs themselves are `privileged`. The state is what both did last.

Deviations: the baseline is fitted to each batch (`linear_baseline.py`) instead of learned by Adam, and enters as in
Loaded DiCE (1909.10549). As in the authors' code, the outer step is Adam's; both players move at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from classic_metarl.inner.estimators import dice, loaded_dice
from classic_metarl.inner.linear_baseline import linear_values
from classic_metarl.problems.matrix_games import STATES, Game, chances, exact_values
from mrt.credit.returns import reward_to_go
from mrt.errors import ConfigError
from mrt.optim.learners import Learner
from mrt.runs.recipe import Recipe
from mrt.tasks import Task
from mrt.trainer import TrialConfig, TrialTrainer
from mrt.training.collection import Batch
from mrt.trials import Stop, Trials

PLAYERS = ("one", "two")


class Players(nn.Module):
    """Two policies: logits to cooperate (5,) in the first step and after CC, CD, DC, DD, one's own action first."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Parameter(torch.randn(STATES)), nn.Parameter(torch.randn(STATES))


def logprobs(first: Tensor, second: Tensor, trials: Trials) -> Tensor:
    """(B, T) log-probabilities of what both players did, with gradients to both."""
    table = chances(first, second).log()
    outcome = 2 * trials.actions[..., 0] + trials.actions[..., 1]
    return table.flatten()[4 * trials.inputs["state"] + outcome]


@torch.no_grad()
def play(first: Tensor, second: Tensor, payoffs: Tensor, rows: int, steps: int) -> Trials:
    """`rows` plays of `steps` steps each, drawn from torch's own generator."""
    draws = torch.rand(steps, rows, device=first.device)
    bounds = chances(first, second).cumsum(1)[:, :3]
    state = torch.zeros(rows, dtype=torch.long, device=first.device)
    states = []
    for t in range(steps):
        states.append(state)
        state = 1 + (draws[t, :, None] >= bounds[state]).sum(1)
    seen, outcome = torch.stack(states, 1), torch.stack([*states[1:], state], 1) - 1
    paid = payoffs.to(first)[outcome]
    return Trials(
        actions=torch.stack([outcome // 2, outcome % 2], -1),
        rewards=paid.mean(-1),
        mask=torch.ones_like(seen, dtype=torch.bool),
        episode=torch.zeros_like(seen),
        group=torch.zeros_like(state),
        inputs={"state": seen},
        stop=torch.full((rows, 1), int(Stop.TRUNCATED), dtype=torch.int8, device=first.device),
        privileged={"payoffs": paid},
    )


def surrogate(first: Tensor, second: Tensor, trials: Trials, player: int, *, gamma: float, baseline: bool) -> Tensor:
    """A number whose derivatives of any order estimate those of `player`'s value, for the policies that played.

    With a baseline its value says nothing, without one it is the mean discounted payoff of the plays.
    """
    mine = replace(trials, rewards=trials.privileged["payoffs"][..., player])
    spoken = logprobs(first, second, trials)
    if not baseline:
        return dice(spoken, mine, gamma).mean()
    earned = reward_to_go(mine, gamma=gamma)
    expected = linear_values(F.one_hot(trials.inputs["state"], STATES).to(earned), earned, mine)
    discount = gamma ** torch.arange(earned.shape[1], dtype=earned.dtype, device=earned.device)
    return loaded_dice(spoken, discount * (earned - expected), mine).mean()


@dataclass
class LOLAConfig(TrialConfig):
    """Arguments of `LOLATrainer`. `per_device_train_batch_size` counts plays, `learning_rate` is beta (Adam)."""

    steps: int = field(default=150, metadata={"help": "steps of a play"})
    gamma: float = field(default=0.96, metadata={"help": "discount a step"})
    inner_rate: float = field(default=0.3, metadata={"help": "alpha, the step size that the other is thought to use"})
    lookahead: int = field(default=1, metadata={"help": "K, steps of the other that are looked through; 0: naive"})
    estimator: Literal["dice", "exact"] = field(default="dice", metadata={"help": "samples, or the exact value"})
    baseline: bool = field(default=True, metadata={"help": "subtract fitted values (loaded DiCE)"})
    write_trials: bool = field(default=False, metadata={"help": "write every play to trials.jsonl"})

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lookahead < 0 or not 0 <= self.gamma < 1:
            raise ConfigError(
                f"steps={self.steps}, lookahead={self.lookahead}, gamma={self.gamma}: at least one step, no negative "
                "lookahead, and a discount from 0 to below 1"
            )
        super().__post_init__()


class LOLATrainer(TrialTrainer):
    """Two learners that look ahead of each other. One update moves both."""

    args: LOLAConfig
    model: Players
    tasks: Game

    @classmethod
    def args_class(cls) -> type:
        return LOLAConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> LOLATrainer:
        """The trainer of a recipe; `problems` names the game: {name: prisoners-dilemma}."""
        args = recipe.build_args(LOLAConfig, output_dir)
        if recipe.model or recipe.peft is not None or set(recipe.problems) != {"name"}:
            raise ConfigError(f"{recipe.trainer} needs problems: {{name: ...}}, a game, and neither model nor peft")
        torch.manual_seed(args.seed)
        return cls(Players(), args, Game(**recipe.problems))

    def learners(self) -> dict[str, Learner]:
        rate = self.args.learning_rate
        return {name: Learner(torch.optim.Adam([getattr(self.model, name)], lr=rate)) for name in PLAYERS}

    def collect(self, tasks: Sequence[Task]) -> Trials:
        """One play of each task by the present policies; the plays of the lookahead are counted as well."""
        rows, steps = len(tasks), self.args.steps
        trials = self._play(self.model.one, self.model.two, rows)
        for player, name in enumerate(PLAYERS):
            self.log_metric(f"payoff/{name}", float(trials.privileged["payoffs"][..., player].mean()))
        values = (1 - self.args.gamma) * self._exact(self.model.one, self.model.two)
        self.log_metric("value/joint", float(values.mean()))
        pays = self.tasks.payoffs.mean(1).to(values)
        bounds = {"oracle": pays.max() * steps, "floor": pays.mean() * steps}  # best outcome, even actions
        plays = 1 + (2 * self.args.lookahead if self.args.estimator == "dice" else 0)
        return replace(
            trials,
            privileged={**trials.privileged, **{name: value.expand(rows) for name, value in bounds.items()}},
            cost={"env_steps": torch.full_like(trials.group, plays * steps)},
            task_keys=tuple(task.key for task in tasks),
        )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Minus each player's value at the policy that the other is led to. The trials serve the first inner step."""
        return {name: -self._ahead(player, batch.trials) for player, name in enumerate(PLAYERS)}

    def _ahead(self, player: int, trials: Trials) -> Tensor:
        other = 1 - player
        pair: list[Tensor] = [self.model.one, self.model.two]
        pair[other] = pair[other].detach().requires_grad_()  # the other's own learner is moved by its own loss alone
        for _ in range(self.args.lookahead):
            value = self._value(pair, trials, other)
            slope = torch.autograd.grad(value, pair[other], create_graph=True)[0]
            pair[other] = pair[other] + self.args.inner_rate * slope
            if self.args.estimator == "dice":
                trials = self._play(pair[0], pair[1], len(trials))
        return self._value(pair, trials, player)

    def _value(self, pair: Sequence[Tensor], trials: Trials, player: int) -> Tensor:
        if self.args.estimator == "exact":
            return self._exact(*pair)[player]
        return surrogate(pair[0], pair[1], trials, player, gamma=self.args.gamma, baseline=self.args.baseline)

    def _play(self, first: Tensor, second: Tensor, rows: int) -> Trials:
        return play(first, second, self.tasks.payoffs, rows, self.args.steps)

    def _exact(self, first: Tensor, second: Tensor) -> Tensor:
        return exact_values(first, second, self.tasks.payoffs, self.args.gamma)
