"""From a recipe to the parts of an `MRTTrainer`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mrt.errors import DataError
from mrt.reasoning.models.adapters import adapted
from mrt.reasoning.models.loading import check_model, load_tokenizer
from mrt.reasoning.problems import load_problems, to_dataset, validate
from mrt.reasoning.problems.reward import ProblemReward
from mrt.reasoning.traces.prompts import think_format
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.think_reward import ThinkReward
from mrt.runs.recipe import Recipe


def parts_of(recipe: Recipe, output_dir: Path, config: type[MRTConfig] = MRTConfig) -> dict[str, Any]:
    """The arguments of the trainer: model, reward, args, datasets, tokenizer and adapter.

    With an `eval_strategy` the last `eval_problems` of the train split are held out for evaluation during training; the
    test split is not looked at.

    Raises:
        ConfigError: for arguments and models that cannot be.
        DataError: for golds that do not grade as right, and for a train split that evaluation would use up.
    """
    args = recipe.build_args(config, output_dir)
    problems = load_problems(**recipe.problems)
    validate(problems, "train")
    train, held_out = to_dataset(problems, "train"), None
    if args.eval_strategy != "no":
        left = len(train) - args.eval_problems
        if left < 1:
            raise DataError(
                f"eval_problems={args.eval_problems} leaves none of the {len(train)} problems of the train split to "
                "train on: lower it, or set eval_strategy=no"
            )
        train, held_out = train.select(range(left)), train.select(range(left, len(train)))
    model = check_model(recipe.model)
    tokenizer = load_tokenizer(model, padding_side="left")
    fmt = think_format(tokenizer, tags=prepare_thinking(tokenizer, args.thinking, args.think_tags))
    return {
        **adapted(model, recipe.peft, args),
        "reward_funcs": ThinkReward(ProblemReward(problems), fmt),
        "args": args,
        "train_dataset": train,
        "eval_dataset": held_out,
        "processing_class": tokenizer,
    }
