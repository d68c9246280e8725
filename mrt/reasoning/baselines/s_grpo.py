"""S-GRPO: a serial group, one trace and its early exits; the later a right exit, the less it is paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from mrt.errors import ConfigError
from mrt.reasoning.baselines.shaping import RIGHT, Columns, ShapingTrainer, grouped
from mrt.reasoning.engines.base import Branch, Engine
from mrt.reasoning.probes.answers import AnswerRequest, forced_answers
from mrt.reasoning.traces.prompts import ThinkFormat, forced_prefix
from mrt.reasoning.traces.sample_row import SampleRow
from mrt.reasoning.traces.trial import Segment, Trial
from mrt.reasoning.training.mixed import PrefixPool
from mrt.reasoning.training.samplers import Sampler, SampleRequest


class SGRPOTrainer(ShapingTrainer):
    """S-GRPO (Dai et al. 2025, 2505.07686). Rows i = 1..G of a group stand in the order of their exits; r_i =
    2^-(N_i - 1) where row i is right, N_i the number of right ones up to and with it, else 0.

    Thought and answer of every row are trained, the forced close never; `scale_rewards` says what the group's
    deviations are divided by. Here the whole trace is the group's last row.

    Raises:
        ConfigError: for a mixed rollout.
    """

    def make_sampler(self, fmt: ThinkFormat, segment: Segment, pool: PrefixPool) -> Sampler:
        if self.args.rollout != "probed":
            raise ConfigError(f"S-GRPO makes groups of its own: rollout='probed', not {self.args.rollout!r}")
        return Serial(fmt, segment, super().make_sampler(fmt, segment, pool))

    def shape(self, rewards: Tensor, trials: Sequence[Trial], columns: Columns) -> Tensor:
        return decayed(rewards, self.group_size)


@dataclass(frozen=True)
class Serial:
    """Groups of exits at random places of one thought, drawn evenly, the earliest first, and the whole trace."""

    fmt: ThinkFormat
    segment: Segment
    whole: Sampler

    def sample(self, engine: Engine, request: SampleRequest) -> list[Trial]:
        if not request.training:
            return self.whole.sample(engine, request)
        size = request.group
        prompts = request.prompts[::size]
        alone = replace(request, prompts=prompts, rows=request.rows[::size], group=1)
        traces = self.whole.sample(engine, alone)
        cuts = [_places(len(one.thought), size - 1) for one in traces]
        exits = self._exits(engine, traces, cuts, alone)
        # An empty thought has no exit but its end: the row stands for all.
        groups = [[*early, *[one] * (size - len(early))] for one, early in zip(traces, exits, strict=True)]
        return [trial for group in groups for trial in group]

    def _exits(
        self, engine: Engine, traces: Sequence[Trial], cuts: Sequence[Sequence[int]], request: SampleRequest
    ) -> list[list[Trial]]:
        """The rows that leave each trace at its cuts."""
        prompts = request.prompts
        kept = [one.kept for one in traces]
        thoughts = [one.completion[: one.start + len(one.thought)] for one in traces]
        starts = [[*prompt, *thought] for prompt, thought in zip(prompts, thoughts, strict=True)]
        prefix = engine.restore(kept) if all(kept) else engine.prefill(starts)
        branches, owners = [], []
        for place, (prompt, one) in enumerate(zip(prompts, traces, strict=True)):
            for cut in cuts[place]:
                suffix = tuple(forced_prefix(one.thought[:cut], self.fmt))
                branches.append(Branch(place, len(prompt) + one.start + cut, suffix))
                owners.append((place, one.start + cut))
        exits: list[list[Trial]] = [[] for _ in traces]
        if not branches:  # every thought is empty
            return exits
        longest = max(end + len(branch.suffix) for (_, end), branch in zip(owners, branches, strict=True))
        room = max(1, min(self.fmt.max_answer_tokens, request.limit - longest - 1))
        asked = AnswerRequest(1, room, request.sampling, "sampled")
        answers = forced_answers(engine, prefix, branches, self.fmt, asked)
        for (place, end), branch, answer in zip(owners, branches, answers, strict=True):
            one = traces[place]
            row = SampleRow(prompts[place])
            row.draw(one.completion[:end], (one.logprobs or [0.0] * end)[:end])
            row.give(branch.suffix)
            row.draw(answer.ids[0], answer.logprobs[0])
            row.end_turn(self.fmt)
            trial = row.trial(self.fmt, self.segment)
            trial.forced = True
            exits[place].append(trial)
        return exits


def _places(length: int, count: int) -> list[int]:
    """`count` numbers of tokens at which a thought of this length is left, increasing; none for an empty one."""
    return [int(one) for one in torch.randint(1, length + 1, (count,)).sort().values] if length else []


def decayed(rewards: Tensor, size: int) -> Tensor:
    """(B,) 2^-(N - 1) for the N-th right row of each group of `size`, 0 for a wrong one, NaN for an unscorable one."""
    reward = grouped(rewards, size)
    right = (reward > RIGHT).float()
    paid = right * 0.5 ** (right.cumsum(1) - 1)
    return torch.where(reward.isnan(), reward, paid).reshape(-1)
