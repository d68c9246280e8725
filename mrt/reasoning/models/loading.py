"""Models and tokenizers, loaded in one way everywhere."""

from __future__ import annotations

from typing import Any

from mrt.errors import ConfigError


def load_model(path: str) -> tuple[Any, Any]:
    """(model, tokenizer) by `from_pretrained`: float32 on the CPU, bfloat16 on an accelerator. Remote code is never
    run.

    Raises:
        ConfigError: when the path or name cannot be loaded.
    """
    import torch
    from transformers import AutoModelForCausalLM

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(path)
    try:
        dtype = torch.bfloat16 if device == "cuda" else torch.float32
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model '{path}' cannot be loaded: {str(error).splitlines()[0]}") from error
    model = model.eval()
    return (model.cuda() if device == "cuda" else model), tokenizer


def load_tokenizer(path: str, **options: Any) -> Any:
    """The tokenizer of a model, with options of `from_pretrained`. Raises ConfigError when it cannot be loaded."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(path, **options)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model '{path}' cannot be loaded: {str(error).splitlines()[0]}") from error


def check_model(path: str) -> None:
    """Raises ConfigError, before anything is built, for a model whose configuration cannot be found."""
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model '{path}' cannot be loaded: no folder of that name holds a config.json, and no hub model of that "
            "name "
            f"can be reached ({str(error).splitlines()[0][:120]})"
        ) from error


def pad_id(tokenizer: Any) -> int:
    """The padding id, or the end of text where a tokenizer has none."""
    return int(tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id)
