"""Sides of a ratio timed in turns, what is printed of them, and where they ran."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Side = Callable[[], Any]


@dataclass
class Timed:
    """One side: wall-clock and CPU seconds of every repetition, and what the last one returned."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    result: Any = None

    def run(self, side: Side) -> None:
        """Once more."""
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        self.result = side()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def interleaved(
    names: Sequence[str], make: Callable[[str, int], Side], repetitions: int, label: str
) -> dict[str, Timed]:
    """Every side so many times; `make(name, repetition)` prepares it, untimed.

    Each repetition runs all sides and starts one further on than the last: what else the machine does, and what one
    side leaves to the next, falls on all alike.
    """
    names, timed = list(names), {name: Timed() for name in names}
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            timed[name].run(make(name, repetition))
        latest = ", ".join(f"{name} {one.wall[-1]:.3f} s ({one.cpu[-1]:.3f} CPU)" for name, one in timed.items())
        say(f"{label} {repetition + 1}/{repetitions}: {latest}")
    return timed


def compare(top: Timed, bottom: Timed, names: tuple[str, str], clock: str = "wall") -> dict[str, Any]:
    """`ratio` of top over bottom by this clock ("wall" or "cpu"), the seconds of both sides, the ratio by the other.

    Seconds are medians over the repetitions; a ratio is the median of those within a repetition, which stand in
    `ratios`.
    """
    other = {"wall": "cpu", "cpu": "wall"}[clock]
    ratios = _ratios(top, bottom, clock)
    seconds = {
        f"{name}_seconds": statistics.median(getattr(one, clock))
        for name, one in zip(names, (top, bottom), strict=True)
    }
    return {
        "ratio": statistics.median(ratios),
        **seconds,
        "clock": clock,
        "ratios": ratios,
        f"ratio_by_{other}": statistics.median(_ratios(top, bottom, other)),
    }


def _ratios(top: Timed, bottom: Timed, clock: str) -> list[float]:
    return [a / b for a, b in zip(getattr(top, clock), getattr(bottom, clock), strict=True)]


def summary(
    cases: Mapping[str, Mapping[str, Any]], at_least: float | None = None, at_most: float | None = None
) -> dict[str, Any]:
    """One key of the result: ratio and seconds of the worst case, the target where there is one, and all cases.

    The worst case has the lowest ratio where the target is `at_least`, else the highest.
    """
    choose = min if at_least is not None else max
    worst = choose(cases, key=lambda name: cases[name]["ratio"])
    shown = {key: value for key, value in cases[worst].items() if key == "ratio" or key.endswith("_seconds")}
    target = {} if at_least is None else {"target_at_least": at_least}
    target |= {} if at_most is None else {"target_at_most": at_most}
    return {**shown, **target, "worst_case": worst, "cases": dict(cases)}


@dataclass
class Clock:
    """CPU seconds of each part, without those of the parts that it calls; "rest" is everything else."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    running: list[str] = field(default_factory=lambda: ["rest"])
    mark: float = 0.0

    def charge(self) -> None:
        """What has passed belongs to the part that runs now."""
        now = time.process_time()
        self.seconds[self.running[-1]] += now - self.mark
        self.mark = now

    def start(self) -> None:
        """From zero."""
        self.seconds, self.mark = defaultdict(float), time.process_time()

    def around(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, counted as this part."""

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.charge()
            self.running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.charge()
                self.running.pop()

        return counted


def machine() -> dict[str, Any]:
    """Where it ran and on which code: processor, cores, threads, versions, commit (`+`: with changes)."""
    import torch

    from mrt.runs.rundir import commit, versions

    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "versions": versions(),
        "commit": commit(),
    }


def processor() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def parser(prog: str, doc: str) -> argparse.ArgumentParser:
    """The options that all of these programs have."""
    made = argparse.ArgumentParser(prog=f"python -m {prog}", description=doc.split("\n")[0])
    made.add_argument("--smoke", action="store_true", help="tiny sizes: does it run at all; the figures mean nothing")
    made.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return made


def show(results: Mapping[str, Any], as_json: bool, table: Callable[[Mapping[str, Any]], str]) -> None:
    """Prints the results, with the machine, as JSON or as a table."""
    results = {**results, "machine": machine()}
    if as_json:
        print(json.dumps(_rounded(results), indent=2))
        return
    where = results["machine"]
    print(table(results))
    print(f"\n{where['processor']}, {where['cores']} cores, {where['threads']} thread(s), torch {where['torch']}")


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text.strip(), file=sys.stderr, flush=True)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
