"""What each `mrt` command does, between the command line and the library. Heavy imports wait for their command."""

import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, DataError
from mrt.report.tables import result_table


@dataclass(frozen=True)
class Outcome:
    """A command's answer: the object for --json, the text for a person, the exit code (0, or 1 for a problem found)."""

    payload: Mapping[str, Any] = field(default_factory=dict)
    text: str = ""
    code: int = 0


def say(message: str) -> None:
    """A line of progress for a person, never on stdout."""
    print(message, file=sys.stderr, flush=True)


def train(ns: Namespace) -> Outcome:
    """Trains what the recipe describes, from the newest whole checkpoint if there is one; `--seeds` runs one a seed,
    `--slurm` submits a job that trains.
    """
    from mrt.runs.recipe import load_recipe

    if ns.slurm:
        from mrt.cli.slurm import slurm_job

        return Outcome(*slurm_job(ns))
    if ns.dry_run:
        raise ConfigError("--dry-run goes with --slurm nodes=N; `mrt doctor RECIPE` checks a recipe for this machine")
    if ns.workers and ns.seeds is None:
        raise ConfigError("--workers N goes with --seeds: one run is one process (accelerate launch for several)")
    if ns.ray and not ns.workers:
        raise ConfigError("--ray goes with --workers N, the number of runs at a time")
    recipe = load_recipe(ns.recipe, ns.overrides, allow_code=ns.allow_code)
    if ns.seeds is None:
        return _train(ns, recipe)
    from mrt.cli.seeds import train_seeds

    return Outcome(*train_seeds(ns, recipe, _train))


def _train(ns: Namespace, recipe: Any) -> Outcome:
    from mrt.runs.recipe import import_trainer
    from mrt.runs.rundir import RunState, finish_run, inspect_run, locked, main_process, set_aside, start_run

    run_dir, main = Path(recipe.output_dir), main_process()
    if ns.fresh and main:
        with locked(run_dir):  # nothing is moved away under another process
            pass
        if aside := set_aside(run_dir):
            say(f"the earlier run is now {aside}")
    with locked(run_dir) if main else nullcontext():
        state = RunState.NEW if ns.fresh else inspect_run(run_dir, recipe)
        facts: dict[str, Any] = {"output_dir": str(run_dir), "model": str(run_dir / "model")}
        if state is RunState.FINISHED:
            text = f"{run_dir} is finished with this recipe: nothing to do (--fresh starts over)"
            return Outcome({"status": "already finished", **facts}, text) if main else Outcome()
        trainer = import_trainer(recipe.trainer, ns.allow_code).from_recipe(recipe, run_dir)
        if main:  # only now: a recipe that cannot be built leaves no trace
            start_run(run_dir, recipe, ns.command_line)
        steps, seconds, metrics, stopped = _fit(trainer, run_dir, resume=main and not ns.fresh)
        if not main:
            return Outcome()
        facts |= {"steps": steps, "seconds": seconds, "metrics": metrics}
        if stopped:
            text = f"stopped and saved after step {steps}, as asked: the same command resumes from there"
            return Outcome({"status": "stopped", **facts}, text)
        finish_run(run_dir, steps=steps, seconds=seconds, metrics=metrics)
    text = f"{steps} steps; this call took {seconds:.0f} s; the model is {run_dir / 'model'}"
    return Outcome({"status": "trained", **facts}, text)


def _fit(trainer: Any, run_dir: Path, resume: bool) -> tuple[int, float, dict[str, Any], bool]:
    """Steps, seconds, metrics, and whether the run was asked to save and end before it was done."""
    from mrt.training.checkpoint import newest_checkpoint
    from mrt.training.stopping import StopFile

    start = time.monotonic()
    checkpoint = newest_checkpoint(run_dir) if resume else None  # the main process tells the others
    if checkpoint is not None:
        say(f"resuming from {checkpoint}")
    stop = StopFile.of_environment()
    if stop is not None:
        trainer.add_callback(stop)
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    stopped = stop is not None and stop.seen
    if not stopped:
        trainer.save_model(str(run_dir / "model"))
    return int(trainer.state.global_step), round(time.monotonic() - start, 2), dict(result.metrics), stopped


def evaluate(ns: Namespace) -> Outcome:
    """Samples, grades and probes a model on held-out problems; samples that are already there are kept.

    With a suite of `kind: control` in place of the model: policies beside oracles on held-out tasks.
    """
    from mrt.reasoning.evaluation.command import evaluate as evaluate_reasoning
    from mrt.runs.rundir import locked, main_process
    from mrt.runs.suites import is_suite, read_suite

    ns.out = ns.out or (ns.model if ns.regrade else None)
    if ns.out is None:
        raise ConfigError("the following arguments are required: --out DIR")
    if is_suite(ns.model) and read_suite(ns.model)[0]["kind"] == "control":
        return _evaluate_control(ns)
    with locked(Path(ns.out)) if main_process() else nullcontext():
        results = evaluate_reasoning(ns, _problems_of)
    if "exported" in results:
        return Outcome(results, f"{results['exported']} problems; run them with: {results['command']}")
    return Outcome(results, result_table([results])) if results else Outcome()


def _evaluate_control(ns: Namespace) -> Outcome:
    """Policies beside oracles and baselines on held-out tasks; chunks that are already there are not played again."""
    from mrt.control.evaluation.report import write_report
    from mrt.control.evaluation.suites import load_suite, read_contender, run_suite, suite_table
    from mrt.runs.rundir import locked

    suite, out = load_suite(ns.model, ns.allow_code), Path(ns.out)
    named = [item.partition("=") if "=" in item else (None, "", item) for item in ns.policy]
    contenders = [read_contender(path, name or None, ns.allow_code) for name, _, path in named]
    with locked(out):
        results = run_suite(suite, contenders, out, count=ns.limit, seed=ns.seed, greedy=not ns.sampled)
        report_file = write_report(out)
    return Outcome(results, f"{suite_table(results)}\n\nthe report is {report_file}")


def _problems_of(ns: Namespace, dials: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The problem set and its options: as given, or those that the model was trained on."""
    from mrt.runs.rundir import read_run

    model = Path(ns.model)
    trained_on: dict[str, Any] = {}
    for run_dir in (model, model.parent):
        trained_on = trained_on or dict(read_run(run_dir).get("recipe", {}).get("problems") or {})
    name = ns.problems or trained_on.get("name")
    if not name:
        raise ConfigError(f"{ns.model} is not in a run directory: name the problem set (--problems countdown)")
    before = {k: v for k, v in trained_on.items() if k != "name"} if name == trained_on.get("name") else {}
    return name, {**before, **dials}


def report(ns: Namespace) -> Outcome:
    """Writes report.html over evaluations and runs, each evaluation compared with the baseline."""
    from mrt.report.page import write_report

    evals = [Path(folder) for folder in ns.evals]
    comparisons = []
    if len(evals) > 1 and all((folder / "results.json").is_file() for folder in evals):
        from mrt.reasoning.evaluation.run import compare as compare_evals

        named = {_result(folder)["name"]: folder for folder in evals}
        if ns.baseline is None or ns.baseline in named:
            baseline = named.get(ns.baseline, evals[0])
            comparisons = [compare_evals(folder, baseline) for folder in evals if folder != baseline]
    out = write_report(
        Path(ns.out),
        evals,
        runs=[Path(folder) for folder in ns.runs],
        title=ns.title,
        note=ns.note,
        baseline=ns.baseline,
        comparisons=comparisons,
    )
    return Outcome({"report": str(out), "comparisons": comparisons}, f"the report is {out}")


def compare(ns: Namespace) -> Outcome:
    """Compares evaluation A with B on the problems that both saw (paired bootstrap)."""
    from mrt.reasoning.evaluation.run import compare as compare_evals

    folders = [Path(ns.a), Path(ns.b)]
    results = [_result(folder) for folder in folders]
    found = compare_evals(*folders)
    return Outcome(found, result_table(results[::-1], [found], baseline=results[1]["name"]))


def _result(folder: Path) -> dict[str, Any]:
    from mrt.report.data import read_json

    results = read_json(folder / "results.json")
    if not results:
        raise DataError(f"{folder} holds no finished evaluation (results.json): write one with `mrt eval`")
    return {"name": folder.name, **results}


def probe(ns: Namespace) -> Outcome:
    """J after every episode, and the regret, of traces from anywhere."""
    from mrt.reasoning.inference.score_traces import probe_file

    found = probe_file(
        Path(ns.traces),
        model=ns.model,
        probe=ns.probe,
        out=Path(ns.out) if ns.out else None,
        seed=ns.seed,
        samples=ns.samples,
        segmenter=ns.segmenter,
        columns=_columns(ns.columns),
        boxes=ns.boxes,
        limit=ns.limit,
    )
    lines = [f"{key}: {value}" for key, value in found.items() if not isinstance(value, list | dict)]
    return Outcome(found, "\n".join(lines))


def merge(ns: Namespace) -> Outcome:
    """One model of an adapter (LoRA) and its base model, which loads without peft."""
    from mrt.reasoning.models.adapters import merge_adapter

    folder = Path(ns.run) / "model" if (Path(ns.run) / "model").is_dir() else Path(ns.run)
    out = merge_adapter(folder, ns.out or Path(ns.run) / "merged")
    return Outcome({"model": str(out)}, f"merged model: {out}")


def grade(ns: Namespace) -> Outcome:
    """Verdicts for a file of answers; exit code 1 where gold answers cannot be used."""
    from mrt.reasoning.grading.grade_file import grade_file, grade_table

    out = Path(ns.out) if ns.out else None
    found = grade_file(ns.file, _columns(ns.columns), out, ns.answer_after, boxes=ns.boxes, workers=ns.workers)
    return Outcome(found, grade_table(found), code=int(bool(found["unreadable"])))


def _columns(text: str) -> dict[str, str]:
    """{role: column} from `gold=a,answer=b`."""
    return dict(item.partition("=")[::2] for item in text.split(",") if item)


def generate(ns: Namespace) -> Outcome:
    """One answer, its thinking stopped at a budget or once J has flattened."""
    prompt = ns.prompt if ns.prompt is not None else sys.stdin.read()
    if not prompt.strip():
        raise ConfigError("no prompt: give --prompt TEXT, or write it to standard input")
    from mrt.reasoning.inference.generate import generate as generate_answer

    found = generate_answer(
        model=ns.model, prompt=prompt, budget=ns.budget, flat=ns.flat, seed=ns.seed, temperature=ns.temperature
    )
    return Outcome(found, str(found["text"]))


def doctor(ns: Namespace) -> Outcome:
    """Whether this machine, this installation and, where one is named, this recipe can work."""
    from mrt.cli.doctor import FAILED, examine, render

    checks = examine(ns.recipe, ns.overrides, ns.allow_code, ns.price)
    failed = any(check.status == FAILED for check in checks)
    payload = {"ok": not failed, "checks": [vars(check) for check in checks]}
    return Outcome(payload, render(checks), code=int(failed))


def quickstart(ns: Namespace) -> Outcome:
    """Warm start, GRPO and MRT, evaluation and report, from nothing."""
    from mrt.cli.quickstart import run_quickstart
    from mrt.runs.steps import StepFailed

    try:
        found = run_quickstart(Path(ns.out), seed=ns.seed, smoke=ns.smoke, family=ns.family)
    except StepFailed as error:
        return Outcome({"error": str(error), "kind": "StepFailed", "exit_code": 1}, f"mrt: {error}", code=1)
    table = result_table(found["results"], found["comparisons"], found["baseline"])
    ending = f"{found['minutes']:.1f} minutes; the report is {found['report']}"
    return Outcome(found, f"{table}\n\n{found['note']}\n{ending}")
