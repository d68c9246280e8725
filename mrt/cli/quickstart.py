"""`mrt quickstart`: warm start, GRPO and MRT, evaluation and report on a laptop, offline, as ordinary commands.

    mrt train countdown/warmstart            a tiny model learns to search, in the form that reasoning traces have
    mrt train countdown/grpo | mrt_verifier  the same warm start finetuned twice, side by side, one thread each
    mrt eval  warmstart, grpo, mrt           on held-out problems, over a grid of token budgets
    mrt report                               the table, the figures and every trace

A family says what the warm start's attempts are like, and how MRT measures J.

After an interruption the same command resumes from there.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from mrt.errors import ConfigError
from mrt.runs.recipe import recipe_folder
from mrt.runs.rundir import differences, locked, read_run, write_json
from mrt.runs.steps import Progress, Step, StepRunner, count_lines, last_object

WARM_START, BASELINE, OURS = "warmstart", "grpo", "mrt"
ARMS = (WARM_START, BASELINE, OURS)
WIDTH = 2  # processes at a time


@dataclass(frozen=True)
class Scale:
    """How much of everything: samples a problem, held-out problems, token budgets, and overrides for the recipes."""

    n: int
    problems: int
    budgets: str
    overrides: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Family:
    """Attempts of one kind: the recipe of MRT's arm, overrides of the warm start, and what to know of the result."""

    ours: str
    warmstart: tuple[str, ...]
    note: str


FAMILIES = {
    "habits": Family(
        "mrt_verifier",
        ("args.adjust=0.3", "args.recheck=0.4"),
        "Attempts build on the one before or only repeat it. MRT sees which made progress: it forces two answers at "
        "boundaries, which the verifier of GRPO's reward grades. Both arms cost the same.",
    ),
    "three": Family(
        "mrt",
        (),
        "Attempts are independent, so progress says little that the outcome does not: on this family no difference "
        "between MRT and GRPO is expected. Both arms cost the same.",
    ),
}
FULL = Scale(n=4, problems=1000, budgets="0,15,30,45,60,75,90,105,120", overrides={})
FEW = ("args.max_steps=2", "args.per_device_train_batch_size=16")
SMOKE = Scale(n=2, problems=8, budgets="0,10,40", overrides=dict.fromkeys(ARMS, FEW))


def run_quickstart(out: Path, seed: int = 0, smoke: bool = False, family: str = "habits") -> dict[str, Any]:
    """Runs every step that is not finished yet and returns results, comparisons, timings and the report's path.

    Args:
        family: habits | three.

    Raises ConfigError when `out` was begun with other settings; StepFailed when a step's command fails.
    """
    scale = SMOKE if smoke else FULL
    with locked(out):
        _agree_on_settings(out, scale, seed, family)
        steps = [*(_training(out, arm, scale, seed, family) for arm in ARMS)]
        steps += [_evaluation(out, arm, scale, seed) for arm in ARMS]
        steps.append(_report(out, family))
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            timings = StepRunner(out, steps, WIDTH).run()
        finally:
            signal.signal(signal.SIGTERM, before)
    answer = _read(out / "logs" / "report.json")
    return {
        "results": [_read(out / "eval" / arm / "results.json") for arm in ARMS],
        "comparisons": answer["comparisons"],
        "baseline": BASELINE,
        "family": family,
        "note": FAMILIES[family].note,
        "report": str(out / "report.html"),
        "minutes": round(timings["seconds"] / 60, 2),
        "timings": timings,
    }


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _agree_on_settings(out: Path, scale: Scale, seed: int, family: str) -> None:
    """A quickstart is finished with the settings that it was begun with: finished steps are skipped and must agree."""
    recipes = {arm: hashlib.sha256(_recipe(arm, family).read_bytes()).hexdigest()[:12] for arm in ARMS}
    evaluation = {"n": scale.n, "problems": scale.problems, "budgets": scale.budgets}
    ours = {"seed": seed, "family": family, "smoke": scale is SMOKE, "evaluation": evaluation, "recipes": recipes}
    path = out / "quickstart.json"
    if path.is_file() and (theirs := _read(path)) != ours:
        raise ConfigError(
            f"{out} was begun with other settings ({'; '.join(differences(theirs, ours))}): "
            "choose another folder (--out), or remove that one"
        )
    write_json(path, ours)


def _recipe(arm: str, family: str) -> Path:
    name = FAMILIES[family].ours if arm == OURS else arm
    path = recipe_folder() / "countdown" / f"{name}.yaml"
    if not path.is_file():
        raise ConfigError(f"the recipe {path} is missing: is the installation complete?")
    return path


def _mrt(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "mrt", *map(str, arguments), "--json"]


def _training(out: Path, arm: str, scale: Scale, seed: int, family: str) -> Step:
    run_dir = out / arm
    overrides = [f"output_dir={run_dir}", f"seed={seed}", *scale.overrides.get(arm, ())]
    if arm == WARM_START:
        overrides += FAMILIES[family].warmstart
    else:
        overrides.append(f"model={out / WARM_START / 'model'}")
    return Step(
        name=arm,
        command=_mrt("train", _recipe(arm, family), *overrides),
        finished=lambda: read_run(run_dir).get("finished") is True,
        progress=lambda: _training_progress(run_dir),
        needs=() if arm == WARM_START else (WARM_START,),
        threads=min(WIDTH, os.cpu_count() or 1) if arm == WARM_START else 1,  # nothing runs beside the warm start
    )


def _training_progress(run_dir: Path) -> Progress:
    args = read_run(run_dir).get("recipe", {}).get("args", {})
    row = last_object(run_dir / "metrics.jsonl")
    note = next((f"{key} {row[key]:.3f}" for key in ("reward", "loss") if isinstance(row.get(key), int | float)), "")
    limit = args.get("max_cost")
    if limit:  # arms stop at equal cost, each after its own number of updates
        return Progress(min(100, round(100 * float(row.get("cost/total") or 0) / limit)), 100, note)
    return Progress(int(row.get("step") or 0), int(args.get("max_steps", 0)), note)


def _evaluation(out: Path, arm: str, scale: Scale, seed: int) -> Step:
    folder = out / "eval" / arm
    options = ("--n", scale.n, "--limit", scale.problems, "--budgets", scale.budgets, "--seed", seed)
    return Step(
        name=f"eval-{arm}",
        command=_mrt("eval", out / arm / "model", *options, "--name", arm, "--out", folder),
        finished=lambda: (folder / "results.json").is_file(),
        progress=lambda: Progress(count_lines(folder / "samples.jsonl"), scale.n * scale.problems),
        needs=(arm,),
    )


def _report(out: Path, family: str) -> Step:
    page, answer = out / "report.html", out / "logs" / "report.json"
    folders = [out / "eval" / arm for arm in ARMS]
    runs = [out / arm for arm in ARMS]
    title, note = "Countdown: MRT beside outcome GRPO", FAMILIES[family].note
    options = ("--baseline", BASELINE, "--title", title, "--note", note)
    return Step(
        name="report",
        command=_mrt("report", *folders, "--out", page, *options, "--runs", *runs),
        finished=lambda: page.is_file() and last_object(answer, tail=1 << 20).get("report") == str(page),
        needs=tuple(f"eval-{arm}" for arm in ARMS),
    )


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))
