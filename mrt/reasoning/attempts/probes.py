"""Stop values between attempts: J_j is what one attempt is expected to earn that is made now, after attempt j.

The same quantity as a forced answer in a trace and an exploitation episode in control: the model must answer now. Given
text and attempts of the trial stay what they are; nothing of a probe comes back into it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from mrt.errors import ConfigError, nearest
from mrt.reasoning.attempts.conversation import Talk
from mrt.reasoning.attempts.manner import Manner
from mrt.text_tasks import TextTasks

PROBES = ("none", "payoff", "played")


class AttemptProbe(Protocol):
    """Measures J of the boundary that `rows` have reached: (value, standard error) each, NaN where it cannot."""

    after_end: bool  # whether J is measured after the last attempt too, which no other follows

    def __call__(
        self, env: TextTasks, talk: Talk, manner: Manner, rows: Sequence[int]
    ) -> list[tuple[float, float]]: ...


class Payoff:
    """J = sum over actions a of p(a | trial so far) times what a would earn: exact, no sampling.

    It needs an environment that knows what actions pay (`payoffs`) and an attempt of one action without a thought. p is
    of the one spelling that the form writes (which is all of it for the tiny model and for constrained choices).
    """

    after_end = True

    def __call__(self, env: TextTasks, talk: Talk, manner: Manner, rows: Sequence[int]) -> list[tuple[float, float]]:
        """Raises ConfigError where the environment knows no payoffs."""
        table = env.payoffs()
        if table is None:
            raise ConfigError(f"{env.name} cannot say what an action pays: set probe=played, or another credit")
        known: dict[str, tuple[int, ...]] = {}
        for row in rows:
            known |= {text: manner.action(text) for text in table[row] if text not in known}
        scores = talk.score(rows, [[known[text] for text in table[row]] for row in rows], sampling=manner.sampling)
        paid = [torch.tensor(list(table[row].values()), dtype=torch.float64) for row in rows]
        return [(float(score.exp() @ worth), 0.0) for score, worth in zip(scores, paid, strict=True)]


class Played:
    """J = mean of what `samples` further attempts earn, each played in a copy; for every environment.

    After the last attempt nothing is measured: no attempt follows it.
    """

    after_end = False

    def __init__(self, samples: int = 4) -> None:
        self.samples = samples

    def __call__(self, env: TextTasks, talk: Talk, manner: Manner, rows: Sequence[int]) -> list[tuple[float, float]]:
        """Plays the attempts side by side."""
        index = [row for row in rows for _ in range(self.samples)]
        branch, fork = env.select(torch.tensor(index)), talk.fork(index)
        earned = [0.0] * len(index)
        left = list(range(len(index)))
        while left:
            answers = fork.write(left, manner.limit, manner.stop_ids, sampling=manner.sampling, purpose="probed")
            texts = [""] * len(index)
            for place, answer in zip(left, answers, strict=True):
                texts[place] = manner.form.read(answer.ids[0])
            turn = branch.step(texts)
            for place, answer in zip(left, answers, strict=True):
                earned[place] += float(turn.rewards[place])
                fork.read(place, manner.form.reply(turn.texts[place], manner.ended(answer.ids[0])))
            over = turn.attempt_over.tolist()
            left = [place for place in left if not over[place] and manner.fits(len(fork.ids[place]))]
        table = torch.tensor(earned, dtype=torch.float64).view(len(rows), self.samples)
        spread = table.std(1) / self.samples**0.5 if self.samples > 1 else torch.full((len(rows),), math.nan)
        return list(zip(table.mean(1).tolist(), spread.tolist(), strict=True))


def make_probe(name: str, samples: int) -> AttemptProbe | None:
    """The probe called `name`; None for "none". Raises ConfigError for an unknown one, and for no samples."""
    if name not in PROBES:
        raise ConfigError(f"probe={name!r} is unknown; {nearest(str(name), PROBES)}")
    if samples < 1:
        raise ConfigError(f"probe_samples={samples} must be at least 1")
    return {"none": None, "payoff": Payoff(), "played": Played(samples)}[name]
