"""Our training loops beside programs in JAX that do the same, in turns on one pinned core, by CPU time.

The programs `rl2_jax.py`, `gridrl2_jax.py` and `maml_sinusoid_jax.py` are no part of the project: they are looked for
in the folder that MRT_PEERS names, or in `../shared/peers` beside the checkout, and run by the interpreter that
MRT_PEERS_PYTHON names (this one otherwise), which has to have jax and optax.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from evals.speed.common import say
from mrt.control.envs import make_tasks
from mrt.control.policy import ControlPolicy
from mrt.control.trainer import ControlConfig, ControlTrainer
from mrt.trainer import TrialTrainer

SKIPPED = 2  # of the first calls or steps: what is compiled and loaded

WATCHED = """
import json, runpy, sys, time
import jax, jax.numpy, optax
compile, seconds = jax.jit, {}
def jit(function, **options):
    compiled = compile(function, **options)
    def timed(*args):
        start = time.process_time()
        out = jax.block_until_ready(compiled(*args))
        seconds.setdefault(function.__name__, []).append(time.process_time() - start)
        return out
    return timed
jax.jit, time.time, sys.argv = jit, time.process_time, sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(json.dumps(seconds))
"""
"""Runs a program with every call of what it compiles timed, and its own clock counting CPU seconds."""


@dataclass(frozen=True)
class Peer:
    """A program, its arguments, the compiled function whose calls count, and how many of ours one call is."""

    program: str
    arguments: str
    function: str = "it"
    count: int = 1


BANDIT = Peer("rl2_jax.py", "indep 5 10 16 48 .99 .95 3e-3 512")
GRID = Peer("gridrl2_jax.py", "25 256 .99 .95 3e-3 .02 0")
MAML = Peer("maml_sinusoid_jax.py", ".01 7000 maml 10", "chunk", 1000)
RL2: dict[str, tuple[dict[str, Any], int]] = {
    "bandit": ({"name": "bernoulli-bandit", "arms": 5, "pulls": 10}, 48),
    "GridNavi": ({"name": "grid-navi", "episodes": 4}, 64),
}
"""What both sides train on, and the width of the GRU."""


def folder() -> Path:
    """Where the programs are looked for."""
    return Path(os.environ.get("MRT_PEERS") or Path(__file__).resolve().parents[3] / "shared" / "peers")


def missing(peer: Peer) -> str:
    """Why a program cannot run here; "" where it can."""
    if not (folder() / peer.program).is_file():
        return f"{peer.program} is not there: name its folder with MRT_PEERS"
    python = os.environ.get("MRT_PEERS_PYTHON") or sys.executable
    done = subprocess.run([python, "-c", "import jax, optax"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "jax and optax are not installed: name an interpreter with MRT_PEERS_PYTHON"


def peer_seconds(peer: Peer) -> float:
    """CPU seconds of one of what we count: the median over the calls.

    Raises:
        RuntimeError: with the end of what the program said, where it failed.
    """
    python = os.environ.get("MRT_PEERS_PYTHON") or sys.executable
    single = {"XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    command = [python, "-c", WATCHED, str(folder() / peer.program), *peer.arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **single}, check=False)
    if done.returncode:
        raise RuntimeError(f"{peer.program}: {done.stderr[-2000:]}")
    calls = json.loads(done.stdout.splitlines()[-1])[peer.function]
    return statistics.median(calls[SKIPPED:]) / peer.count


@contextmanager
def pinned() -> Iterator[None]:
    """This process, and what it starts, on one core within it, where the system can do that."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if before:
        os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


class Marks(TrainerCallback):
    """CPU time at the end of every step of the outer loop."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.times.append(time.process_time())


def step_seconds(trainer: TrialTrainer) -> float:
    """CPU seconds of a step of the outer loop: trains, and takes the median behind the first steps."""
    marks = Marks()
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(marks)
    trainer.train()
    steps = [after - before for before, after in zip(marks.times, marks.times[1:], strict=False)]
    return statistics.median(steps[SKIPPED - 1 :])


def in_turns(sides: Mapping[str, Callable[[], float]], repetitions: int, label: str) -> dict[str, list[float]]:
    """The figure of every side, so many times; each repetition starts one side further on than the last."""
    names, found = list(sides), {name: list[float]() for name in sides}
    with pinned():
        for repetition in range(repetitions):
            first = repetition % len(names)
            for name in names[first:] + names[:first]:
                found[name].append(sides[name]())
            latest = ", ".join(f"{name} {1e3 * values[-1]:.3f} ms" for name, values in found.items())
            say(f"{label} {repetition + 1}/{repetitions}: {latest}")
    return found


def ratio_of(found: Mapping[str, Sequence[float]], top: str, bottom: str) -> dict[str, Any]:
    """The median of the ratios within a repetition, with the seconds of both sides."""
    ratios = [a / b for a, b in zip(found[top], found[bottom], strict=True)]
    seconds = {f"{name}_seconds": statistics.median(found[name]) for name in (top, bottom)}
    return {"ratio": statistics.median(ratios), **seconds, "clock": "cpu", "ratios": ratios}


def rl2_collection(name: str, steps: int, rows: int, out: Path) -> float:
    """CPU seconds of a collection and its 4 epochs of one update each, as the programs do them."""
    tasks, width = RL2[name]
    distribution = make_tasks(**tasks)
    config = ControlConfig(
        output_dir=str(out), max_steps=steps, learning_rate=3e-3, entropy=0.02, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, logging_steps=10, write_trials=False, per_device_train_batch_size=rows,
        epochs=4, minibatches=1, updates_per_step=4,
    )  # fmt: skip
    torch.manual_seed(0)
    policy = ControlPolicy.for_spec(distribution.env.spec, memory="gru", hidden_size=width)
    return step_seconds(ControlTrainer(policy, config, distribution))
