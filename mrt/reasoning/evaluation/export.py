"""Problem sets as tasks of EleutherAI's lm-evaluation-harness, so that its number can be set beside ours.

A task folder holds the problems (one JSON object a line) and a YAML that the harness reads. An answer counts by exact
match of the last box behind the first close tag with any of the accepted answers, so only sets whose answers can be
listed, or whose golds are compared as text, come out the same as here: Countdown does, mathematics is graded by text
there and by value here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mrt.errors import DataError
from mrt.reasoning.problems import load_problems

# Boxes behind a close tag, of which the last counts: an unclosed thought has no answer.
BOXED = r"(?s)</think>(?:(?!</think>).)*\\boxed\{((?:[^{}]|\{[^{}]*\})*)\}"


def write_lm_eval(
    out: Path,
    problems: str,
    dials: Mapping[str, Any],
    split: str = "test",
    limit: int | None = None,
    *,
    name: str | None = None,
    max_tokens: int = 2048,
) -> dict[str, Any]:
    """Writes NAME.yaml and NAME.jsonl to `out`; the YAML names the data file by its path.

    Returns:
        {"exported": problems, "task", "command"}.

    Raises:
        DataError: for a split without problems.
    """
    problem_set = load_problems(problems, **dials)
    chosen = problem_set.problems(split)[:limit]
    if not chosen:
        raise DataError(f"problem set '{problems}' has no problem in split '{split}'")
    task = name or out.name
    out.mkdir(parents=True, exist_ok=True)
    data = out / f"{task}.jsonl"
    rows = [
        {"key": one.key, "prompt": one.prompt, "answers": problem_set.solutions(one) or [one.solution]}
        for one in chosen
    ]
    data.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    described = {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "answers",
        "generation_kwargs": {"until": [], "do_sample": False, "max_gen_toks": max_tokens},
        "filter_list": [
            {
                "name": "boxed",
                "filter": [
                    {"function": "regex", "regex_pattern": BOXED, "group_select": -1},
                    {"function": "take_first"},
                ],
            }
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "num_fewshot": 0,
        "metadata": {"version": 1},
    }
    (out / f"{task}.yaml").write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True), encoding="utf-8")
    command = (
        f"lm_eval --model hf --model_args pretrained=MODEL --include_path {out} --tasks {task} --apply_chat_template"
    )
    return {"exported": len(chosen), "task": task, "command": command}
