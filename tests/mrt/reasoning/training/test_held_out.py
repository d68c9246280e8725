"""The held-out prover stays what it was, whatever TRL has done to the model that it is a copy of."""

import torch
from trl.trainer.utils import add_fused_lm_head

from mrt.reasoning.models.tiny import build_model, build_tokenizer
from mrt.reasoning.training.watch import HeldOutProver


def test_a_frozen_copy_does_not_follow_the_trained_weights() -> None:
    model = build_model(build_tokenizer(), hidden=32, layers=1, heads=2)
    add_fused_lm_head(model)
    ids = torch.tensor([[9, 10, 11]])
    with torch.no_grad():
        before = model(ids).logits
        watch = HeldOutProver.of(model, "reference")
        for parameter in model.parameters():
            parameter.mul_(0.5)
        assert watch is not None
        assert torch.equal(watch.frozen(ids).logits, before)  # type: ignore[misc]
        assert not torch.allclose(model(ids).logits, before)
