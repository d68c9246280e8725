"""Every command of recipes/README.md, and every recipe for language models, builds its trainer."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.runs.recipe import import_trainer, load_recipe
from tests.support import ROOT
from tests.support.latex_tokenizer import latex_tokenizer, small_llama

pytestmark = pytest.mark.training

README = (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
FENCED = [
    line
    for body in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in body.replace("\\\n", " ").splitlines()
]
INLINE = [f"{one}" for one in re.findall(r"`(mrt train [a-z]+/[a-z_]+[^`]*)`", README)]
LOOP = re.compile(r"for (\w+) in ([^;]+); do (.*); done")


def single(line: str) -> list[str]:
    """The commands of a line: those of a loop each by itself, those that `&&` joins apart."""
    if loop := LOOP.fullmatch(line.strip()):
        name, values, body = loop.groups()
        return [one for value in values.split() for one in single(body.replace(f"${name}", value))]
    return [one for part in line.split("&&") for one in [part.strip()] if "mrt train" in one]


COMMANDS = [one for line in [*FENCED, *INLINE] for one in single(line)]
SMALL = ["args.use_cpu=true", "args.report_to=[]", "args.bf16=false", "args.max_steps=1"]
COUNTDOWN = ["problems.train=40", "problems.warmstart=40", "problems.test=8"]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model whose vocabulary writes LaTeX, and a file of GSM8K's shape."""
    folder = tmp_path_factory.mktemp("math")
    tokenizer = latex_tokenizer()
    small_llama(tokenizer).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [
        {
            "question": f"What is {i} and {i + 1}?",
            "answer": f"It is {i} + {i + 1}.\n#### {2 * i + 1}",
            "thought": f"{i} + {i + 1} = {2 * i + 1}.",
        }
        for i in range(80)
    ]
    (folder / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def built(command: str, here: Path, tiny: Path, out: Path) -> Any:
    """The trainer of a command, with its model, its data and its size replaced by small ones."""
    words = [word for word in shlex.split(command) if not word.startswith("$")]  # options of the machine
    name, *overrides = words[words.index("train") + 1 :]
    recipe = load_recipe(name, overrides)
    own = [f"output_dir={out}"]
    if recipe.problems["name"] == "files":
        own += [f"model={here / 'model'}", f"problems.path={here / 'gsm8k.jsonl'}", "problems.workers=1"]
    else:
        other = here / "model" if name.startswith("smollm2/") else tiny
        own += COUNTDOWN + ([] if recipe.model == "tiny" else [f"model={other}"])
    if recipe.peft:
        own += ["peft.r=2", *(["peft.layers_to_transform=null"] if "layers_to_transform" in recipe.peft else [])]
    recipe = load_recipe(name, [*overrides, *SMALL, *own])
    return import_trainer(recipe.trainer).from_recipe(recipe, out)


def test_the_readme_has_commands_for_both_models() -> None:
    assert len(COMMANDS) >= 7
    assert {"math/sft", "math/mrt", "math/grpo", "math/mrt_online", "countdown/mrt"} <= set(" ".join(COMMANDS).split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_builds(command: str, here: Path, tiny_dir: Path, tmp_path: Path) -> None:
    trainer = built(command, here, tiny_dir, tmp_path)
    assert len(trainer.train_dataset) > 0
    if isinstance(trainer, MRTTrainer) and "math/" in command:
        assert (len(trainer.train_dataset), len(trainer.eval_dataset)) == (16, 64)
        assert trainer.args.max_cost is None  # the tiny study's end is not inherited
        assert int(trainer.max_completion_length or 0) > 2000


def test_finetuning_learns_thought_close_and_answer_behind_the_prompt(
    here: Path, tiny_dir: Path, tmp_path: Path
) -> None:
    trainer = built("mrt train math/sft", here, tiny_dir, tmp_path)
    row, tokenizer = trainer.train_dataset[3], trainer.processing_class
    learned = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    assert learned == row["input_ids"][-len(learned) :]
    text = tokenizer.decode(learned)
    assert re.fullmatch(r"It is 3 \+ 4\.\n</think>\n\n\*\*Final Answer\*\*\n\\boxed\{7\}<\|im_end\|>", text)
    head = tokenizer.decode(row["input_ids"][: -len(learned)])
    assert head.count("<think>") == 1
    assert "What is 3 and 4?" in head
    trainer.train()
    assert trainer.state.global_step == 1


def test_mrt_on_mathematics_runs_an_update(here: Path, tiny_dir: Path, tmp_path: Path) -> None:
    small = {
        "max_completion_length": 80, "thinking_budget": 24, "per_device_train_batch_size": 4, "num_generations": 4,
        "gradient_accumulation_steps": 1, "eval_strategy": "no", "load_best_model_at_end": "false", "probe_samples": 2,
        "segmenter": "blocks", "segmenter_options.size": 8, "save_strategy": "no",
    }  # fmt: skip
    command = "mrt train math/mrt " + " ".join(f"args.{name}={value}" for name, value in small.items())
    trainer = built(command, here, tiny_dir, tmp_path)
    assert isinstance(trainer.args, MRTConfig)
    trainer.train()
    logged = next(row for row in trainer.state.log_history if "cost/total" in row)
    assert logged["cost/probed"] > 0
    assert logged["completions/episodes"] >= 1
