"""The warm start: supervised finetuning on search traces, so that the model has attempts to improve before any reward
is given.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trl import SFTConfig, SFTTrainer

from mrt.errors import ConfigError
from mrt.reasoning.models.loading import check_model, fill_precision, load_tokenizer
from mrt.runs.recipe import Recipe
from mrt.training.mixin import TrialArguments, TrialMixin

TINY = "tiny"
BUCKET = 50  # batches whose traces are sorted by length together: cuts padding by about 40 %


@dataclass
class WarmStartConfig(TrialArguments, SFTConfig):
    """`trl.SFTConfig` and the shape of the search traces. Every step sees new traces; `max_steps` says how many there
    are.
    """

    attempts_low: int = field(default=0, metadata={"help": "fewest attempts that a trace may be limited to"})
    attempts_high: int = field(default=6, metadata={"help": "most attempts that a trace may be limited to"})

    give_up: float = field(default=0.0, metadata={"help": "chance to give up before each attempt; 0: even limits"})

    patient: float = field(default=0.0, metadata={"help": "share of the traces that never give up before the end"})

    adjust: float = field(default=0.0, metadata={"help": "share of attempts that keep the first step of the last one"})

    recheck: float = field(default=0.0, metadata={"help": "share of attempts that only repeat the last one"})

    writing: str = field(
        default="auto", metadata={"help": "signs (for the tiny model) | words | auto: words where there are some"}
    )
    thinking: str = field(default="auto", metadata={"help": "auto | tags | text: how the model marks its thought"})
    think_tags: list[str] | None = field(default=None, metadata={"help": "your own opening and closing tag"})
    overwrite: float = field(default=0.0, metadata={"help": "share of best values carried along that are lost"})

    backtrack: str = field(
        default="none", metadata={"help": "none | shared (MRT) | random (RISE) | rejection (STaR): backtracking traces"}
    )

    tiny_hidden: int = field(default=128, metadata={"help": "model=tiny: width"})

    tiny_layers: int = field(default=3, metadata={"help": "model=tiny: layers"})

    tiny_heads: int = field(default=4, metadata={"help": "model=tiny: heads of attention"})

    bf16: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "bfloat16 mixed precision; None: on a GPU that can"}
    )
    gradient_checkpointing: bool | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "recompute activations; None: on a GPU"}
    )

    def __post_init__(self) -> None:
        fill_precision(self)
        if not 0 <= self.attempts_low <= self.attempts_high:
            raise ConfigError(f"attempts_low={self.attempts_low} and attempts_high={self.attempts_high} are no range")
        if self.max_steps < 1:
            raise ConfigError("the warm start makes its traces for a number of steps: set max_steps to at least 1")
        # Batches are put together by length beforehand; a sampler would tear them apart.
        self.train_sampling_strategy = "sequential"
        super().__post_init__()


class WarmStartTrainer(TrialMixin, SFTTrainer):
    """`trl.SFTTrainer` with our checkpoints, resume and logs.

    The cross-entropy is summed over the tokens to learn and divided by `tokens_an_update`, their mean number: every
    token weighs the same. A mean over each batch would weigh a token of a short trace many times one of a long trace,
    since batches hold one length.
    """

    tokens_an_update: float | None = None

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        tokens = num_items_in_batch if self.tokens_an_update is None else self.tokens_an_update
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch=tokens)

    @classmethod
    def args_class(cls) -> type:
        return WarmStartConfig

    @classmethod
    def from_recipe(cls, recipe: Recipe, output_dir: Path) -> WarmStartTrainer:
        """The trainer of a recipe; `model: tiny` builds the small model that needs no download. An adapter learns on.

        Raises:
            ConfigError: for arguments and models that cannot be, and a tokenizer that cannot write the traces.
        """
        from mrt.reasoning.models.adapters import adapted
        from mrt.reasoning.models.tiny import save_tiny
        from mrt.reasoning.problems import load_problems, validate
        from mrt.reasoning.traces.prompts import think_format
        from mrt.reasoning.traces.templates import prepare_thinking
        from mrt.reasoning.training.search_traces import Habits
        from mrt.reasoning.training.trace_rows import IGNORED, trace_dataset

        args = recipe.build_args(WarmStartConfig, output_dir)
        problems = load_problems(**recipe.problems)
        validate(problems, "warmstart")
        tiny = recipe.model == TINY
        shape = {"hidden": args.tiny_hidden, "layers": args.tiny_layers, "heads": args.tiny_heads}
        model = str(save_tiny(output_dir / TINY, recipe.seed, **shape)) if tiny else check_model(recipe.model)
        tokenizer = load_tokenizer(model)
        fmt = think_format(tokenizer, tags=prepare_thinking(tokenizer, args.thinking, args.think_tags))
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        dataset, _ = trace_dataset(
            problems,
            fmt,
            args.max_steps * batch,
            args.writing,
            attempts=(args.attempts_low, args.attempts_high),
            seed=recipe.seed,
            give_up=args.give_up,
            patient=args.patient,
            habits=Habits(args.adjust, args.recheck, args.overwrite),
            backtrack=args.backtrack,
        )
        order = bucketed([len(ids) for ids in dataset["input_ids"]], batch, recipe.seed)
        learned = sum(sum(label != IGNORED for label in labels) for labels in dataset["labels"])
        trainer = cls(
            **adapted(model, recipe.peft, args),
            args=args,
            train_dataset=dataset.select_columns(["input_ids", "labels"]).select(order),
            processing_class=tokenizer,
        )
        trainer.tokens_an_update = learned / args.max_steps
        return trainer


def bucketed(lengths: Sequence[int], batch: int, seed: int) -> list[int]:
    """An order of the rows: every run of `batch` rows has similar lengths, the runs come in random order."""
    rng = random.Random(f"buckets:{seed}")
    rows = list(range(len(lengths)))
    rng.shuffle(rows)
    batches = []
    for start in range(0, len(rows), BUCKET * batch):
        window = sorted(rows[start : start + BUCKET * batch], key=lambda row: lengths[row])
        batches += [window[i : i + batch] for i in range(0, len(window), batch)]
    whole = [one for one in batches if len(one) == batch]
    rng.shuffle(whole)
    return [row for one in [*whole, *(one for one in batches if len(one) < batch)] for row in one]
