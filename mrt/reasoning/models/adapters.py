"""Adapters (LoRA): fresh ones for a trainer, trained ones that learn on, and their merging into the base model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError
from mrt.reasoning.models.loading import adapter_base, check_model, load_model


def adapted(model: str, peft: Mapping[str, Any] | None, args: Any) -> dict[str, Any]:
    """The arguments `model` and `peft_config` of a TRL trainer. A folder that holds an adapter becomes its base model
    with that adapter, which learns on; what is saved is again an adapter of the same base model.

    Args:
        peft: fields of `peft.LoraConfig` for a fresh adapter; None trains every weight, or the adapter that is there.
        args: the trainer's; the base model of an adapter is loaded with their `model_init_kwargs`.

    Raises:
        ConfigError: for `peft` on top of an adapter, and a base model that cannot be loaded.
    """
    base = adapter_base(model)
    if base is None:
        return {"model": model, "peft_config": None if peft is None else _lora(peft)}
    if peft is not None:
        raise ConfigError(
            f"{model} holds an adapter, which learns on as it is: leave `peft` out (peft=null), or merge it first "
            "(mrt merge RUN) for a fresh adapter on top of it"
        )
    from peft import PeftModel
    from trl.trainer.utils import create_model_from_path

    try:
        placed = {"device_map": None} if args.world_size > 1 else {}
        loaded = create_model_from_path(base, **placed, **(args.model_init_kwargs or {}))
        return {"model": PeftModel.from_pretrained(loaded, model, is_trainable=True), "peft_config": None}
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"adapter '{model}' cannot be loaded: {str(error).splitlines()[0]}") from error


def learning_model(path: str, peft: Mapping[str, Any] | None) -> tuple[Any, Any]:
    """(model, tokenizer) that a trainer of ours learns on: every weight, a fresh adapter, or the adapter that is there.

    Args:
        peft: fields of `peft.LoraConfig` for a fresh adapter.

    Raises:
        ConfigError: for `peft` on top of an adapter, and a model that cannot be loaded.
    """
    folder = check_model(path)
    base = adapter_base(folder)
    model, tokenizer = load_model(base or folder, "float32")
    if base is not None:
        if peft is not None:
            raise ConfigError(f"{path} holds an adapter, which learns on as it is: leave `peft` out (peft=null)")
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, folder, is_trainable=True)
    elif peft is not None:
        from peft import get_peft_model

        model = get_peft_model(model, _lora(peft))
    return model.train(), tokenizer


def adapter_fields(model: str) -> dict[str, Any] | None:
    """What decides the size of the adapter in a folder, as fields of `peft.LoraConfig`; None where there is none."""
    if adapter_base(model) is None:
        return None
    stored = json.loads((Path(model) / "adapter_config.json").read_text(encoding="utf-8"))
    return {name: stored[name] for name in ("r", "lora_alpha", "target_modules") if name in stored}


def _lora(fields: Mapping[str, Any]) -> Any:
    from peft import LoraConfig

    return LoraConfig(task_type="CAUSAL_LM", **fields)


def merge_adapter(folder: str | Path, out: str | Path) -> Path:
    """Writes base model and adapter as one model, with the tokenizer, to `out`; what is there is not touched.

    Args:
        folder: as `save_model` wrote it, with adapter_config.json and adapter_model.safetensors.

    Raises:
        ConfigError: for a folder without an adapter, a base model that cannot be loaded, or an `out` that is not empty.
    """
    folder, out = Path(folder), Path(out)
    if adapter_base(str(folder)) is None:
        raise ConfigError(f"{folder} holds no adapter (adapter_config.json): a full model needs no merging")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another folder")
    model, tokenizer = load_model(str(folder))
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out
