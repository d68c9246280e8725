"""Which engine a TRL trainer samples and probes with, and how it samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mrt.reasoning.engines.base import Engine
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.engines.sampling import Sampling
from mrt.runs.plan import MAX_POSITIONS


def sampling_of(trainer: Any) -> Sampling:
    """Temperature, top-p and top-k of a trainer's arguments."""
    return Sampling(trainer.args.temperature, trainer.args.top_p, trainer.args.top_k or 0)


@contextmanager
def engine_of(trainer: Any) -> Iterator[Engine]:
    """An engine on the trainer's current weights: vLLM's copy, which TRL has just synchronised, or the very weights,
    gathered where they are sharded.
    """
    if trainer.use_vllm:
        from mrt.reasoning.engines.vllm import of_trainer

        vllm = of_trainer(trainer)
        try:
            yield vllm
        except GeneratorExit:  # left early, in order
            vllm.close()
            raise
        vllm.close()
        return
    with own_engine(trainer) as engine:
        yield engine


@contextmanager
def own_engine(trainer: Any) -> Iterator[Engine]:
    """An engine on the weights that are being trained."""
    from trl.models import unwrap_model_for_generation

    with (
        unwrap_model_for_generation(
            trainer.model_wrapped, trainer.accelerator, gather_deepspeed3_params=trainer.args.ds3_gather_for_generation
        ) as model,
        trainer._dist.summon_full_params(trainer.model_wrapped, recurse=False),
        gathered(model),
    ):
        limit = getattr(trainer.args, "max_positions", None) or MAX_POSITIONS
        yield engine_on(model, trainer._tokenizer.pad_token_id, limit)


@contextmanager
def gathered(model: Any) -> Iterator[None]:
    """Under FSDP2 the weights of all layers, gathered once and kept until the end; nothing to do elsewhere.

    Its modules gather their weights in every forward pass, a collective that all processes have to join; but one
    process decodes longer traces or probes more boundaries than another, and the two would wait for ever.
    """
    from torch.distributed.fsdp import FSDPModule

    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if not sharded:
        yield
        return
    if isinstance(model, FSDPModule):
        model._get_fsdp_state()._lazy_init()  # before the first forward pass nobody has said which one is the root
    groups = [group for module in sharded for group in module._get_fsdp_state()._fsdp_param_groups]
    reshard = [group.post_forward_mesh_info for group in groups]
    try:
        for module in sharded:
            module.set_reshard_after_forward(False, recurse=False)
            module.unshard()
        yield
    finally:
        for group, mesh in zip(groups, reshard, strict=True):
            group.post_forward_mesh_info = mesh
        for module in sharded:
            module.reshard()
