"""What vLLM's prefix cache saves when traces are stopped at their boundaries, on the CPU build of vLLM.

    python -m evals.speed.vllm               a table
    python -m evals.speed.vllm --json        the same as one object

Needs vLLM (tests/mrt/reasoning/engines/test_vllm.py says how the CPU build is installed). Two engines in one process,
one with the prefix cache and one without, take turns; a ratio is the median over the repetitions.

prefix_cache_on_over_off   Traces of 512 tokens of a 26 M model are stopped at 8 boundaries and answered 4 times there,
                           12 tokens each. How many times as long the engine without the cache takes. The cache is
                           emptied before each repetition, so that the first answer of a trace pays for its blocks (128
                           tokens on a CPU, 16 on a GPU).
after_acting               The same where the cache holds what acting has left there, as in a step of training: the
                           traces went through the engine just before, untimed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from evals.speed.common import compare, interleaved, parser, show, summary
from evals.speed.probes import SMOKE_SIZES, Bench, Sizes, make_bench
from mrt.reasoning.engines.sampling import Sampling
from mrt.reasoning.engines.vllm import VLLMEngine
from mrt.reasoning.engines.vllm_backends import Colocated, Request
from mrt.reasoning.models.loading import load_model
from mrt.reasoning.models.tiny import save_tiny
from mrt.reasoning.probes.forced import force_answers

SHAPE = (512, 10, 8)  # hidden, layers, heads: 26 M parameters
SMOKE_SHAPE = (64, 2, 2)  # the CPU build knows heads of 32 numbers and more
MEMORY = 0.05  # share of the machine's, of each engine
TARGET = 2.0
ON, OFF = "on", "off"
# In this process, with a small cache and nothing of its own on stdout; vLLM reads them at import.
SETTINGS = {"ENABLE_V1_MULTIPROCESSING": "0", "CPU_KVCACHE_SPACE": "1", "LOGGING_LEVEL": "ERROR"}


def start(folder: str, cached: bool) -> Any:
    """A vLLM that shares nothing with another one in this process."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(f"VLLM_{name}", value)
    from vllm import LLM

    return LLM(
        model=folder,
        dtype="float32",
        max_model_len=1024,
        enforce_eager=True,
        enable_prefix_caching=cached,
        gpu_memory_utilization=MEMORY,
        logprobs_mode="processed_logprobs",
        disable_log_stats=True,
    )


def probing(llms: Mapping[str, Any], bench: Bench, warm: bool, name: str, repetition: int) -> Callable[[], Any]:
    """One side: all forced answers of the bench; returns the counts of its engine."""
    engine = VLLMEngine(Colocated(llms[name]))
    llms[name].reset_prefix_cache()
    if warm:
        engine.backend([Request((*trace.prompt, *trace.thought)) for trace in bench.traces])

    def side() -> Any:
        force_answers(engine, bench.fmt, bench.traces, bench.sizes.samples, Sampling())
        return engine.counts

    return side


def measure(folder: Path, shape: tuple[int, int, int], sizes: Sizes, traces: int, repetitions: int) -> dict[str, Any]:
    """Both cases of one model."""
    hidden, layers, heads = shape
    save_tiny(folder, hidden=hidden, layers=layers, heads=heads)
    model, tokenizer = load_model(str(folder))
    bench = make_bench(model, tokenizer, traces, sizes)
    llms = {ON: start(str(folder), True), OFF: start(str(folder), False)}
    cases = {}
    for label, warm in (("cold", False), ("after_acting", True)):
        timed = interleaved((ON, OFF), partial(probing, llms, bench, warm), repetitions, label)
        counts = {name: timed[name].result for name in (ON, OFF)}
        tokens = {f"{name}_prefilled": counts[name].prefilled for name in counts} | {"asked": counts[ON].asked}
        cases[label] = compare(timed[OFF], timed[ON], (OFF, ON)) | tokens | {"reused": counts[ON].reused}
    parameters = sum(p.numel() for p in model.parameters())
    return {
        "prefix_cache_on_over_off": summary({"cold": cases["cold"]}, at_least=TARGET),
        "after_acting": summary({"after_acting": cases["after_acting"]}, at_least=TARGET),
        "parameters": parameters,
        "traces": traces,
    }


def table(results: Mapping[str, Any]) -> str:
    """The figures as lines."""
    lines = [f"{results['parameters'] / 1e6:.1f} M parameters, {results['traces']} traces"]
    for key in ("prefix_cache_on_over_off", "after_acting"):
        one = results[key]
        case = one["cases"][one["worst_case"]]
        lines.append(
            f"{key}: {one['ratio']:.2f} (target {one['target_at_least']}): {one['off_seconds']:.2f} s without, "
            f"{one['on_seconds']:.2f} s with; {case['reused']} of {case['asked']} given tokens reused"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    options = parser("evals.speed.vllm", __doc__ or "").parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        if options.smoke:
            results = measure(Path(folder) / "model", SMOKE_SHAPE, SMOKE_SIZES, 2, 1)
        else:
            results = measure(Path(folder) / "model", SHAPE, Sizes(), 4, 3)
        show(results, options.json, table)


if __name__ == "__main__":
    main()
