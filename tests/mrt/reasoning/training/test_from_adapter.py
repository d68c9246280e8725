"""`recipes/smollm2` on a Llama of a few thousand parameters: LoRA, and GRPO and MRT that go on from its adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mrt.cli.main import main
from mrt.errors import ConfigError
from mrt.reasoning.inference.generate import generate
from mrt.reasoning.models.loading import load_config, load_model
from mrt.reasoning.training.plan import facts
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.reasoning.training.warmstart import WarmStartTrainer
from mrt.runs.recipe import load_recipe
from tests.support.latex_tokenizer import latex_tokenizer, small_llama

pytestmark = pytest.mark.training

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LORA = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
SMALL = ["problems.train=20", "problems.warmstart=20", "problems.test=4", "args.use_cpu=true", "peft.r=4"]
RL = [
    "args.max_steps=1", "args.per_device_train_batch_size=8", "args.generation_batch_size=8",
    "args.num_generations=4", "args.max_completion_length=64", "args.thinking_budget=24", "args.learning_rate=1e-2",
    "args.probe_samples=1",
]  # fmt: skip


def options(overrides: list[str], model: Path | str, out: Path) -> list[str]:
    return [*overrides, f"model={model}", f"output_dir={out}", "args.report_to=[]", "args.save_strategy=no"]


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of `smollm2/sft`."""
    folder = tmp_path_factory.mktemp("smollm2")
    tokenizer = latex_tokenizer(CHATML, added=())
    torch.manual_seed(0)
    small_llama(tokenizer).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    few = ["args.max_steps=3", "args.per_device_train_batch_size=4", "args.learning_rate=0.05"]
    assert main(["train", "smollm2/sft", *options([*SMALL, *few], folder / "base", folder / "sft")]) == 0
    return folder / "sft"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(4, 60)[None]).logits


@pytest.mark.parametrize("arm", ["grpo", "mrt"])
def test_reinforcement_goes_on_from_the_adapter(arm: str, finetuned: Path, tmp_path: Path) -> None:
    base = finetuned.parent / "base"
    small = [one for one in SMALL if not one.startswith("peft")]
    recipe = load_recipe(f"smollm2/{arm}", options([*small, *RL], finetuned / "model", tmp_path))
    trainer = MRTTrainer.from_recipe(recipe, tmp_path)
    start = logits(trainer.model)
    assert torch.allclose(start, logits(load_model(str(finetuned / "model"))[0]), atol=1e-5)
    assert not torch.allclose(start, logits(load_model(str(base))[0]), atol=1e-3)
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    found = json.loads((tmp_path / "model" / "adapter_config.json").read_text())
    assert (found["base_model_name_or_path"], found["r"]) == (str(base), 4)
    assert not (tmp_path / "model" / "model.safetensors").exists()
    again = logits(load_model(str(tmp_path / "model"))[0])
    assert torch.allclose(again, logits(trainer.model), atol=1e-4)
    if arm == "mrt":
        assert trainer.held_out is not None
        with torch.no_grad():
            for name, parameter in trainer.model.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.1)
        moved = logits(trainer.model)
        with trainer.held_out._prover(trainer.model) as prover:  # the finetuned model, neither base nor trained
            assert torch.allclose(logits(prover), start, atol=1e-5)
        assert torch.equal(logits(trainer.model), moved)


def test_an_adapter_and_its_merged_model_are_one(finetuned: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    assert main(["merge", str(finetuned), "--out", str(merged)]) == 0
    folders = [str(finetuned / "model"), str(merged)]
    answers = [generate(folder, "Make 9 from 2, 3, 4 with + -.", budget=16, seed=3) for folder in folders]
    assert answers[0] == answers[1]
    results = []
    for number, folder in enumerate(folders):
        out = tmp_path / f"eval{number}"
        sizes = ["operations=+-", "high=15", "target_high=30", "train=0", "warmstart=0", "test=4"]
        short = "settings.answer_tokens=8"
        command = ["eval", folder, "--problems", "countdown", *sizes, "prompt=Make {target} from {numbers}."]
        assert main([*command, "--out", str(out), "--n", "2", "--budgets", "0,12", "--probe", "sampled", short]) == 0
        rows = [json.loads(line) for line in (out / "samples.jsonl").read_text().splitlines()]
        results.append([(row.get("key"), row.get("thought"), row.get("forced")) for row in rows])
    assert results[0] == results[1]
    assert any(thought for _, thought, _ in results[0])


def test_half_precision_by_name(finetuned: Path, tmp_path: Path) -> None:
    assert load_model(str(finetuned / "model"), "bfloat16")[0].dtype == torch.bfloat16
    half = [*SMALL, "args.max_steps=1", "args.model_init_kwargs={dtype: bfloat16}"]
    recipe = load_recipe("smollm2/sft", options(half, finetuned.parent / "base", tmp_path))
    model = WarmStartTrainer.from_recipe(recipe, tmp_path).model
    assert {p.dtype for name, p in model.named_parameters() if "lora" not in name} == {torch.bfloat16}


def test_the_plan_counts_the_adapter_that_is_there(finetuned: Path) -> None:
    found = facts(load_recipe("smollm2/grpo", [f"model={finetuned / 'model'}"]))
    own = sum(p.numel() for p in get_peft_model(load_model(str(finetuned.parent / "base"))[0], LORA).parameters())
    assert found is not None
    assert found.settings.lora
    assert found.shape.parameters == own
    assert 0 < found.shape.trained < own / 10


def test_what_cannot_work_is_told(finetuned: Path, tmp_path: Path) -> None:
    adapter = str(finetuned / "model")
    assert load_config(adapter).model_type == "llama"
    for name in ("smollm2/grpo", "smollm2/sft"):
        recipe = load_recipe(name, options(["peft={r: 2}", "args.use_cpu=true"], adapter, tmp_path))
        with pytest.raises(ConfigError, match="learns on as it is"):
            (MRTTrainer if "grpo" in name else WarmStartTrainer).from_recipe(recipe, tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text('{"base_model_name_or_path": "/nowhere/base"}')
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_model(str(broken))
