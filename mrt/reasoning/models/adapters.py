"""Adapters (LoRA) after training: merged into their base model, as one that loads without peft."""

from __future__ import annotations

import json
from pathlib import Path

from mrt.errors import ConfigError


def merge_adapter(folder: str | Path, out: str | Path) -> Path:
    """Writes base model and adapter as one model, with the tokenizer, to `out`; what is there is not touched.

    Args:
        folder: as `save_model` wrote it, with adapter_config.json and adapter_model.safetensors.

    Raises:
        ConfigError: for a folder without an adapter, a base model that cannot be loaded, or an `out` that is not empty.
    """
    from peft import PeftModel

    from mrt.reasoning.models.loading import load_model

    folder, out = Path(folder), Path(out)
    config = folder / "adapter_config.json"
    if not config.is_file():
        raise ConfigError(f"{folder} holds no adapter (adapter_config.json): a full model needs no merging")
    if out.exists() and any(out.iterdir()):
        raise ConfigError(f"{out} is not empty: choose another folder")
    base = str(json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"])
    model, tokenizer = load_model(base)
    if (folder / "tokenizer_config.json").is_file():
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(folder)
    merged = PeftModel.from_pretrained(model, str(folder)).merge_and_unload()
    merged.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out
