"""What the trainer costs: beside TRL's, and how much of a step the probes take.

    python -m evals.speed.trainer                                    a table
    python -m evals.speed.trainer --json                             the same as one object
    python -m evals.speed.trainer --model smollm2 --dtype bfloat16   on a pretrained model

CPU time of this process throughout, so that other processes do not count.

mrt_over_grpo   MRTTrainer with credit=outcome and rollout=plain, which takes the same updates as TRL's GRPOTrainer,
                beside that trainer: one model, data, reward and seed; blocks of 30 updates in turns, each from a
                trainer of its own, its `train()` timed whole. `a_over_a` is GRPOTrainer beside itself in the same
                blocks: how far chance alone moves the ratio.
probe_share     Share of an MRT step that the probes take, with the recipe countdown/mrt and the gold probe at every
                boundary, once exact and once with a tolerance, and what the other parts take.

With --model it is that model, all weights trained: mrt_over_grpo as above with fewer and shorter blocks, and

sampling_over_generate  Tokens a second of our sampling over those of `model.generate`, on the same prompts (padded on
                        the left for it) and lengths, temperature 1: prompts of one row each, and in groups.
probes_over_step        Four answers of at most 12 tokens forced at six boundaries over sampling and updating (forward,
                        backward) the same traces, whose keys and values are kept as in training.
probe_memory            Largest resident memory of prefilling and probing 8 traces of 2,048 tokens over weights, keys
                        and values themselves; in a process of its own.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

from evals.speed import pretrained
from evals.speed.common import Clock, compare, interleaved, parser, say, show, summary
from evals.speed.pretrained import Pretrained
from mrt.cli.allocator import keep_freed_memory
from mrt.reasoning.models.tiny import build_model, build_tokenizer, save_tiny
from mrt.reasoning.problems import load_problems, to_dataset
from mrt.reasoning.training import rollout, samplers
from mrt.reasoning.training.config import MRTConfig
from mrt.reasoning.training.trainer import MRTTrainer
from mrt.runs.recipe import load_recipe

TOLERANCES = (0.0, 0.02)
PARTS = ("sampling", "probes", "loss", "backward", "watch", "rest")
ON = {
    "both": "the loss of every update in the log; no checkpoints, no tracker, no progress bar",
    "mrt": (
        "as it comes: metrics.jsonl written at every update, every gradient looked at by the finite guard, rows of "
        "similar length together in the loss. No trials.jsonl: rollout=plain collects no trials, so nothing is "
        "switched off to hide it"
    ),
    "grpo": "TRL's own defaults besides the arguments in both",
}


@dataclass(frozen=True)
class Sizes:
    """How long is measured, and on what."""

    blocks: int = 9
    updates: int = 30  # of a block
    rows: int = 32
    group: int = 8
    completion: int = 40
    steps: int = 10  # of an MRT step's parts, after `skipped` ones
    skipped: int = 2
    recipe: tuple[str, ...] = ()  # changed in countdown/mrt


SMOKE = Sizes(
    blocks=1,
    updates=2,
    rows=8,
    group=4,
    completion=8,
    steps=2,
    recipe=(
        "args.per_device_train_batch_size=8",
        "args.generation_batch_size=16",
        "args.max_completion_length=12",
        "args.num_generations=4",
        "problems.high=10",
        "problems.train=50",
        "problems.warmstart=0",
        "problems.test=0",
    ),
)

REAL = Sizes(blocks=3, updates=1, rows=8, completion=32)  # of a pretrained model


# ---- beside TRL


def odd_share(completions: Any, completion_ids: Sequence[Sequence[int]], **_: Any) -> list[float | None]:
    """A reward that costs next to nothing and varies also with a fresh model: the share of odd token ids."""
    return [sum(i % 2 for i in ids) / len(ids) for ids in completion_ids]


@dataclass(frozen=True)
class Tiny:
    """The tiny model with fresh weights."""

    tokenizer: Any
    dataset: Any

    @staticmethod
    def make() -> Tiny:
        """With its problems."""
        problems = load_problems("countdown", high=10, train=500, warmstart=0, test=0)
        return Tiny(build_tokenizer(), to_dataset(problems, "train"))

    def model(self) -> Any:
        """A fresh copy."""
        return build_model(self.tokenizer)


def outcome_trainer(ours: bool, folder: Path, seed: int, sizes: Sizes, subject: Tiny | Pretrained) -> Any:
    """MRTTrainer as plain GRPO, or TRL's GRPOTrainer with the same arguments."""
    common: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": sizes.rows,
        "num_generations": sizes.group,
        "max_completion_length": sizes.completion,
        "max_steps": sizes.updates,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
        "top_k": 0,
        "seed": seed,
        "data_seed": seed,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "dataloader_pin_memory": False,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    args: Any = MRTConfig(credit="outcome", rollout="plain", **common) if ours else GRPOConfig(**common)
    trainer = (MRTTrainer if ours else GRPOTrainer)(
        model=subject.model(),
        reward_funcs=odd_share,
        args=args,
        train_dataset=subject.dataset,
        processing_class=subject.tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure_beside(sizes: Sizes, folder: Path, subject: Tiny | Pretrained) -> dict[str, Any]:
    """`mrt_over_grpo`: the three trainers, a block each in turns. The seed of a block is its number."""

    def make(side: str, number: int, chosen: Sizes = sizes) -> Callable[[], Any]:
        path = folder / f"{side}-{chosen.completion}-{number}"
        return partial(train, outcome_trainer(side == "mrt", path, number, chosen, subject))

    for side in ("mrt", "grpo"):
        make(side, 0, replace(sizes, updates=1, rows=sizes.group, completion=4))()
    timed = interleaved(("mrt", "grpo", "grpo_again"), make, sizes.blocks, "blocks")
    assert all(one.result[0] == sizes.updates for one in timed.values())
    mrt = compare(timed["mrt"], timed["grpo"], ("mrt", "grpo"), clock="cpu")
    same = compare(timed["grpo_again"], timed["grpo"], ("grpo_again", "grpo"), clock="cpu")
    facts = {key: getattr(sizes, key) for key in ("blocks", "updates", "rows", "group", "completion")}
    name = f"{sizes.rows} rows in groups of {sizes.group}, {sizes.completion} tokens"
    parts = {side: timed[side].result[1] for side in ("mrt", "grpo")}
    result = summary({name: mrt | {"a_over_a": same, "parts": parts} | facts}, at_most=1.05)
    return result | {"a_over_a": same["ratio"], "on": ON}


def train(trainer: Any) -> tuple[int, dict[str, float]]:
    """Trains from a seed of its own; how many updates were taken, and the CPU seconds of an update by part."""
    torch.manual_seed(trainer.args.seed)
    clock = Clock()
    clock.start()
    with (
        patched(trainer, "_generate_and_score_completions", clock, "rollout"),
        patched(trainer, "_compute_loss", clock, "loss"),
        patched(trainer.accelerator, "backward", clock, "backward"),
    ):
        trainer.train()
    clock.charge()
    steps = int(trainer.state.global_step)
    return steps, {part: seconds / steps for part, seconds in clock.seconds.items()}


def patched(owner: Any, name: str, clock: Clock, part: str) -> Any:
    """Within it a method is counted as this part."""
    return mock.patch.object(owner, name, clock.around(part, getattr(owner, name)))


# ---- the parts of a step


class Window(TrainerCallback):
    """Starts the clock after `first` updates and reads it after `last`."""

    def __init__(self, clock: Clock, first: int, last: int) -> None:
        self.clock, self.first, self.last = clock, first, last
        self.seconds: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.first:
            self.clock.start()
        elif state.global_step == self.last:
            self.clock.charge()
            self.seconds = {part: self.clock.seconds[part] for part in PARTS}


@contextmanager
def watched(trainer: MRTTrainer, clock: Clock) -> Iterator[None]:
    """Within it the parts of a step are counted. `watch` is the held-out prover, which asks now and then."""
    assert trainer.rollout is not None
    assert trainer.held_out is not None
    with (
        patched(rollout, "probe_trials", clock, "probes"),
        patched(samplers, "draw_rows", clock, "sampling"),
        patched(trainer, "_compute_loss", clock, "loss"),
        patched(trainer.accelerator, "backward", clock, "backward"),
        patched(trainer.held_out, "look", clock, "watch"),
    ):
        yield


def measure_parts(model: str, tolerance: float, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """One case of `probe_share`: means over the updates behind the first few."""
    last = sizes.skipped + sizes.steps
    changes = {"model": model, "args.probe_tolerance": tolerance, "args.max_steps": last, "args.save_strategy": "no"}
    changes |= {"args.use_cpu": "true", "args.disable_tqdm": "true", "args.report_to": "[]"}
    # Every boundary, whatever J did; updates are counted here, not cost.
    changes |= {"args.probe_moved": "null", "args.max_cost": "null", "args.thinking_budget": "null"}
    settings = [*(f"{key}={value}" for key, value in changes.items()), *sizes.recipe]
    trainer = MRTTrainer.from_recipe(load_recipe("countdown/mrt", settings), folder)
    trainer.remove_callback(PrinterCallback)
    clock = Clock()
    window = Window(clock, sizes.skipped, last)
    trainer.add_callback(window)
    with watched(trainer, clock):
        trainer.train()
    parts = {part: seconds / sizes.steps for part, seconds in window.seconds.items()}
    step = sum(parts.values())
    means = {name: logged_mean(trainer, f"completions/{name}") for name in ("episodes", "mean_length")}
    return {
        "ratio": parts["probes"] / step,
        "probes_seconds": parts["probes"],
        "step_seconds": step,
        "clock": "cpu",
        "parts": parts,
        "shares": {part: seconds / step for part, seconds in parts.items()},
        "positions": trainer.cost(),
        "updates": sizes.steps,
        **means,
    }


def logged_mean(trainer: MRTTrainer, name: str) -> float:
    """The mean over the updates that sampled; the others take their rows from the same batch."""
    return statistics.fmean(row[name] for row in trainer.state.log_history if name in row)


def measure_share(model: str | None, sizes: Sizes, folder: Path) -> dict[str, Any]:
    """`probe_share` over the tolerances, with the model at this path or a fresh one."""
    path = model or str(save_tiny(folder / "model"))
    cases = {}
    for tolerance in TOLERANCES:
        name = f"tolerance {tolerance}" if tolerance else "exact"
        cases[name] = measure_parts(path, tolerance, sizes, folder / name.replace(" ", "-"))
        say(f"{name}: {cases[name]['step_seconds']:.3f} s of CPU an update, probes {cases[name]['ratio']:.1%}")
    return summary(cases) | {"model": "given" if model else "fresh"}


def table(results: Mapping[str, Any]) -> str:
    """What was measured."""
    return "\n\n".join(shown(results[key]) for key, shown in TABLES.items() if key in results)


def table_beside(result: Mapping[str, Any]) -> str:
    """The ratio beside TRL, and what was on."""
    lines = []
    for name, case in result["cases"].items():
        mrt, grpo = case["mrt_seconds"], case["grpo_seconds"]
        same = case["a_over_a"]["ratio"]
        lines.append(f"mrt_over_grpo {case['ratio']:.3f} (target at most 1.05); GRPO over itself {same:.3f}")
        lines.append(f"  {name}: {mrt:.2f} s and {grpo:.2f} s of CPU a block of {case['updates']} updates")
        for side, parts in case["parts"].items():
            lines.append(f"  {side}: " + ", ".join(f"{part} {seconds:.2f} s" for part, seconds in parts.items()))
    return "\n".join([*lines, *(f"  {who}: {what}" for who, what in result["on"].items())])


def table_share(share: Mapping[str, Any]) -> str:
    """One line a case: what an update takes, and its parts."""
    lines = [f"parts of an MRT update, {share['model']} model, ms of CPU and share"]
    lines.append(f"{'':<18}{'update':>9}" + "".join(f"{part:>16}" for part in PARTS))
    for name, case in share["cases"].items():
        cells = [f"{1000 * case['parts'][part]:.0f} ({case['shares'][part]:.1%})" for part in PARTS]
        lines.append(f"{name:<18}{1000 * case['step_seconds']:>9.0f}" + "".join(f"{cell:>16}" for cell in cells))
        tokens, episodes, cost = case["mean_length"], case["episodes"], case["positions"]
        lines.append(
            f"  {tokens:.0f} tokens and {episodes:.1f} episodes a trace; positions: {cost['sampled']:,} sampled, "
            f"{cost['probed']:,} probed, {cost['updated']:,} updated"
        )
    return "\n".join(lines)


TABLES = {"mrt_over_grpo": table_beside, "probe_share": table_share}
TABLES |= {name: partial(pretrained.table, name) for name in pretrained.MEASURES}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser("evals.speed.trainer", __doc__ or "")
    options.add_argument("--only", choices=list(TABLES), help="one of the figures")
    options.add_argument("--blocks", type=int, help=f"repetitions, instead of {Sizes.blocks} ({REAL.blocks})")
    options.add_argument("--steps", type=int, help=f"of probe_share, instead of {Sizes.steps}")
    options.add_argument("--trained", help="a saved tiny model for probe_share, instead of a fresh one")
    options.add_argument("--model", help="a pretrained model, in place of the tiny one")
    options.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of --model")
    ns = options.parse_args(argv)
    if argv is None:
        keep_freed_memory()  # as `mrt train` does
    sizes = SMOKE if ns.smoke else REAL if ns.model else Sizes()
    sizes = replace(sizes, blocks=ns.blocks or sizes.blocks, steps=ns.steps or sizes.steps)
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        subject = Pretrained(ns.model, getattr(torch, ns.dtype)) if ns.model else Tiny.make()
        if ns.only in (None, "mrt_over_grpo"):
            results["mrt_over_grpo"] = measure_beside(sizes, Path(folder), subject)
        if isinstance(subject, Pretrained):
            real = pretrained.SMOKE if ns.smoke else pretrained.RealSizes(repetitions=sizes.blocks)
            results |= pretrained.measure(subject, real, ns.only)
            results |= {"model": ns.model, "dtype": ns.dtype}
        elif ns.only in (None, "probe_share"):
            results["probe_share"] = measure_share(ns.trained, sizes, Path(folder))
    show(results, ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
