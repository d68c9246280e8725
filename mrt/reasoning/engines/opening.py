"""The engine that an evaluation asks for by name: transformers or vLLM in this process, or a `vllm serve` elsewhere.

Light to import: settings are checked with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mrt.errors import ConfigError
from mrt.reasoning.models.gguf_files import resolve_model
from mrt.reasoning.models.loading import DTYPES, load_model, load_tokenizer, pad_id
from mrt.runs.plan import MAX_POSITIONS

if TYPE_CHECKING:
    from mrt.reasoning.engines.base import Engine

NAMES = ("transformers", "vllm")
ADDRESSES = ("http://", "https://")


_SAID: set[str] = set()  # warnings, once a process


@dataclass(frozen=True)
class Opened:
    """An engine, the tokenizer of its model, and the positions of its longest context (None: not known)."""

    engine: Engine
    tokenizer: Any
    context: int | None


def check_engine(name: str, options: Mapping[str, Any]) -> None:
    """Raises ConfigError for an engine that is none, and for options that an engine does not take."""
    if name not in NAMES and not name.startswith(ADDRESSES):
        raise ConfigError(
            f"engine '{name}' is none: transformers, vllm, or the address of a server (http://localhost:8000)"
        )
    if name == "vllm" or not options:
        return
    if name != "transformers" or set(options) != {"dtype"} or options["dtype"] not in DTYPES:
        raise ConfigError(
            f"engine_options {dict(options)} are not possible here: engine 'transformers' takes dtype "
            f"({', '.join(DTYPES)}), a vLLM in this process the arguments of its LLM, a server none"
        )


def open_engine(
    model: str,
    name: str = "transformers",
    options: Mapping[str, Any] | None = None,
    max_positions: int = MAX_POSITIONS,
) -> Opened:
    """Loads `model` into the engine called `name`, in float32 on the CPU and bfloat16 on an accelerator, or as
    `options` say.

    Args:
        name: `transformers`; `vllm`; or the address of a server that was started with `vllm serve MODEL
            --enable-prompt-tokens-details --logprobs-mode processed_logprobs`, whose precision is its own affair.
        options: arguments of vLLM's `LLM` (max_model_len, gpu_memory_utilization, tensor_parallel_size, ...); for
            transformers `dtype`.
        max_positions: keys and values that are at work at one time, of all rows together (transformers).

    Raises:
        ConfigError: when the model cannot be loaded, vLLM is missing or cannot start, or the server holds another
            model.
    """
    check_engine(name, options or {})
    if name == "vllm":
        return _in_process(model, dict(options or {}))
    if name.startswith(ADDRESSES):
        return _served(model, name)
    loaded, tokenizer = load_model(model, **(options or {}))
    context = getattr(loaded.config, "max_position_embeddings", None)
    return Opened(engine_on(loaded, pad_id(tokenizer), max_positions), tokenizer, context)


def engine_on(model: Any, pad_id: int, max_positions: int = MAX_POSITIONS) -> Engine:
    """The engine in this process that is right for a model: one that shares keys and values, or one that reads every
    branch anew where the past is more than those; then a warning says so.

    Raises:
        ConfigError: for a model that is no causal language model.
    """
    from mrt.reasoning.engines.attention import attention_of, unshareable
    from mrt.reasoning.engines.transformers import TransformersEngine
    from mrt.reasoning.engines.unshared import UnsharedEngine

    if attention_of(model) is not None:
        return TransformersEngine(model, pad_id, max_positions)
    engine = UnsharedEngine(model, pad_id, max_positions)
    why = unshareable(model)
    if why not in _SAID:
        _SAID.add(why)
        logging.getLogger(__name__).warning("%s: every boundary is read anew, which is slow; vLLM is not", why)
    return engine


def _in_process(model: str, options: dict[str, Any]) -> Opened:
    import torch

    from mrt.reasoning.engines.vllm import VLLMEngine
    from mrt.reasoning.engines.vllm_backends import Colocated
    from mrt.reasoning.engines.vllm_setup import require_vllm

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "several processes would load one vLLM each onto the same device: start `vllm serve MODEL` and give all of "
            "them its address as the engine"
        )
    if (Path(model) / "adapter_config.json").is_file():
        raise ConfigError(
            f"{model} holds an adapter, which vLLM does not load by itself: merge it first "
            "(mrt merge RUN), or leave the engine to transformers"
        )
    on_cpu = not torch.cuda.is_available()
    if on_cpu:  # in a process of its own vLLM would draw from a generator that no seed of ours reaches
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    require_vllm()
    from vllm import LLM

    model = resolve_model(model)
    tokenizer = load_tokenizer(model)
    defaults: dict[str, Any] = {"dtype": "float32", "enforce_eager": True} if on_cpu else {"dtype": "bfloat16"}
    try:
        llm = LLM(model=model, logprobs_mode="processed_logprobs", **defaults | options)
    except (ValueError, TypeError, RuntimeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        cure = "settings.engine_options={max_model_len: 4096, gpu_memory_utilization: 0.5} sets what it may take"
        raise ConfigError(f"vLLM cannot start with '{model}': {said}. Look above for its own words; {cure}") from error
    return Opened(VLLMEngine(Colocated(llm)), tokenizer, int(llm.llm_engine.model_config.max_model_len))


def _served(model: str, address: str) -> Opened:
    from mrt.reasoning.engines.vllm import VLLMEngine
    from mrt.reasoning.engines.vllm_backends import Served

    server = Served(address)
    names = {str(server.card.get(key)) for key in ("id", "root") if server.card.get(key)}
    if not names & {model, str(Path(model).resolve())}:
        raise ConfigError(
            f"the server at {address} holds {' = '.join(sorted(names))}, not '{model}'. Start it with that model, or "
            f"say that it is the same with `vllm serve ... --served-model-name {model}`"
        )
    context = server.card.get("max_model_len")
    return Opened(VLLMEngine(server), load_tokenizer(model), int(context) if context else None)
