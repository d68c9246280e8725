"""Supervised finetuning on worked solutions: every one becomes a thought, the close that probes use, and the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import SFTConfig, SFTTrainer

from mrt.errors import ConfigError, DataError
from mrt.runs.recipe import Recipe
from mrt.training.mixin import TrialArguments, TrialMixin

if TYPE_CHECKING:
    from datasets import Dataset

    from mrt.reasoning.problems import Problem
    from mrt.reasoning.traces.prompts import ThinkFormat

IGNORED = -100  # the label of a token that is not learned


@dataclass
class SolutionsConfig(TrialArguments, SFTConfig):  # type: ignore[misc]  # narrower defaults
    """`trl.SFTConfig`, and the column that holds the worked solutions."""

    thought: str = field(default="thought", metadata={"help": "column of the worked solution (GSM8K: answer)"})
    thinking: str = field(default="auto", metadata={"help": "auto | tags | text: how the model marks its thought"})
    think_tags: list[str] | None = field(default=None, metadata={"help": "your own opening and closing tag"})


class SolutionsTrainer(TrialMixin, SFTTrainer):
    """`trl.SFTTrainer` on prompt, thought, close and answer; only what follows the prompt is learned."""

    @classmethod
    def args_class(cls) -> type:
        return SolutionsConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> SolutionsTrainer:
        """The trainer of a recipe whose problems are `files` with a column of worked solutions.

        Raises:
            ConfigError: for another problem set.
            DataError: for a row without a worked solution, and for golds that do not grade as right.
        """
        from mrt.reasoning.models.loading import check_model, load_tokenizer
        from mrt.reasoning.problems import Files, load_problems, validate
        from mrt.reasoning.traces.prompts import think_format
        from mrt.reasoning.traces.templates import prepare_thinking

        args = recipe.build_args(SolutionsConfig, output_dir)
        problems = load_problems(**recipe.problems)
        if not isinstance(problems, Files):
            raise ConfigError(f"worked solutions come from 'files', not from '{problems.name}'")
        validate(problems, "train")
        model = check_model(recipe.model)
        tokenizer = load_tokenizer(model)
        fmt = think_format(tokenizer, tags=prepare_thinking(tokenizer, args.thinking, args.think_tags))
        peft = None
        if recipe.peft is not None:
            from peft import LoraConfig

            peft = LoraConfig(task_type="CAUSAL_LM", **recipe.peft)
        thoughts = worked_solutions(recipe.problems, args.thought)
        return cls(
            model=model,
            args=args,
            train_dataset=solution_rows(problems.problems("train"), thoughts, fmt),
            processing_class=tokenizer,
            peft_config=peft,
        )


def worked_solutions(options: Mapping[str, Any], column: str) -> dict[str, str]:
    """{row number: worked solution} of the file or hub set that `options` of a `files` problem set name. What follows
    the mark of the answer is left out.

    Raises:
        DataError: naming the first row without one.
    """
    from mrt.reasoning.problems.rows import read_rows

    path, mark, found = str(options["path"]), options.get("answer_after"), {}
    rows = read_rows(path, {column}, options.get("config"), options.get("split"), options.get("revision"))
    for number, row in rows:
        text = row.get(column)
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"{path}, row {number}: no worked solution in column '{column}' (args.thought names it)")
        found[str(number)] = (text.rpartition(mark)[0] or text if mark else text).strip()
    return found


def solution_rows(problems: Sequence[Problem], thoughts: Mapping[str, str], fmt: ThinkFormat) -> Dataset:
    """input_ids and labels of every problem: its prompt as at RL time, the thought, the close of a finished thought,
    the boxed answer, the end of the turn.

    Args:
        thoughts: by the row number in which a problem's `data["where"]` ends.
    """
    from datasets import Dataset

    from mrt.reasoning.traces.prompts import forced_prefix, render
    from mrt.reasoning.traces.templates import encode

    columns: dict[str, list[Any]] = {"input_ids": [], "labels": []}
    for problem in problems:
        head = render(fmt.tokenizer, [{"role": "user", "content": problem.prompt}], tags=fmt.tags)
        thought = encode(fmt.tokenizer, thoughts[str(problem.data["where"]).rpartition(" ")[2]])
        box = encode(fmt.tokenizer, fmt.answer_open_text + problem.solution + fmt.answer_close_text)
        tail = [*thought, *forced_prefix(thought, fmt, complete=True), *box, *fmt.end_ids[:1]]
        columns["input_ids"].append([*head, *tail])
        columns["labels"].append([IGNORED] * len(head) + tail)
    return Dataset.from_dict(columns)
