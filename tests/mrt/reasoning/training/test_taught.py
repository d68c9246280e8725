"""Forced answers that are trained on: which tokens, with which weight, and at what cost."""

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.probes.base import Drawn
from mrt.reasoning.probes.forced import Forced, against_the_others
from mrt.reasoning.traces.trial import Trial
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.taught import with_answers
from tests.mrt.reasoning.training.test_trainer import mrt, small_model, weights

pytestmark = pytest.mark.training


def test_an_answer_is_held_against_the_others_at_its_boundary():
    answers = [Forced("", [9, 8, k], (k,)) for k in range(4)]
    drawn = against_the_others(answers, [1.0, 0.0, None, 0.5])
    assert [one.advantage for one in drawn] == pytest.approx([1 - 0.25, 0 - 0.75, 0.5 - 0.5])
    assert [one.start for one in drawn] == [2, 2, 2]
    assert against_the_others(answers[:1], [1.0]) == ()


def batch(**more):
    rows = {
        "prompt_ids": torch.tensor([[1, 2], [1, 3], [4, 5], [4, 6]]),
        "prompt_mask": torch.ones(4, 2, dtype=torch.long),
        "completion_ids": torch.tensor([[7, 8, 9], [7, 8, 0], [7, 0, 0], [7, 8, 9]]),
        "completion_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]]),
        "advantages": torch.tensor([0.1, 0.2, 0.3, 0.4]),
        "num_items_in_batch": torch.tensor(9),
    }
    return rows | more


def test_only_the_answers_own_tokens_carry_weight():
    trials = [Trial([7, 8, 9]) for _ in range(4)]
    trials[2].drawn = [Drawn((7, 20, 21, 30, 31), 3, 0.75), Drawn((7, 20, 21, 32), 3, 0.0)]
    found = with_answers(batch(), trials, 0.5, 2, pad=0)
    assert found["completion_ids"].shape == (6, 5)
    assert found["completion_ids"][4].tolist() == [7, 20, 21, 30, 31]
    assert found["prompt_ids"][4].tolist() == [4, 5]
    assert found["completion_mask"][4].tolist() == [1] * 5
    assert found["tool_mask"][4].tolist() == [0, 0, 0, 1, 1]  # neither the thought nor the forced close
    assert found["advantages"][4].tolist() == [0, 0, 0, 0.75, 0.75]
    assert not found["tool_mask"][5].any()  # one had something to tell; the other makes up the number
    assert found["tool_mask"][:4, :3].all()
    assert torch.equal(found["advantages"][:4, :3], torch.tensor([0.1, 0.2, 0.3, 0.4])[:, None].expand(4, 3))
    with pytest.raises(ConfigError, match="used once"):
        with_answers(batch(old_per_token_logps=torch.zeros(4, 3)), trials, 0.5, 2, pad=0)


def test_it_trains_on_them_and_counts_them(tmp_path):
    """With the outcome credit and rewards that do not vary between traces, only forced answers have a gradient."""

    def reward(completions, completion_ids, **_):  # of the last token that is no end: traces are cut, answers are not
        return [float(len(ids) < 16 and ids[-2 if ids[-1] < 4 else -1] % 2) for ids in completion_ids]

    before, costs = dict(small_model().named_parameters()), {}
    for share in (0.0, 1.0):
        torch.manual_seed(0)
        options = {"credit": "outcome", "probe": "sampled", "train_probes": share, "max_steps": 1, "beta": 0.0}
        trainer = mrt(tmp_path / str(share), reward, **options)
        seen = []
        original = trainer._compute_loss
        trainer._compute_loss = lambda model, inputs, original=original, seen=seen: (
            seen.append(inputs["completion_ids"].shape[0]),
            original(model, inputs),
        )[1]
        trainer.train()
        costs[share] = trainer.cost()
        moved = max(float((value - before[name].detach()).abs().max()) for name, value in weights(trainer).items())
        assert set(seen) == {8 if share == 0 else 16}
        assert (moved > 0) == (share > 0)
    assert costs[1.0]["updated"] > 1.3 * costs[0.0]["updated"]
    assert costs[1.0]["probed"] == costs[0.0]["probed"]


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"train_probes": 1.5}, "between 0 and 1"),
        ({"train_probes": 0.5, "probe": "gold"}, "a probe that gives answers: coupled"),
        ({"train_probes": 0.5, "loss_type": "grpo"}, "loss_type"),
        ({"train_probes": 0.5, "beta": 0.1}, "beta=0"),
        ({"progress_denoise": "smooth"}, "probe='sampled'"),
        ({"progress_denoise": "kalman", "probe": "sampled"}, "unknown"),
        ({"outcome_scale": "group"}, "outcome_scale"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, options, cure):
    with pytest.raises(ConfigError, match=cure):
        MRTConfig(output_dir=str(tmp_path), use_cpu=True, **options)
