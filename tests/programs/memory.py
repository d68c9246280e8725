"""Peak memory of real training beside its plan, as JSON.

    python -m tests.programs.memory HIDDEN LAYERS HEADS ROWS LENGTH [lora]

Two updates of MRT with sampled probes; the peak is the process's own (VmHWM), read from the kernel.
"""

from __future__ import annotations

import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from datasets import Dataset

from mrt.reasoning.models.tiny import build_tokenizer, save_tiny
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.plan import shape_of
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.runs.plan import PROGRAM, Settings, plan


def peak() -> int:
    """Bytes of the largest resident set so far."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def spread(completions: Any, completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [len(set(ids)) / len(ids) for ids in completion_ids]


def main(hidden: str, layers: str, heads: str, rows: str, length: str, *flags: str) -> None:
    folder = Path(tempfile.mkdtemp())
    save_tiny(folder / "model", hidden=int(hidden), layers=int(layers), heads=int(heads))
    before = peak()
    adapter, peft = None, None
    if "lora" in flags:
        from peft import LoraConfig

        peft = {"r": 8, "target_modules": ["q_proj", "v_proj"]}
        adapter = LoraConfig(task_type="CAUSAL_LM", **peft)
    args = MRTConfig(
        output_dir=str(folder / "run"),
        per_device_train_batch_size=int(rows),
        num_generations=4,
        max_completion_length=int(length),
        max_steps=2,
        use_cpu=True,
        save_strategy="no",
        probe="sampled",
        probe_samples=1,
        segmenter="blocks",
        top_k=0,
        held_out_prover="none",
        write_trials=False,
    )
    args.segmenter_options = {"size": int(length) // 2}
    prompts = [[{"role": "user", "content": f"{i} 5->{i + 5}"}] for i in range(32)]
    trainer = MRTTrainer(
        model=str(folder / "model"),
        reward_funcs=spread,
        args=args,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=build_tokenizer(),
        peft_config=adapter,
    )
    endless = replace(trainer.rollout.fmt, end_ids=())  # every trace has its full length
    trainer.rollout.fmt, trainer.rollout.sampler = endless, replace(trainer.rollout.sampler, fmt=endless)  # type: ignore[type-var]
    shape = shape_of(trainer.model.config, peft)
    trainer.train()
    settings = Settings(int(rows), 8 + int(length), int(rows), probed=True, lora=adapter is not None)
    planned = plan(shape, settings)
    found = {"parameters": shape.parameters, "before": before, "measured": peak(), "planned": planned.peak}
    run = {"run_measured": peak() - before, "run_planned": planned.peak - PROGRAM, "parts": planned.parts}
    print(json.dumps(found | run))


if __name__ == "__main__":
    main(*sys.argv[1:])
