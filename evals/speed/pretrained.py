"""Four figures of `python -m evals.speed.trainer --model NAME`: what sampling, probing and updating a real model cost.

See `evals.speed.trainer` for what stands over what.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from trl.trainer.utils import add_fused_lm_head

from evals.speed.common import Side, Timed, compare, interleaved, say, summary
from mrt.reasoning.engines.base import Branch
from mrt.reasoning.engines.opening import engine_on
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.models.gguf_files import resolve_model
from mrt.reasoning.models.loading import load_tokenizer, pad_id
from mrt.reasoning.probes.base import Trace
from mrt.reasoning.probes.forced import force_answers
from mrt.reasoning.problems import load_problems, to_dataset
from mrt.reasoning.traces.prompts import think_format
from mrt.reasoning.traces.templates import prepare_thinking
from mrt.reasoning.training.completion_pass import CompletionRows, completion_logprobs

BOUNDARIES, ANSWERS = 6, 4
LONGEST = (
    16  # tokens of an answer, as in recipes/smollm2/mrt: a model that was not taught to close its box would run on
)


@dataclass(frozen=True)
class RealSizes:
    """How long is measured, and on what."""

    repetitions: int = 3
    rows: int = 16  # sampled at one time
    group: int = 8
    tokens: int = 32  # of each
    traces: int = 8  # of one prompt, sampled, updated and probed
    trace: int = 192  # tokens of each
    memory: tuple[int, int] = (8, 2048)  # traces, tokens


SMOKE = RealSizes(repetitions=1, rows=4, group=2, tokens=4, traces=2, trace=12, memory=(2, 24))


@dataclass
class Pretrained:
    """A model on disk, loaded anew for each trainer, with its tokenizer and the prompts that it is asked."""

    folder: str
    dtype: torch.dtype
    tokenizer: Any = field(init=False)
    fmt: Any = field(init=False)
    dataset: Any = field(init=False)

    def __post_init__(self) -> None:
        self.folder = resolve_model(self.folder)
        self.tokenizer = load_tokenizer(self.folder)
        fmt = think_format(self.tokenizer, tags=prepare_thinking(self.tokenizer))
        self.fmt = replace(fmt, max_answer_tokens=LONGEST)
        problems = load_problems("countdown", numbers=3, high=25, train=200, warmstart=0, test=0)
        self.dataset = to_dataset(problems, "train")

    def model(self) -> Any:
        """A fresh copy."""
        return AutoModelForCausalLM.from_pretrained(self.folder, dtype=self.dtype).eval()

    def prompts(self, count: int) -> list[list[int]]:
        """Ids of so many prompts."""
        rows = [self.dataset[i]["prompt"] for i in range(count)]
        return [self.tokenizer.apply_chat_template(r, add_generation_prompt=True, return_dict=False) for r in rows]


# ---- sampling


def measure_sampling(subject: Pretrained, sizes: RealSizes) -> dict[str, Any]:
    """`sampling_over_generate`: the ratio of tokens a second is that of the seconds the other way round."""
    model = subject.model()
    model.generation_config.eos_token_id = None  # rows of one length on both sides
    cases = {}
    for group in (1, sizes.group):
        prompts = subject.prompts(sizes.rows // group)
        sides = {
            "ours": partial(sample, model, subject, prompts, group, sizes.tokens),
            "generate": partial(generate, model, subject, prompts, group, sizes.tokens),
        }
        name = f"{len(prompts)} prompts, {group} rows each, {sizes.tokens} tokens"
        timed = interleaved(list(sides), partial(_turn, sides), sizes.repetitions, name)
        assert timed["ours"].result == timed["generate"].result == sizes.rows * sizes.tokens
        case = compare(timed["generate"], timed["ours"], ("generate", "ours"), clock="cpu")
        cases[name] = case | {"ours_tokens_per_second": sizes.rows * sizes.tokens / case["ours_seconds"]}
    return summary(cases, at_least=1.0)


def _turn(sides: Mapping[str, Side], name: str, number: int) -> Side:
    return sides[name]


def sample(model: Any, subject: Pretrained, prompts: Sequence[list[int]], group: int, tokens: int) -> int:
    """Our engine, with the log-probability of every token; how many tokens were drawn."""
    engine = engine_on(model, pad_id(subject.tokenizer))
    branches = [Branch(i, len(prompt)) for i, prompt in enumerate(prompts)]
    answers = engine.answers(engine.prefill(prompts), branches, group, tokens, ())
    return sum(len(ids) for answer in answers for ids in answer.ids)


@torch.no_grad()
def generate(model: Any, subject: Pretrained, prompts: Sequence[list[int]], group: int, tokens: int) -> int:
    """`model.generate` on the left-padded batch; how many tokens were drawn."""
    rows = [{"input_ids": prompt} for prompt in prompts for _ in range(group)]
    batch = subject.tokenizer.pad(rows, padding_side="left", return_tensors="pt")
    drawn = model.generate(
        **batch,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=tokens,
        pad_token_id=pad_id(subject.tokenizer),
    )
    return int(drawn[:, batch["input_ids"].shape[1] :].numel())


# ---- probes


def measure_probes(subject: Pretrained, sizes: RealSizes) -> dict[str, Any]:
    """`probes_over_step`: probes of the traces that a repetition has sampled, over sampling and updating them."""
    model = subject.model()
    add_fused_lm_head(model, outputs=("log_probs", "entropy"))
    work = Work(model, subject, sizes)
    parts: dict[str, Timed] = {name: Timed() for name in ("sampling", "probes", "update")}
    for number in range(sizes.repetitions):
        for name, timed in parts.items():
            timed.run(getattr(work, name))
        latest = ", ".join(f"{name} {timed.cpu[-1]:.2f} s CPU" for name, timed in parts.items())
        say(f"probes {number + 1}/{sizes.repetitions}: {latest}")
    step = Timed(
        *(
            [a + b for a, b in zip(getattr(parts["sampling"], c), getattr(parts["update"], c), strict=True)]
            for c in ("wall", "cpu")
        )
    )
    case = compare(parts["probes"], step, ("probes", "step"), clock="cpu")
    case |= {"parts": {name: sorted(timed.cpu)[len(timed.cpu) // 2] for name, timed in parts.items()}}
    case |= {"answer_tokens": parts["probes"].result, "boundaries": BOUNDARIES, "answers": ANSWERS, "longest": LONGEST}
    return summary({f"{sizes.traces} traces of {sizes.trace} tokens": case}, at_most=0.3)


class Work:
    """One batch of traces of one prompt, through the three things that a step of training does with it."""

    def __init__(self, model: Any, subject: Pretrained, sizes: RealSizes) -> None:
        self.model, self.subject, self.sizes = model, subject, sizes
        self.prompt = subject.prompts(1)[0]
        self.engine = engine_on(model, pad_id(subject.tokenizer))
        self.rows: list[list[int]] = []
        self.kept: list[Any] = []

    def sampling(self) -> int:
        """Traces of full length, their keys and values kept for the probes, as in training."""
        sizes, branch = self.sizes, Branch(0, len(self.prompt))
        prefix = self.engine.prefill([self.prompt])
        (answer,) = self.engine.answers(prefix, [branch], sizes.traces, sizes.trace, (), keep=True)
        self.rows, self.kept = answer.ids, answer.kept
        return sum(map(len, self.rows))

    def probes(self) -> float:
        """Answers forced at boundaries of equal distance; the mean tokens of an answer."""
        length, fmt = self.sizes.trace, self.subject.fmt
        cuts = tuple(length * (k + 1) // BOUNDARIES for k in range(BOUNDARIES))
        prompt = tuple(self.prompt)
        traces = [
            Trace(prompt, tuple(ids), cuts, {}, kept=kept) for ids, kept in zip(self.rows, self.kept, strict=True)
        ]
        self.kept = []
        before = self.engine.counts.decoded
        answers = force_answers(self.engine, fmt, traces, ANSWERS, Sampling())
        return (self.engine.counts.decoded - before) / sum(len(cut) for trace in answers for cut in trace)

    def update(self) -> float:
        """Forward and backward pass over all weights, with the entropies that TRL logs."""
        prompt = torch.tensor(self.prompt).expand(len(self.rows), -1)
        ids = torch.cat([prompt, torch.tensor(self.rows)], 1)
        rows = CompletionRows(ids, torch.ones_like(ids), self.sizes.trace)
        self.model.train()
        logps, _ = completion_logprobs(self.model, rows, len(ids))
        logps.mean().backward()
        self.model.eval()
        self.model.zero_grad(set_to_none=True)
        return float(logps.detach().mean())


# ---- memory


def measure_memory(subject: Pretrained, sizes: RealSizes) -> dict[str, Any]:
    """`probe_memory`: the largest resident memory of a process that probes, over weights, keys and values.

    The process gives freed memory back, unlike the one that times: what it kept would count as used.
    """
    rows, tokens = sizes.memory
    dtype = str(subject.dtype).removeprefix("torch.")
    command = [sys.executable, "-m", "evals.speed.memory", subject.folder, str(rows), str(tokens), dtype]
    giving_back = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=giving_back)
    if done.returncode:
        raise RuntimeError(f"evals.speed.memory failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    say(f"memory 1/1: {found['ratio']:.2f} times weights, keys and values")
    case = found | {"peak_seconds": found.pop("probe_s"), "prefill_seconds": found.pop("prefill_s")}
    return summary({f"{rows} traces of {tokens} tokens": case}, at_most=1.5)


MEASURES: dict[str, Callable[[Pretrained, RealSizes], dict[str, Any]]] = {
    "sampling_over_generate": measure_sampling,
    "probes_over_step": measure_probes,
    "probe_memory": measure_memory,
}


def measure(subject: Pretrained, sizes: RealSizes, only: str | None = None) -> dict[str, Any]:
    """The figures that need no trainer, or one of them."""
    results = {}
    for name, one in MEASURES.items():
        if only in (None, name):
            results[name] = one(subject, sizes)
            gc.collect()
    return results


def table(name: str, result: Mapping[str, Any]) -> str:
    """One figure as lines."""
    aim = "at least" if "target_at_least" in result else "at most"
    target = result.get("target_at_least", result.get("target_at_most"))
    lines = [f"{name} {result['ratio']:.3f} (target {aim} {target:g})"]
    for label, case in result["cases"].items():
        spread = f" ({min(case['ratios']):.2f} to {max(case['ratios']):.2f})" if "ratios" in case else ""
        seconds = ", ".join(f"{key[:-8]} {value:.2f} s" for key, value in case.items() if key.endswith("_seconds"))
        lines.append(f"  {label}: {case['ratio']:.3f}{spread}; {seconds}")
    return "\n".join(lines)
