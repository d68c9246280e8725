"""Trials in text: the model acts, the environment answers, until the trial is over. All rows go side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.attempts.conversation import Talk, open_talk
from mrt.reasoning.attempts.manner import Manner
from mrt.reasoning.attempts.probes import AttemptProbe
from mrt.reasoning.attempts.record import Line, record
from mrt.reasoning.engines.base import Engine
from mrt.tasks import Task
from mrt.text_tasks import TextTasks
from mrt.trials import Stop, Trials

REPLY = 16  # tokens of a reply, about: what memory is reckoned with


class AttemptRollout:
    """Plays trials in text with one engine.

    Args:
        probe: measures the value of stopping at every boundary between attempts; None measures nothing.
        pad_id: what fills short rows.
    """

    def __init__(self, engine: Engine, manner: Manner, probe: AttemptProbe | None = None, pad_id: int = 0) -> None:
        self.engine, self.manner, self.probe, self.pad_id = engine, manner, probe, pad_id

    def __call__(
        self,
        env: TextTasks,
        tasks: Sequence[Task],
        *,
        seed: int,
        group: Tensor | None = None,
        task: Tensor | None = None,
    ) -> Trials:
        """One trial of each of `tasks`, which may repeat.

        Args:
            seed: of the environment's noise; tokens are drawn from torch's generator.
            group: (B,) which rows share a task; every row is its own group when left out.
            task: (B,) the tasks' numbers in the run.

        Returns:
            `Trials` whose episodes are attempts; given text is not in `mask`. `trial_stop` is TERMINATED where the task
            was solved and BUDGET where attempts or context ran out. `privileged` holds what `facts` knows, and `unread`
            (B,), the share of actions that could not be read.
        """
        before = dict(self.engine.positions)
        openings = env.reset(tasks, seed)
        first = [self.manner.form.opening(text) for text in openings]
        talk = open_talk(self.engine, first, max(map(len, first)) + env.turns * (self.manner.limit + REPLY))
        lines = [Line.opened(len(ids)) for ids in talk.ids]
        facts = env.facts()
        going = list(range(len(lines)))
        self._look(env, talk, lines, going)
        while going := self._fitting(talk, lines, going):
            going = self._turn(env, talk, lines, going)
        spent = {name: self.engine.positions[name] - before[name] for name in before}
        facts["unread"] = torch.tensor([line.unread / line.turns for line in lines])
        return record(
            talk.ids,
            lines,
            pad_id=self.pad_id,
            prover="forced" if self.probe is not None else "none",
            spent=spent,
            group=torch.arange(len(lines)) if group is None else group,
            task=task,
            task_keys=tuple(one.key for one in tasks),
            privileged=facts,
        )

    def _turn(self, env: TextTasks, talk: Talk, lines: list[Line], going: Sequence[int]) -> list[int]:
        """One action of every row that goes on, and its reply; the rows that still go on."""
        manner = self.manner
        answers = talk.write(going, manner.limit, manner.stop_ids, sampling=manner.sampling)
        texts = [""] * len(lines)
        for row, answer in zip(going, answers, strict=True):
            texts[row] = manner.form.read(answer.ids[0])
        turn = env.step(texts)
        rewards, ended, over = turn.rewards.tolist(), turn.attempt_over.tolist(), turn.trial_over.tolist()
        solved, unread = turn.solved.tolist(), turn.unread.tolist()
        for row, answer in zip(going, answers, strict=True):
            line = lines[row]
            line.acted(answer.logprobs[0], rewards[row])
            line.unread += unread[row]
            reply = manner.form.reply(turn.texts[row], manner.ended(answer.ids[0]))
            talk.read(row, reply)
            line.told(len(reply))
            if ended[row]:
                line.end_attempt()
            if over[row]:
                line.stop = int(Stop.TERMINATED if solved[row] else Stop.BUDGET)
        self._look(env, talk, lines, [row for row in going if ended[row]])
        talk.release([row for row in going if over[row]])
        return [row for row in going if not over[row]]

    def _fitting(self, talk: Talk, lines: list[Line], going: Sequence[int]) -> list[int]:
        """The rows whose context has room for another action; the trials of the others end."""
        full = {row for row in going if not self.manner.fits(len(talk.ids[row]))}
        for row in full:
            if not lines[row].turns:
                raise ConfigError(
                    f"a context of {self.manner.context} positions has no room for an opening of {len(talk.ids[row])} "
                    f"tokens and an action of {self.manner.limit}: lower action_tokens, or take another model"
                )
            lines[row].cut()
        talk.release(list(full))
        return [row for row in going if row not in full]

    def _look(self, env: TextTasks, talk: Talk, lines: list[Line], rows: Sequence[int]) -> None:
        """J of the boundary that `rows` have reached. Where the task is solved nothing is left to answer: J is what the
        last attempt earned.
        """
        if self.probe is None or not rows:
            return
        asked = []
        for row in rows:
            line = lines[row]
            if line.stop == Stop.TERMINATED:
                line.measured(line.earned[-1], 0.0)
            elif (line.stop == Stop.BUDGET and not self.probe.after_end) or not self.manner.fits(len(talk.ids[row])):
                line.measured(math.nan, math.nan)
            else:
                asked.append(row)
        found = self.probe(env, talk, self.manner, asked) if asked else []
        for row, (value, error) in zip(asked, found, strict=True):
            lines[row].measured(value, error)
