"""MAML on a language model: the LoRA weights are what adapts, any Hugging Face model is the learner.

    phi_i = psi - alpha grad_psi L_i(base, psi; D_i)        psi <- psi - beta grad_psi sum_i L_i(base, phi_i; D'_i)

psi are the adapters (Hu et al. 2021, 2106.09685: W + (scale) B A), the base model stays as it is; the inner loop is
MAML's (Finn et al. 2017, 1703.03400), second or first order, with one step size a tensor and step that is learned too
where `learn_rates` says so (Meta-SGD, 1707.09835). The adapters of all tasks are one batch: `vmap` over a functional
call of the model.

Only psi and the step sizes are saved. Attention is the eager one: fused kernels have no second derivative.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from classic_metarl.inner.gradient_steps import GradientSteps, Order, Theta, Tree, rates_like
from classic_metarl.problems.operations import Operations
from classic_metarl.trainers.few_shot import FewShotConfig, FewShotLearner, FewShotTrainer, Set, score_curve
from mrt.errors import ConfigError, nearest
from mrt.runs.recipe import Recipe
from mrt.runs.rundir import trained_weights

PEFT = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"}


@dataclass
class LoRAMAMLConfig(FewShotConfig):
    """Arguments of `LoRAMAMLTrainer`; `hidden` and `activation` have no meaning here."""

    inner_steps: int = field(default=3, metadata={"help": "gradient steps on each support set"})
    inner_rate: float = field(default=0.05, metadata={"help": "alpha, the inner step size; its start where learned"})
    order: Order = field(default="second", metadata={"help": "first: inner gradients are constants (FOMAML)"})
    learn_rates: bool = field(default=True, metadata={"help": "learn a step size for every tensor and inner step"})
    over: Any = field(default="vmap", metadata={"help": "how tasks are batched: vmap, or loop"})
    curve_steps: int = field(default=3, metadata={"help": "gradient steps up to which evaluation follows a task"})

    def __post_init__(self) -> None:
        if self.over not in ("vmap", "loop"):
            raise ConfigError(f"over={self.over!r}: a language model's tasks go by vmap, or one by one (loop)")
        super().__post_init__()


class LoRALearner(FewShotLearner):
    """psi over a frozen language model.

    Args:
        lm: a peft model whose trainable parameters are psi; it is no part of what is saved.
    """

    def __init__(self, lm: nn.Module, family: Operations, args: LoRAMAMLConfig) -> None:
        super().__init__()
        self._outside = [lm.eval()]  # in a list: neither saved nor counted among the learner's parameters
        self.family = family  # type: ignore[assignment]
        start = {name: p.detach().clone() for name, p in lm.named_parameters() if p.requires_grad}
        if not start:
            raise ConfigError("the model has no trainable adapters: give the recipe `peft` (r, target_modules)")
        self.adapters = _dictionary(start)
        learned = args.inner_steps if args.learn_rates else 0
        rates = [rates_like(start, args.inner_rate, "tensor") for _ in range(learned)]
        self.rates = nn.ModuleList(_dictionary(tree) for tree in rates)
        for parameter in lm.parameters():
            parameter.requires_grad_(False)

        def loss(phi: Tree, data: Set) -> Tensor:
            return family.losses(self.logits(phi, data[0]), data[1]).mean(-1)

        self.steps = GradientSteps(loss, rate=args.inner_rate, steps=args.inner_steps, order=args.order, over=args.over)

    @property
    def lm(self) -> nn.Module:
        """The language model under the adapters."""
        return self._outside[0]

    @property
    def theta(self) -> Theta:
        """psi, and the step sizes where they are learned."""
        return Theta(_tree(self.adapters), [_tree(tree) for tree in self.rates])

    def logits(self, phi: Tree, x: Tensor) -> Tensor:
        """(n, L, V) of ids x (n, L) with the adapters of one task."""
        return functional_call(self.lm, phi, (), {"input_ids": x, "use_cache": False}).logits

    def predict(self, phi: Tree, x: Tensor) -> Tensor:
        """(M, q, L, V) logits of ids x (M, q, L) with adapters (M, ...), or with those that all tasks still share."""
        shared = all(value.ndim == self.theta.parameters[name].ndim for name, value in phi.items())
        if self.steps.over == "loop":
            each = [phi if shared else {name: value[i] for name, value in phi.items()} for i in range(len(x))]
            return torch.stack([self.logits(one, ids) for one, ids in zip(each, x, strict=True)])
        return torch.vmap(self.logits, in_dims=(None if shared else 0, 0))(phi, x)

    def forward(self, stages: Sequence[Set], query: Set) -> Tensor:
        phi = self.steps.trajectory(self.theta, stages)[-1]
        return self.family.losses(self.predict(phi, query[0]), query[1])

    def curve(self, stages: Sequence[Set], query: Set, steps: int | None = None) -> Tensor:
        return score_curve(self, stages, query, steps)  # type: ignore[arg-type]

    def save_adapter(self, folder: str | Path) -> None:
        """psi as peft saves an adapter, to be loaded, adapted or merged like any other."""
        with torch.no_grad():
            for name, value in self.theta.parameters.items():
                self.lm.get_parameter(name).copy_(value)
        self.lm.save_pretrained(str(folder))  # type: ignore[operator]


class LoRAMAMLTrainer(FewShotTrainer):
    """MAML whose adapted set are the LoRA weights of the recipe's `model`."""

    model: LoRALearner

    @classmethod
    def args_class(cls) -> type:
        return LoRAMAMLConfig

    @classmethod
    def build(cls, family: Any, args: Any) -> LoRALearner:
        raise ConfigError("a language model is named by the recipe: use from_recipe")

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> LoRAMAMLTrainer:
        """The trainer of a recipe: `model` and `peft` make the learner, `problems` is {name: operations, ...}."""
        args = recipe.build_args(cls.args_class(), output_dir)
        learner = learner_of(recipe, args)
        trainer = cls(learner, args, learner.family, credit=lambda trials: trials.mask.float())
        learner.lm.to(trainer.args.device)
        return trainer


def learner_of(recipe: Recipe, args: LoRAMAMLConfig) -> LoRALearner:
    """A fresh learner: the recipe's model with new adapters, drawn from its seed.

    Raises:
        ConfigError: for a model that cannot be loaded, or problems that are no `operations`.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options = dict(recipe.problems)
    valid = set(inspect.signature(Operations).parameters) - {"tokenizer", "name"}
    if options.pop("name", None) != "operations":
        raise ConfigError(f"{recipe.trainer} adapts to problems: {{name: operations, ...}}")
    for option in options:
        if option not in valid:
            raise ConfigError(f"problems 'operations' has no option '{option}'; {nearest(option, valid)}")
    if not recipe.model:
        raise ConfigError(f"{recipe.trainer} needs a model (a path, or a name of the hub)")
    try:
        tokenizer = AutoTokenizer.from_pretrained(recipe.model)
        lm = AutoModelForCausalLM.from_pretrained(recipe.model, attn_implementation="eager", dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"model '{recipe.model}' cannot be loaded: {error}") from error
    torch.manual_seed(recipe.seed)
    adapted = get_peft_model(lm, LoraConfig(task_type="CAUSAL_LM", **{**PEFT, **(recipe.peft or {})}))
    return LoRALearner(adapted, Operations(tokenizer, **options), args)


def load_learner(run: Path, recipe: Recipe, **changed: Any) -> LoRALearner:
    """The trained learner of a run directory; `changed` options of its problems (split: test).

    Raises:
        ConfigError: where no trained model lies there.
    """
    from safetensors.torch import load_model

    path = trained_weights(run)
    made = replace(recipe, problems={**recipe.problems, **changed})
    learner = learner_of(made, recipe.build_args(LoRAMAMLConfig, run))
    load_model(learner, path)
    return learner.eval()


def _dictionary(tree: Tree) -> nn.ParameterDict:
    return nn.ParameterDict({name.replace(".", "/"): nn.Parameter(value) for name, value in tree.items()})


def _tree(parameters: Any) -> Tree:
    return {name.replace("/", "."): value for name, value in parameters.items()}
