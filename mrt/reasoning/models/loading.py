"""Models and tokenizers, loaded in one way everywhere: a folder, a hub name, a GGUF file, or `smollm2`."""

from __future__ import annotations

import os
from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.models.gguf_files import gguf_file, require_gguf, resolve_model

PRECISIONS = ("float32", "bfloat16")


def load_model(path: str, precision: str | None = None) -> tuple[Any, Any]:
    """(model, tokenizer) by `from_pretrained`, on the device of this process. Remote code is never run.

    Args:
        precision: a name of `PRECISIONS`; None: float32 on the CPU, bfloat16 on an accelerator.

    Raises:
        ConfigError: when the path or name cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    device, folder = local_device(), resolve_model(path)
    tokenizer = load_tokenizer(folder)
    try:
        dtype = getattr(torch, precision or ("float32" if device.type == "cpu" else "bfloat16"))
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model '{path}' cannot be loaded: {str(error).splitlines()[0]}") from error
    return model.eval().to(device), tokenizer


def load_tokenizer(path: str, **options: Any) -> Any:
    """The tokenizer of a model, with options of `from_pretrained`. Raises ConfigError when it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(resolve_model(path), **options)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model '{path}' cannot be loaded: {str(error).splitlines()[0]}") from error


def check_model(path: str) -> str:
    """The folder or hub name that `from_pretrained` takes, GGUF files converted.

    Raises:
        ConfigError: before anything is built, for a model whose configuration cannot be found.
    """
    from transformers import AutoConfig

    folder = resolve_model(path)
    try:
        AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model '{path}' cannot be loaded: no folder of that name holds a config.json, and no hub model of that "
            "name "
            f"can be reached ({str(error).splitlines()[0][:120]})"
        ) from error
    return folder


def load_config(path: str) -> Any:
    """The configuration of a model; of a GGUF file without converting it.

    Raises:
        ConfigError: for a GGUF file that is missing, or without its reader.
        OSError, ValueError: for any other model whose configuration cannot be read.
    """
    from transformers import AutoConfig

    file = gguf_file(path)
    if file is None:
        return AutoConfig.from_pretrained(path)
    require_gguf()
    return AutoConfig.from_pretrained(file.parent, gguf_file=file.name)


def local_device() -> Any:
    """Where this process computes: its own accelerator (LOCAL_RANK, as torchrun sets it), or the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % max(1, torch.cuda.device_count()))


def fill_precision(args: Any) -> None:
    """Trainer arguments that were left open (None): bfloat16 and recomputed activations on an accelerator that can, off
    elsewhere, where they cost time.
    """
    import torch

    accelerated = not args.use_cpu and torch.cuda.is_available()
    if args.bf16 is None:
        args.bf16 = accelerated and not args.fp16 and torch.cuda.is_bf16_supported()
    if args.gradient_checkpointing is None:
        args.gradient_checkpointing = accelerated


def pad_id(tokenizer: Any) -> int:
    """The padding id, or the end of text where a tokenizer has none."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
