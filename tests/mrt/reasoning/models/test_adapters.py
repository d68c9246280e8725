"""LoRA for every trainer of language models: saved, reloaded, merged, pushed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from mrt.errors import ConfigError
from mrt.reasoning.models.adapters import merge_adapter
from mrt.reasoning.models.tiny import build_tokenizer, save_tiny
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.reasoning.training.warmstart import WarmStartConfig, WarmStartTrainer
from mrt.training import hub

pytestmark = pytest.mark.training

TOKENIZER = build_tokenizer()
COMMON = {"use_cpu": True, "report_to": [], "save_strategy": "no", "max_steps": 2, "learning_rate": 1e-2}
IDS = torch.arange(4, 40)[None]


def varied(completions: Any, completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(set(ids)) / len(ids) for ids in completion_ids]


def build(kind: str, base: str, folder: Path) -> Any:
    adapter = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    if kind == "mrt":
        args = MRTConfig(
            output_dir=str(folder), per_device_train_batch_size=8, num_generations=4, max_completion_length=12,
            top_k=0, credit="progress", probe="sampled", probe_samples=1, segmenter="blocks", **COMMON,
        )  # fmt: skip
        args.segmenter_options = {"size": 4}
        prompts = [[{"role": "user", "content": f"{i} 5->{i + 5}"}] for i in range(8)]
        data = Dataset.from_dict({"prompt": prompts})
        return MRTTrainer(
            model=base, reward_funcs=varied, args=args, train_dataset=data, processing_class=TOKENIZER,
            peft_config=adapter,
        )  # fmt: skip
    args = WarmStartConfig(output_dir=str(folder), per_device_train_batch_size=4, **COMMON)
    data = Dataset.from_list(
        [{"input_ids": list(range(4, 20 + i)), "labels": list(range(4, 20 + i))} for i in range(8)]
    )
    return WarmStartTrainer(
        model=base, args=args, train_dataset=data, processing_class=TOKENIZER, peft_config=adapter
    )  # fmt: skip


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", ["mrt", "warmstart"])
def test_saved_reloaded_merged_and_pushed(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(save_tiny(tmp_path / "base", hidden=32, layers=2, heads=2))
    trainer = build(kind, base, tmp_path / "run")
    trainer.train()
    folder = tmp_path / "run" / "model"
    trainer.save_model(str(folder))
    trained = logits(trainer.model)
    assert not torch.allclose(trained, logits(AutoModelForCausalLM.from_pretrained(base)), atol=1e-3)
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:
        assert all("lora_" in name for name in file.keys())  # noqa: SIM118  (no mapping)
    assert not (folder / "model.safetensors").exists(), "the base model is not saved again"
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(folder)), trained, atol=1e-5)
    merged = merge_adapter(folder, tmp_path / "merged")
    assert not (merged / "adapter_config.json").exists()
    assert torch.allclose(logits(AutoModelForCausalLM.from_pretrained(merged)), trained, atol=1e-4)
    assert (merged / "tokenizer.json").is_file()
    with pytest.raises(ConfigError, match="not empty"):
        merge_adapter(folder, merged)
    with pytest.raises(ConfigError, match="holds no adapter"):
        merge_adapter(merged, tmp_path / "again")

    pushed: list[Any] = []
    monkeypatch.setattr(hub, "push", lambda folder, *rest: pushed.append((hub.files_to_push(folder), *rest)))
    trainer.args.hub_model_id = "me/mine"
    trainer.push_to_hub()
    trainer.args.hub_private_repo = False
    trainer.push_to_hub(token="t")
    (first, name, private, token), second = pushed
    assert "adapter_model.safetensors" in first
    assert not {"model.safetensors", "config.json", "training_args.json", "trials.jsonl"} & set(first)
    assert (name, private, token) == ("me/mine", True, None)
    assert second[1:] == ("me/mine", False, "t")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["r"] == 4
