"""The resolved configuration of a recipe: what it states, and the defaults of everything that it leaves open.

A result belongs to a resolved configuration, so a default that is changed in the code is another configuration. Of
the arguments of transformers' Trainer only those that decide what is learned are resolved (`DECIDES`): the others
come and go with its versions, and would take every result with them. What a recipe states itself counts in any case.
A model that a recipe goes on from is known by its path alone.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import torch

from classic_metarl.problems.families import FAMILIES, problem_family
from classic_metarl.problems.matrix_games import GAMES, Game
from classic_metarl.problems.operations import Operations
from classic_metarl.problems.quadratics import Quadratics
from mrt.control.envs import ENVS, make_tasks
from mrt.credit.table import CREDITS
from mrt.errors import ConfigError
from mrt.runs.code import OUR_PACKAGES
from mrt.runs.recipe import SAID_ABOVE, Recipe, import_trainer, named_only

DECIDES = frozenset(
    (
        "per_device_train_batch_size",
        "num_train_epochs",
        "max_steps",
        "learning_rate",
        "lr_scheduler_type",
        "lr_scheduler_kwargs",
        "warmup_steps",
        "optim",
        "optim_args",
        "optim_target_modules",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "max_grad_norm",
        "gradient_accumulation_steps",
        "label_smoothing_factor",
        "bf16",
        "fp16",
        "data_seed",
        "use_cpu",
    )
)
BOOKKEEPING = frozenset(
    (
        "write_trials",
        "auto_resume",
        "save_total_limit",
        "hub_private_repo",
        "remove_unused_columns",
        "logging_steps",
        "logging_nan_inf_filter",
        "restore_callback_states_from_checkpoint",
    )
)
"""Arguments of our own that decide what is written, never what is learned."""
PEFT_DECIDES = ("r", "lora_alpha", "lora_dropout", "target_modules", "bias", "use_rslora", "init_lora_weights")
OTHER_PROBLEMS: dict[str, Callable[..., Any]] = {
    "quadratics": Quadratics,
    "operations": Operations,
    **dict.fromkeys(GAMES, Game),
}
"""Problems that a trainer builds itself, beside the families that recipes share."""
NO_OPTIONS = ("self", "size", "device", "tokenizer", "trials", "gather")  # arguments that no recipe sets


def resolved(recipe: Recipe) -> dict[str, Any]:
    """Everything that decides a run, JSON-able; paths, words and where code stands are left out.

    Raises:
        ConfigError: for problems or tasks whose defaults are not known here.
    """
    content = recipe.to_dict()
    for key in ("output_dir", "description"):
        content.pop(key)
    trainer = import_trainer(recipe.trainer)
    content["args"] = _arguments(trainer.args_class()) | content["args"]
    content["problems"] = _problems(content["problems"])
    content["tasks"] = _tasks(content["tasks"])
    content["policy"] = _policy(trainer, recipe)
    if credit := content["args"].get("credit"):
        options = {name: content["args"].get(name, value) for name, value in defaults_of(CREDITS[credit][0]).items()}
        content["credit"] = options | (content["args"].get("credit_options") or {})
    if content["peft"] is not None:
        content["peft"] = _peft() | content["peft"]
    return named_only(plain(content))


def defaults_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The arguments of a function or class that have a default, with their defaults."""
    parameters = inspect.signature(function).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.default is not parameter.empty and name not in NO_OPTIONS
    }


def measuring(spec: str) -> Any:
    """The function behind module:function.

    Raises:
        ConfigError: when there is none.
    """
    module, _, attribute = spec.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{spec!r} is no module:function that measures") from error


def plain(content: Any) -> Any:
    """The same as JSON holds it: lists for tuples, and 1 for 1.0, so that a default and a stated value are equal."""
    return _whole(json.loads(json.dumps(content, default=str)))


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_whole(one) for one in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _arguments(args_class: type) -> dict[str, Any]:
    """Defaults of the arguments: all that our classes declare or set anew, and those of `DECIDES`."""
    ours = {
        name
        for cls in args_class.__mro__
        if cls.__module__.split(".")[0] in OUR_PACKAGES
        for name in inspect.get_annotations(cls)
    }
    names = ((ours - BOOKKEEPING) | DECIDES).difference(SAID_ABOVE)
    found = {}
    for field in dataclasses.fields(args_class):
        if field.init and field.name in names:
            make: Any = field.default_factory
            found[field.name] = getattr(args_class, field.name, None) if make is dataclasses.MISSING else make()
    return found


def _problems(problems: Mapping[str, Any]) -> dict[str, Any]:
    name = problems.get("name")
    if name in FAMILIES:
        family = problem_family(**problems)
        return {entry.name: getattr(family, entry.name) for entry in dataclasses.fields(family) if entry.init}
    if name in OTHER_PROBLEMS:
        return defaults_of(OTHER_PROBLEMS[name]) | dict(problems)
    if name is not None:
        raise ConfigError(f"defaults of the problems '{name}' are not known: add them to {__name__}.OTHER_PROBLEMS")
    return dict(problems)


def _tasks(tasks: Mapping[str, Any]) -> dict[str, Any]:
    name = tasks.get("name")
    if name is None:
        return dict(tasks)
    if name not in ENVS:
        raise ConfigError(f"defaults of the environment '{name}' are not known: it is none of mrt.control.envs.ENVS")
    return {"split": None, **defaults_of(ENVS[name]), **tasks}


def _policy(trainer: Any, recipe: Recipe) -> dict[str, Any]:
    """The policy that the trainer builds, option by option, those of its memory included."""
    if recipe.model or not hasattr(trainer, "make_policy"):
        return dict(recipe.policy)
    with torch.random.fork_rng(devices=[]):
        policy = trainer.make_policy(dataclasses.replace(recipe, peft=None), make_tasks(**recipe.tasks))
    config = policy.config
    ours = (cls for cls in type(config).__mro__ if cls.__module__.split(".")[0] in OUR_PACKAGES)
    options = {name: getattr(config, name) for cls in ours for name in defaults_of(cls)}
    if not hasattr(policy, "memory"):
        return options
    memory = defaults_of(type(policy.memory)) | dict(config.memory_options)
    return options | {"memory_options": memory}


def _peft() -> dict[str, Any]:
    from peft import LoraConfig

    fields = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    return {name: fields[name] for name in PEFT_DECIDES}
