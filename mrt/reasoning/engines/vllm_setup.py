"""Before a vLLM starts: is it installed, can it be probed and watched as it is set, and in which precision."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from mrt.errors import ConfigError
from mrt.version import install_command


def prepare_vllm(args: Any) -> None:
    """Before a TRL trainer starts its vLLM: that there is one, and on a CPU that it can be kept in step.

    The CPU build packs the weights of linear layers at loading and deletes the originals, so that no later transfer
    finds them; and any vLLM turns a float32 model into half precision. TRL has an option for neither. Kept as they are,
    the weights can be synchronised, at some speed.

    Raises:
        ConfigError: where vLLM is not installed, and for settings under which it cannot be probed or watched.
    """
    check_vllm(args)
    require_vllm()
    if not args.use_cpu:
        return
    import trl.generation.vllm_generation as theirs
    from torch.nn.functional import linear
    from vllm import LLM
    from vllm.model_executor.layers import utils

    def plain(layer: Any, remove_weight: bool) -> None:
        layer.cpu_linear = linear

    utils.dispatch_cpu_unquantized_gemm = plain
    dtype = "bfloat16" if args.bf16 else "float32"
    theirs.LLM = partial(LLM, enforce_eager=True, enable_chunked_prefill=False, dtype=dtype)


def check_vllm(args: Any) -> None:
    """Raises ConfigError, before anything is built, where a TRL trainer's vLLM could not answer us."""
    asked = getattr(args, "rollout", "plain") != "plain" or getattr(args, "sync_check_every", 1) > 0
    if args.vllm_mode == "colocate" and args.vllm_enable_sleep_mode and asked:
        raise ConfigError(
            "probes and the sync canary ask vLLM at any time, and vllm_enable_sleep_mode throws its weights away in "
            "between: set vllm_enable_sleep_mode=false (and a lower vllm_gpu_memory_utilization), or vllm_mode=server"
        )
    size = args.vllm_tensor_parallel_size
    if args.vllm_mode == "colocate" and args.world_size % size:
        raise ConfigError(
            f"vllm_tensor_parallel_size={size} must divide the number of processes ({args.world_size}): so many of "
            "them run one vLLM together"
        )


def precision(generation: Any) -> torch.dtype:
    """The dtype that a TRL trainer's vLLM computes in; half precision where a server does not say."""
    return generation.llm.llm_engine.model_config.dtype if generation.mode == "colocate" else torch.bfloat16


def require_vllm() -> None:
    """Raises ConfigError, with the cure, where vLLM cannot be imported."""
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"this needs vLLM, which cannot be imported ({error}): {install_command('vllm')}, or set use_vllm=false "
            "(an evaluation: engine=transformers)"
        ) from error
