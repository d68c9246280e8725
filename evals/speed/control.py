"""What control costs: acting with a cache, stepping on tensors, whole training loops, updates on longer trials.

    python -m evals.speed.control             a table
    python -m evals.speed.control --json      the same as one object

cached_over_reread            Acting through 64 trials of 500 steps, transformer 128 x 4: a pass over the whole history
                              for each step, over one step with keys and values kept. Wall clock. Of the passes every
                              20th step's is run and stands for 20.
tensor_over_sync              Wall clock of an environment step with random actions: plain-Python Gymnasium environments
                              in a `SyncVectorEnv` over the tensor environment with 4,096 tasks; drawing tasks and
                              beginning again are part of both. The number of plain ones is what suits them best.
rl2_steps_per_second          Environment steps a second of CPU time of the whole loop of `ControlTrainer` (collecting,
                              PPO with 4 epochs of 2 minibatches, logging), GRU 48 on the bandit and 64 on GridNavi, and
                              where the time goes. `ratio` is over the aim, a third of what a JAX implementation does.
in_context_steps_per_second   The same for a transformer 2 x 64, trials of 125 steps, one epoch. `ratio` is over 2,830.
jax_over_ours                 CPU seconds of a collection with its four full-batch updates in the whole loop of
                              `ControlTrainer` over those of a JAX program that is compiled whole (`evals.speed.peers`).
update_exponent               One update (forward, backward) on 32 trials of 100 to 800 steps, width 64: `ratio` is the
                              exponent of the time in the length, least squares; `last` between the two longest.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from evals.speed.common import Clock, Timed, compare, interleaved, parser, say, show, summary
from evals.speed.peers import BANDIT, GRID, RL2, in_turns, missing, peer_seconds, ratio_of, rl2_collection
from mrt.control import trainer as control_trainer
from mrt.control.envs import make_tasks
from mrt.control.interaction import first_inputs
from mrt.control.policy import ControlPolicy
from mrt.control.rollout import rollout
from mrt.control.trainer import ControlConfig, ControlTrainer
from mrt.version import install_command

PARTS = ("acting", "environment", "recording", "bounds", "credit", "loss", "backward", "optimiser", "rest")
JAX = {"bandit": 120_000, "GridNavi": 86_000}  # steps a second, measured on this kind of machine
AMAGO = 283
TENSORS: dict[str, dict[str, Any]] = {
    "bernoulli-bandit": {"arms": 5, "pulls": 10},
    "grid-navi": {"episodes": 4},
    "dark-room": {"size": 9, "steps": 20, "episodes": 4},
}


@dataclass(frozen=True)
class Sizes:
    """How long is measured, and on what."""

    trials: int = 64
    steps: int = 500
    every: int = 20
    shape: tuple[int, int, int] = (128, 4, 4)  # width, layers, heads
    tasks: int = 4096
    plain: tuple[int, ...] = (16, 256)
    calls: int = 4000  # environment steps of the plain side, a repetition
    tensor_calls: int = 200  # steps of all tensor rows at once, a repetition
    updates: int = 64
    skipped: int = 16
    rows: int = 512
    lengths: tuple[int, ...] = (100, 200, 400, 800)
    update_rows: int = 32
    repetitions: int = 3


SMOKE = Sizes(
    trials=2, steps=6, every=2, shape=(8, 1, 2), tasks=8, plain=(2,), calls=40, tensor_calls=20, updates=8,
    skipped=8, rows=8, lengths=(8, 16), update_rows=2, repetitions=1,
)  # fmt: skip


# ---- acting


def measure_cache(sizes: Sizes) -> dict[str, Any]:
    """`cached_over_reread`."""
    width, layers, heads = sizes.shape
    env = make_tasks("bernoulli-bandit", arms=5, pulls=sizes.steps).env
    options = {"layers": layers, "heads": heads}
    policy = ControlPolicy.for_spec(env.spec, memory="transformer", hidden_size=width, memory_options=options).eval()
    actions = torch.randint(5, (sizes.trials, sizes.steps))
    seen = first_inputs(env.spec, torch.ones(sizes.trials, 1))
    inputs = {name: value[:, None].expand(-1, sizes.steps, *value.shape[1:]).clone() for name, value in seen.items()}
    inputs["action"][:, 1:] = actions[:, :-1]
    inputs["reward"][:, 1:] = (actions[:, :-1] == 0).float()

    @torch.no_grad()
    def cached() -> torch.Tensor:
        state, logits = policy.init_state(sizes.trials), []
        for t in range(sizes.steps):
            heads, state = policy.step({name: value[:, t] for name, value in inputs.items()}, state)
            logits.append(heads.logits)
        return torch.stack(logits, 1)

    @torch.no_grad()
    def reread() -> torch.Tensor:
        ends = range(sizes.every, sizes.steps + 1, sizes.every)
        return torch.stack([policy({n: v[:, :t] for n, v in inputs.items()}).logits[:, -1] for t in ends], 1)

    sides = {"cached": cached, "reread": reread}
    timed = interleaved(list(sides), lambda name, _: sides[name], sizes.repetitions, "acting")
    apart = (timed["cached"].result[:, sizes.every - 1 :: sizes.every] - timed["reread"].result).abs().max()
    case = compare(per(timed["reread"], 1 / sizes.every), timed["cached"], ("reread", "cached"))
    case |= {
        "largest_difference": float(apart),
        "steps_per_second": sizes.trials * sizes.steps / case["cached_seconds"],
    }
    name = f"{sizes.trials} trials of {sizes.steps} steps, transformer {width} x {layers}"
    return summary({name: case}, at_least=20)


def per(timed: Timed, count: float) -> Timed:
    """The same, divided: seconds of one of `count` things."""
    return Timed([w / count for w in timed.wall], [c / count for c in timed.cpu], timed.result)


# ---- stepping


def measure_tensors(sizes: Sizes) -> dict[str, Any]:
    """`tensor_over_sync`, or why it was not measured."""
    try:
        from gymnasium.vector import SyncVectorEnv

        from evals.speed.plain_envs import PLAIN
    except ImportError:
        say("tensor_over_sync 1/1: Gymnasium is not installed")
        return {"skipped": f"Gymnasium is not installed: {install_command('control')}"}
    cases = {}
    for name, dials in TENSORS.items():
        tasks = make_tasks(name, **dials)
        spec = tasks.env.spec
        calls = spec.trial_steps + spec.episodes - 1
        draws = torch.randint(spec.actions, (calls, sizes.tasks))

        def tensor(tasks: Any = tasks, draws: Any = draws) -> int:
            rounds = max(1, sizes.tensor_calls // len(draws))  # a bandit's ten steps alone are over in a millisecond
            for number in range(rounds):
                tasks.env.reset(tasks.batch(number, range(sizes.tasks)), number)
                for actions in draws:
                    tasks.env.step(actions)
            return rounds * draws.numel()

        def sync(count: int, name: str = name) -> int:
            rounds = max(1, sizes.calls // count)
            vector = SyncVectorEnv([PLAIN[name]] * count)
            chosen = np.random.default_rng(0).integers(5, size=(rounds, count))
            vector.reset(seed=0)
            for actions in chosen:
                vector.step(actions)
            return rounds * count

        sides = {"tensor": tensor, **{f"{count} plain": partial(sync, count) for count in sizes.plain}}
        timed = interleaved(list(sides), lambda side, _, sides=sides: sides[side], sizes.repetitions, name)  # type: ignore[misc]
        timed = {side: per(one, one.result) for side, one in timed.items()}
        best = min(list(sides)[1:], key=lambda side, timed=timed: min(timed[side].wall))  # type: ignore[misc]
        case = compare(timed[best], timed["tensor"], ("sync", "tensor"))
        rates = {f"{side}_steps_per_second": 1 / case[f"{side}_seconds"] for side in ("sync", "tensor")}
        cases[name] = case | rates | {"plain": best}
    return summary(cases, at_least=50)


# ---- the whole loop


class Window(TrainerCallback):
    """Starts the clock after `first` updates and reads it after `last`."""

    def __init__(self, clock: Clock, trainer: ControlTrainer, first: int, last: int) -> None:
        self.clock, self.trainer, self.first, self.last = clock, trainer, first, last
        self.begun = self.steps = 0.0
        self.seconds: dict[str, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.first:
            self.begun = self.trainer.cost.total["env_steps"]
            self.clock.start()
        elif state.global_step == self.last:
            self.clock.charge()
            self.steps = self.trainer.cost.total["env_steps"] - self.begun
            self.seconds = {part: self.clock.seconds[part] for part in PARTS}


@contextmanager
def watched(trainer: ControlTrainer, clock: Clock) -> Iterator[None]:
    """Within it the parts of the loop are counted."""
    bounds = next(name for name in ("episode_bounds",) if hasattr(control_trainer, name))
    places: list[tuple[Any, str, str]] = [
        (trainer.policy, "act", "acting"),
        (trainer.tasks.env, "step", "environment"),
        (control_trainer, "rollout", "recording"),
        (control_trainer, bounds, "bounds"),
        (trainer, "losses", "loss"),
        (torch.Tensor, "backward", "backward"),
        (trainer, "weighed", "credit"),
        (torch.optim.AdamW, "step", "optimiser"),
    ]
    with ExitStack() as stack:
        for owner, name, part in places:
            stack.enter_context(mock.patch.object(owner, name, clock.around(part, getattr(owner, name))))
        yield


def measure_loop(
    folder: Path, tasks: Mapping[str, Any], policy: Mapping[str, Any], sizes: Sizes, **args: Any
) -> dict[str, Any]:
    """Steps a second of `ControlTrainer`, and the shares of its parts."""
    distribution, each = make_tasks(**tasks), args.get("updates_per_step", 1)
    skipped, last = sizes.skipped // each, (sizes.skipped + sizes.updates) // each
    config = ControlConfig(
        output_dir=str(folder), max_steps=last, learning_rate=1e-3, entropy=0.02, save_strategy="no", report_to=[],
        use_cpu=True, disable_tqdm=True, logging_steps=max(8 // each, 1), **args,
    )  # fmt: skip
    trainer = ControlTrainer(ControlPolicy.for_spec(distribution.env.spec, **policy), config, distribution)
    trainer.remove_callback(PrinterCallback)
    clock = Clock()
    window = Window(clock, trainer, skipped, last)
    trainer.add_callback(window)
    with watched(trainer, clock):
        trainer.train()
    total = sum(window.seconds.values())
    shares = {part: seconds / total for part, seconds in window.seconds.items()}
    return {
        "steps_per_second": window.steps / total,
        "loop_seconds": total,
        "clock": "cpu",
        "env_steps": window.steps,
        "updates": sizes.updates,
        "shares": shares,
        "rows": config.per_device_train_batch_size,
        "epochs": config.epochs,
        "minibatches": config.minibatches,
    }


def measure_rl2(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """`rl2_steps_per_second`."""
    ppo = {"epochs": 4, "minibatches": 2, "updates_per_step": 8, "per_device_train_batch_size": sizes.rows}
    setups = {
        "bandit": ({"name": "bernoulli-bandit", "arms": 5, "pulls": 10}, 48),
        "GridNavi": ({"name": "grid-navi", "episodes": 4}, 64),
    }
    cases = {}
    for name, (tasks, width) in setups.items():
        found = measure_loop(folder / name, tasks, {"memory": "gru", "hidden_size": width}, sizes, **ppo)
        cases[name] = found | {"ratio": found["steps_per_second"] * 3 / JAX[name], "aim": JAX[name] / 3}
        say(f"{name} 1/1: {found['steps_per_second']:,.0f} steps a second")
    return summary(cases, at_least=1)


def measure_peers(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """`jax_over_ours`, or why it was not measured."""
    cases = {}
    for name, peer, rows, steps in (("bandit", BANDIT, 512, 40), ("GridNavi", GRID, 256, 14)):
        if reason := "tiny sizes: the programs have their own" if sizes is SMOKE else missing(peer):
            say(f"jax_over_ours 1/1: {reason}")
            return {"skipped": reason}
        sides = {"jax": partial(peer_seconds, peer), "ours": partial(rl2_collection, name, steps, rows, folder / name)}
        found = in_turns(sides, sizes.repetitions, name)
        environment = rows * make_tasks(**RL2[name][0]).env.spec.trial_steps
        case = ratio_of(found, "ours", "jax")
        cases[name] = case | {"steps_per_second": environment / case["ours_seconds"], "rows": rows, "epochs": 4}
    return summary(cases, at_most=2)


def measure_in_context(sizes: Sizes, folder: Path) -> dict[str, Any]:
    """`in_context_steps_per_second`."""
    policy = {"memory": "transformer", "hidden_size": 64, "memory_options": {"layers": 2, "heads": 4}}
    tasks = {"name": "dark-room", "size": 9, "steps": 25, "episodes": 5}
    few = replace(sizes, updates=max(sizes.updates // 8, 8), skipped=8)
    found = measure_loop(folder, tasks, policy, few, per_device_train_batch_size=min(sizes.rows, 64))
    say(f"in context 1/1: {found['steps_per_second']:,.0f} steps a second")
    case = found | {"ratio": found["steps_per_second"] / (10 * AMAGO), "aim": 10 * AMAGO}
    return summary({"transformer 2 x 64, 125 steps": case}, at_least=1)


# ---- longer trials


def measure_update(sizes: Sizes) -> dict[str, Any]:
    """`update_exponent`."""
    cases = {}
    for memory in ("gru", "lstm", "transformer"):
        sides = {str(length): updater(memory, length, sizes) for length in sizes.lengths}
        timed = interleaved(list(sides), lambda name, _, sides=sides: sides[name], sizes.repetitions, memory)  # type: ignore[misc]
        seconds = [min(timed[str(length)].cpu) for length in sizes.lengths]
        logs = [(math.log(length), math.log(time)) for length, time in zip(sizes.lengths, seconds, strict=True)]
        slope = float(np.polyfit([x for x, _ in logs], [y for _, y in logs], 1)[0])
        (x0, y0), (x1, y1) = logs[-2:]
        by_length = dict(zip(map(str, sizes.lengths), seconds, strict=True))
        cases[memory] = {"ratio": slope, "last": (y1 - y0) / (x1 - x0), "clock": "cpu", "seconds_by_length": by_length}
    return summary(cases)


def updater(memory: str, length: int, sizes: Sizes) -> Callable[[], None]:
    """One update on trials of `length` steps, with whatever it needs made beforehand."""
    tasks = make_tasks("bernoulli-bandit", arms=5, pulls=length)
    policy = ControlPolicy.for_spec(tasks.env.spec, memory=memory, hidden_size=64)
    fresh = ControlPolicy.for_spec(tasks.env.spec, memory="none", hidden_size=8)  # whoever acts: it is not measured
    trials = rollout(tasks.env, fresh, tasks.batch(0, range(sizes.update_rows)))

    def update() -> None:
        heads = policy(trials.inputs)
        logprobs = policy.distribution.logprob(heads.logits, trials.actions)
        ((logprobs + heads.values.square()) * trials.mask).mean().backward()
        policy.zero_grad(set_to_none=True)

    update()
    return update


# ---- what is printed


def table(results: Mapping[str, Any]) -> str:
    """What was measured."""
    return "\n".join(line for key, lines in LINES.items() if key in results for line in lines(results[key]))


def _ratios(key: str, result: Mapping[str, Any]) -> list[str]:
    if "skipped" in result:
        return [f"{key}: {result['skipped']}"]
    bound = "least" if "target_at_least" in result else "most"
    lines = [f"{key} {result['ratio']:.2f} (target at {bound} {result[f'target_at_{bound}']})"]
    return lines + [f"  {name}: {case['ratio']:.2f}" for name, case in result["cases"].items()]


def _rates(key: str, result: Mapping[str, Any]) -> list[str]:
    lines = [f"{key}, CPU time"]
    for name, case in result["cases"].items():
        shares = ", ".join(f"{part} {share:.0%}" for part, share in case["shares"].items())
        lines += [f"  {name}: {case['steps_per_second']:,.0f} (aim {case['aim']:,.0f})", f"    {shares}"]
    return lines


def _exponents(key: str, result: Mapping[str, Any]) -> list[str]:
    cases = result["cases"].items()
    return [
        key,
        *(f"  {name}: {case['ratio']:.2f}, between the longest two {case['last']:.2f}" for name, case in cases),
    ]


LINES = {
    "cached_over_reread": partial(_ratios, "cached_over_reread"),
    "tensor_over_sync": partial(_ratios, "tensor_over_sync"),
    "rl2_steps_per_second": partial(_rates, "rl2_steps_per_second"),
    "jax_over_ours": partial(_ratios, "jax_over_ours"),
    "in_context_steps_per_second": partial(_rates, "in_context_steps_per_second"),
    "update_exponent": partial(_exponents, "update_exponent"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    options = parser("evals.speed.control", __doc__ or "")
    options.add_argument("--only", choices=list(LINES), help="one of them")
    options.add_argument("--repetitions", type=int, help=f"instead of {Sizes.repetitions}")
    ns = options.parse_args(argv)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes = SMOKE if ns.smoke else Sizes()
    sizes = replace(sizes, repetitions=ns.repetitions) if ns.repetitions else sizes
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        measures: dict[str, Callable[[], dict[str, Any]]] = {
            "cached_over_reread": lambda: measure_cache(sizes),
            "tensor_over_sync": lambda: measure_tensors(sizes),
            "rl2_steps_per_second": lambda: measure_rl2(sizes, Path(folder) / "rl2"),
            "jax_over_ours": lambda: measure_peers(sizes, Path(folder) / "peers"),
            "in_context_steps_per_second": lambda: measure_in_context(sizes, Path(folder) / "context"),
            "update_exponent": lambda: measure_update(sizes),
        }
        for key, measured in measures.items():
            if ns.only in (None, key):
                results[key] = measured()
    show(results, ns.json, table)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
