"""`recipes/smollm2` from end to end on the pretrained model, an update of each (`make pretrained`)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mrt.cli.main import main
from mrt.reasoning.inference.generate import generate

pytestmark = [pytest.mark.pretrained, pytest.mark.timeout(2400)]

HALF = "args.model_init_kwargs={dtype: bfloat16}"


def test_finetuning_reinforcement_evaluation_and_report(tmp_path: Path) -> None:
    sft, mrt, merged = tmp_path / "sft", tmp_path / "mrt", tmp_path / "merged"
    few = ["args.max_steps=8", "args.warmup_steps=1", "args.logging_steps=1", HALF]
    assert main(["train", "smollm2/sft", *few, f"output_dir={sft}"]) == 0
    logged = [json.loads(line) for line in (sft / "metrics.jsonl").read_text().splitlines()]
    accuracies = [row["mean_token_accuracy"] for row in logged if "mean_token_accuracy" in row]
    assert accuracies[-1] > accuracies[0]
    small = ["args.max_steps=1", "args.per_device_train_batch_size=4", "args.gradient_accumulation_steps=2"]
    small += ["args.generation_batch_size=8", HALF]
    assert main(["train", "smollm2/mrt", *small, f"model={sft / 'model'}", f"output_dir={mrt}"]) == 0
    rows = [json.loads(line) for line in (mrt / "trials.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert main(["merge", str(mrt), "--out", str(merged)]) == 0
    prompt = "Make 9 from 2, 3, 4 with + -."
    adapter, whole = (generate(str(model), prompt, budget=24, seed=1) for model in (mrt / "model", merged))
    assert adapter == whole
    evals = [tmp_path / "eval-sft", tmp_path / "eval-mrt"]
    half = "settings.engine_options={dtype: bfloat16}"
    for model, out in zip((sft / "model", mrt / "model"), evals, strict=True):
        command = ["eval", str(model), half, "--limit", "2", "--n", "1", "--budgets", "0,24", "--probe", "greedy"]
        assert main([*command, "--out", str(out)]) == 0
    page = tmp_path / "report.html"
    assert main(["report", *map(str, evals), "--runs", str(mrt), "--out", str(page)]) == 0
    assert "eval-mrt" in page.read_text()
