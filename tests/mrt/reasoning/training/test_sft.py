"""Supervised finetuning on worked solutions: what a row becomes, and any model that a recipe can name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrt.errors import ConfigError, DataError
from mrt.reasoning.models import loading
from mrt.reasoning.training.sft import IGNORED, SolutionsTrainer, worked_solutions
from mrt.runs.recipe import Recipe
from tests.support.latex_tokenizer import latex_tokenizer, small_llama

pytestmark = pytest.mark.training

ROWS = [{"question": f"{n} + 1 ?", "thought": f"{n} + 1 = {n + 1}.", "answer": str(n + 1)} for n in range(1, 9)]
TRAINER = "mrt.reasoning.training.sft:SolutionsTrainer"


def recipe(folder: Path, model: str, **problems: object) -> Recipe:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    columns = {"prompt": "question", "solution": "answer"}
    return Recipe(
        trainer=TRAINER,
        model=model,
        problems={
            "name": "files",
            "path": str(path),
            "columns": columns,
            "prompt": "{problem}",
            "test": 0.0,
            **problems,
        },
        args={"max_steps": 1, "per_device_train_batch_size": 2, "bf16": False, "use_cpu": True, "save_strategy": "no"},
    )


def test_a_model_by_its_short_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`smollm2` and GGUF files are resolved to a folder; the trainer was given the name itself, once."""
    tokenizer, folder = latex_tokenizer(), tmp_path / "model"
    small_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    monkeypatch.setattr(loading, "resolve_model", lambda name: str(folder) if name == "short" else name)
    trainer = SolutionsTrainer.from_recipe(recipe(tmp_path, "short"), tmp_path / "run")
    assert trainer.model.config._name_or_path == str(folder)
    row = trainer.train_dataset[0]
    learned = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    text = trainer.processing_class.decode(learned)
    assert text.index(ROWS[0]["thought"]) < text.index("</think>") < text.index(r"\boxed{2}")
    assert trainer.processing_class.decode(row["input_ids"]).index("1 + 1 ?") >= 0
    assert trainer.train().global_step == 1


def test_what_cannot_be_learned_from_is_named(tmp_path: Path) -> None:
    options = recipe(tmp_path, "short").problems
    with pytest.raises(DataError, match=r"row 1: no worked solution in column 'proof' \(args.thought names it\)"):
        worked_solutions(options, "proof")
    assert worked_solutions(options, "thought")["3"] == "3 + 1 = 4."
    countdown = Recipe(trainer=TRAINER, model="short", problems={"name": "countdown"})
    with pytest.raises(ConfigError, match="worked solutions come from 'files', not from 'countdown'"):
        SolutionsTrainer.from_recipe(countdown, tmp_path)
