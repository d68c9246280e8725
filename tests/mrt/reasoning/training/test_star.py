"""MRT-STaR: which traces are kept, and that the gradient is that of their likelihood."""

import math

import pytest
import torch

from mrt.errors import ConfigError
from mrt.reasoning.training.star import STaRConfig, STaRTrainer, chosen
from tests.mrt.reasoning.training.test_trainer import COMMON, TOKENIZER, problems, small_model

pytestmark = pytest.mark.training


def test_of_the_right_traces_those_of_most_progress_are_kept():
    may = torch.tensor([True, True, False, True] + [False] * 4)
    scores = torch.tensor([0.2, 0.6, 0.9, 0.6, 1.0, 1.0, 1.0, 1.0])
    lengths = torch.tensor([1.0, 9.0, 1.0, 8.0, 1.0, 1.0, 1.0, 1.0])
    one = chosen(may, scores, lengths, (4, 1)).nonzero()[:, 0].tolist()
    assert one == [3]  # 0.9 is wrong; of the two with 0.6 the shorter
    assert chosen(may, scores, lengths, (4, 2)).nonzero()[:, 0].tolist() == [1, 3]
    assert chosen(may, scores, lengths, (4, 0)).nonzero()[:, 0].tolist() == [0, 1, 3]


def even(completion_ids, **_):
    return [float(len(set(ids)) % 2) for ids in completion_ids]


def star(tmp_path, **changed):
    args = {**COMMON, "segmenter": "blocks", "segmenter_options": {"size": 4}, "max_steps": 1, **changed}
    return STaRTrainer(
        model=small_model(),
        reward_funcs=even,
        args=STaRConfig(output_dir=str(tmp_path), **args),
        train_dataset=problems(),
        processing_class=TOKENIZER,
    )


def test_the_loss_is_the_mean_log_likelihood_of_the_kept_traces(tmp_path):
    trainer = star(tmp_path, probe="gold", star_keep=2, star_threshold=-1.0, loss_type="dapo")
    seen = []
    inner = trainer._generate_and_score_completions

    def look(inputs):
        seen.append(inner(inputs))
        return seen[-1]

    trainer._generate_and_score_completions = look
    torch.manual_seed(0)
    trainer.train()
    batch = seen[0]
    kept = batch["completion_mask"].sum(1) > 0
    assert 0 < int(kept.sum()) <= 4  # two of each group at most
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], 1)[kept]
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], 1)[kept]
    model, width = small_model(), batch["completion_ids"].shape[1]
    logits = model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
    said = logits.log_softmax(-1).gather(2, batch["completion_ids"][kept][..., None])[..., 0]
    learned = batch["completion_mask"][kept].bool()
    loss = -said[learned].mean()
    loss.backward()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters()))
    assert logged[0]["grad_norm"] == pytest.approx(norm, rel=1e-3)
    positions = int(mask.sum())
    assert trainer.cost()["updated"] == positions  # traces that are not kept are not updated
    assert logged[0]["star/kept"] == pytest.approx(float(kept.float().mean()))


def test_what_cannot_be(tmp_path):
    for wrong in (
        {"star_score": "length"},
        {"star_keep": -1},
        {"credit": "progress"},
        {"probe": "none"},
        {"train_probes": 0.5},
    ):
        with pytest.raises(ConfigError):
            STaRConfig(output_dir=str(tmp_path), use_cpu=True, **wrong)
    assert STaRConfig(output_dir=str(tmp_path), use_cpu=True, star_score="outcome", probe="none").star_keep == 1
