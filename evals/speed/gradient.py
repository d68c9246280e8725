"""What a meta-step of MAML costs on the sinusoid: all tasks as one batch beside a Python loop over them.

    python -m evals.speed.gradient             a table
    python -m evals.speed.gradient --json      the same as one object

vmap_over_loop       Wall clock of a second-order meta-step (inner gradient, outer gradient, Adam) with a Python loop
                     over the tasks over one with them batched: by vmap, and folded (as the recipes train). Two loops:
                     the functional one, `torch.func.grad` task by task, and one of plain `torch.autograd.grad`, the
                     faster of the two. The ratio is the worst case. `meta_steps_per_second` stand beside.
second_over_first    Peak memory of a second-order meta-step over that of a first-order one: bytes of tensors allocated
                     beyond those that were there before, on the CPU.
trainer_over_bare    CPU seconds of an update in the whole loop of `MAMLTrainer` (tasks, guard, clipping, logs) over
                     those of loss, backward and optimiser alone, on the same learner.
jax_over_ours        CPU seconds of an update in that loop over those of a JAX program that is compiled whole
                     (`evals.speed.peers`).
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from classic_metarl.gradient.maml import MAMLTrainer
from classic_metarl.inner.gradient_steps import GradientSteps, Theta, apply, parameters_of, take
from classic_metarl.problems.sinusoid import Sinusoids
from classic_metarl.trainers.few_shot import FewShotConfig, split
from evals.speed.common import compare, interleaved, parser, say, show, summary
from evals.speed.peers import MAML, in_turns, missing, peer_seconds, ratio_of, step_seconds

SIDES = ("loop", "autograd loop", "vmap", "fold")
Set = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Sizes:
    """How long is measured, and on what."""

    tasks: int = 25
    shots: int = 10
    steps: int = 40  # meta-steps of a repetition
    repetitions: int = 9
    inner_steps: tuple[int, ...] = (1, 5)
    updates: int = 100  # of one step of the outer loop
    outer_steps: int = 12


SMOKE = Sizes(tasks=3, shots=4, steps=2, repetitions=1, inner_steps=(1,), updates=2, outer_steps=4)


class Side:
    """One way to take meta-steps: the 40-40 network, its optimiser, and batches drawn beforehand."""

    def __init__(self, way: str, sizes: Sizes, inner_steps: int, order: str = "second") -> None:
        torch.manual_seed(0)
        family = Sinusoids(sizes.shots, sizes.shots)
        self.net, self.way, self.sizes, self.inner_steps = family.network([40, 40], "relu"), way, sizes, inner_steps
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, fused=True)
        x, y = family.examples([family.sample(0, index) for index in range(sizes.tasks)])
        self.support, self.query = ((v[:, part], w[:, part]) for v, w, part in self._parts(x, y))
        call: Any = self.net.of_tasks if way == "fold" else apply(self.net)
        self.call = call

        def loss(phi: dict[str, Tensor], data: Set) -> Tensor:
            return (call(phi, data[0]) - data[1]).square().mean((-1, -2))

        over: Any = way if way in ("vmap", "fold") else "loop"
        self.loss = loss
        self.adaptation = GradientSteps(loss, over=over, steps=inner_steps, order=order)  # type: ignore[arg-type]

    def _parts(self, x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, slice]]:
        shots = self.sizes.shots
        return [(x, y, slice(0, shots)), (x, y, slice(shots, None))]

    def objective(self) -> Tensor:
        """The mean query loss after adaptation."""
        if self.way == "autograd loop":
            return torch.stack([self._plainly(take(self.support, i), take(self.query, i)) for i in self._all()]).mean()
        theta = Theta(parameters_of(self.net))
        phi = self.adaptation.adapt(theta, self.adaptation.init(theta), self.support)
        if self.way == "fold":
            return self.loss(phi, self.query).mean()
        if self.way == "vmap":
            return torch.vmap(self.loss)(phi, self.query).mean()
        return torch.stack([self.loss(take(phi, i), take(self.query, i)) for i in self._all()]).mean()

    def _all(self) -> range:
        return range(self.sizes.tasks)

    def _plainly(self, support: Set, query: Set) -> Tensor:
        names, values = zip(*self.net.named_parameters(), strict=True)
        phi: tuple[Tensor, ...] = values
        for _ in range(self.inner_steps):
            loss = self.loss(dict(zip(names, phi, strict=True)), support)
            slopes = torch.autograd.grad(loss, phi, create_graph=True)
            phi = tuple(value - 0.01 * slope for value, slope in zip(phi, slopes, strict=True))
        return self.loss(dict(zip(names, phi, strict=True)), query)

    def step(self) -> None:
        """One meta-step."""
        self.objective().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def run(self) -> float:
        """So many meta-steps; the loss after them, which all ways share."""
        for _ in range(self.sizes.steps):
            self.step()
        return self.objective().item()


def measure_ways(sizes: Sizes) -> dict[str, Any]:
    """`vmap_over_loop`."""
    cases = {}
    for inner in sizes.inner_steps:
        for way in SIDES:  # untimed: what a first call loads and compiles
            Side(way, sizes, inner).step()

        def make(way: str, number: int, inner: int = inner) -> Callable[[], float]:
            return Side(way, sizes, inner).run

        timed = interleaved(SIDES, make, sizes.repetitions, f"{inner} inner step(s)")
        losses = [timed[way].result for way in SIDES]
        assert max(losses) - min(losses) < 1e-3 * max(losses), f"the ways disagree: {losses}"
        per_second = {way: sizes.steps / sorted(timed[way].wall)[len(timed[way].wall) // 2] for way in SIDES}
        for loop in ("loop", "autograd loop"):
            for way in ("vmap", "fold"):
                figures = compare(timed[loop], timed[way], ("loop", "batched"))
                name = f"{inner} inner step(s), {loop} over {way}"
                cases[name] = figures | {"meta_steps_per_second": {w: per_second[w] for w in (loop, way)}}
    facts = {"tasks": sizes.tasks, "shots": sizes.shots, "meta_steps": sizes.steps}
    return summary(cases, at_least=5.0) | facts


def peak_bytes(side: Side) -> int:
    """The most that tensors took within a meta-step beyond what there was: a running sum over the profiler's events."""
    side.step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        side.step()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    running = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        running += event.nbytes()
        most = max(most, running)
    return most


def measure_memory(sizes: Sizes) -> dict[str, Any]:
    """`second_over_first`, by the number of inner steps, tasks folded."""
    cases = {}
    for inner in sizes.inner_steps:
        second, first = (peak_bytes(Side("fold", sizes, inner, order)) for order in ("second", "first"))
        cases[f"{inner} inner step(s)"] = {"ratio": second / first, "second_bytes": second, "first_bytes": first}
    return summary(cases)


def maml(sizes: Sizes, out: Path) -> MAMLTrainer:
    """The trainer of the paper's setting."""
    args = FewShotConfig(
        output_dir=str(out), max_steps=sizes.outer_steps, learning_rate=1e-3, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, logging_steps=5, per_device_train_batch_size=sizes.tasks,
        updates_per_step=sizes.updates,
    )  # fmt: skip
    trainer: MAMLTrainer = MAMLTrainer.of(Sinusoids(sizes.shots, sizes.shots), args)
    return trainer


def trainer_seconds(sizes: Sizes, out: Path) -> float:
    """CPU seconds of an update in the whole loop."""
    return step_seconds(maml(sizes, out)) / sizes.updates


def bare_seconds(sizes: Sizes, out: Path) -> float:
    """CPU seconds of loss, backward and optimiser of the same learner on tasks drawn beforehand: the median."""
    trainer = maml(sizes, out)
    stages, query = split(trainer.family, *trainer.family.draw(0, range(sizes.tasks)))
    optimizer, seconds = torch.optim.AdamW(trainer.model.parameters(), lr=1e-3, fused=True), []
    for _ in range(sizes.outer_steps):
        start = time.process_time()
        for _ in range(sizes.updates):
            trainer.model(stages, query).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        seconds.append((time.process_time() - start) / sizes.updates)
    return sorted(seconds[2:])[len(seconds[2:]) // 2]


def measure_trainer(sizes: Sizes) -> dict[str, Any]:
    """`trainer_over_bare` and `jax_over_ours`."""
    reason = "tiny sizes: the program has its own" if sizes is SMOKE else missing(MAML)
    with tempfile.TemporaryDirectory() as folder:
        sides = {name: partial(run, sizes, Path(folder) / name) for name, run in RUNS.items()}
        peer = {} if reason else {"jax": partial(peer_seconds, MAML)}
        found = in_turns({**sides, **peer}, max(1, sizes.repetitions // 3), "maml")
    name = f"meta-batch {sizes.tasks}, {sizes.shots} shots, 1 inner step"
    results = {"trainer_over_bare": summary({name: ratio_of(found, "trainer", "bare")}, at_most=1.25)}
    if reason:
        say(f"jax_over_ours 1/1: {reason}")
        return {**results, "jax_over_ours": {"skipped": reason}}
    return {**results, "jax_over_ours": summary({name: ratio_of(found, "trainer", "jax")}, at_most=3)}


RUNS: dict[str, Callable[[Sizes, Path], float]] = {"trainer": trainer_seconds, "bare": bare_seconds}


def table(results: Mapping[str, Any]) -> str:
    """What was measured."""
    lines = []
    if ways := results.get("vmap_over_loop"):
        lines += [
            f"vmap_over_loop {ways['ratio']:.1f} (target at least 5), {ways['tasks']} tasks, {ways['shots']} shots"
        ]
        for name, case in ways["cases"].items():
            speeds = ", ".join(f"{way} {speed:.0f}/s" for way, speed in case["meta_steps_per_second"].items())
            lines.append(f"  {name:<44}{case['ratio']:>6.1f}   {speeds}")
    if memory := results.get("second_over_first"):
        lines.append("second_over_first, peak bytes of tensors within a meta-step")
        for name, case in memory["cases"].items():
            kib = (case["second_bytes"] / 1024, case["first_bytes"] / 1024)
            lines.append(f"  {name:<44}{case['ratio']:>6.2f}   {kib[0]:.0f} KiB over {kib[1]:.0f} KiB")
    for key in ("trainer_over_bare", "jax_over_ours"):
        if one := results.get(key):
            target = "" if "skipped" in one else f"{one['ratio']:.2f} (target at most {one['target_at_most']})"
            lines.append(f"{key} {one.get('skipped', target)}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser("evals.speed.gradient", __doc__ or "")
    options.add_argument("--only", choices=["ways", "memory", "trainer"], help="one of the three measurements")
    ns = options.parse_args(argv)
    sizes = SMOKE if ns.smoke else Sizes()
    torch.set_num_threads(1)
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "ways": lambda: {"vmap_over_loop": measure_ways(sizes)},
        "memory": lambda: {"second_over_first": measure_memory(sizes)},
        "trainer": lambda: measure_trainer(sizes),
    }
    results: dict[str, Any] = {}
    for name, measured in measures.items():
        if ns.only in (None, name):
            results |= measured()
    show(results, ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
