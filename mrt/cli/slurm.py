"""`mrt train RECIPE --slurm ...`: what can be checked of a job before it waits in a queue, and its file."""

import os
import re
import shutil
import subprocess
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError
from mrt.runs.fields import field_types, is_secret, show
from mrt.runs.recipe import Recipe, import_trainer, load_recipe, recipe_folder
from mrt.runs.slurm import Job, batch_script, launch_arguments, parse_job, serve_arguments

FILE = "train.sbatch"
SERVED = ("args.use_vllm=true", "args.vllm_mode=server")
ANY_SERVER = "args.vllm_server_base_url=http://localhost:8000"  # the job knows where its own is
OF_A_LOGIN_NODE = ("bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval")  # it may have no GPU


def slurm_job(ns: Namespace) -> tuple[dict[str, Any], str]:
    """Writes and submits the job; with --dry-run only shows its script. The facts for --json, and what is printed.

    Raises:
        ConfigError: for a job or a recipe that cannot run, before anything is written; where there is no sbatch, naming
            the file that was written.
    """
    from mrt.runs.rundir import RunState, inspect_run

    for name in ("fresh", "seeds"):
        if getattr(ns, name):
            raise ConfigError(
                f"--{name} does not go with --slurm, whose job starts again by the same command: move the old folder "
                "aside, and submit a job for every seed (seed=1 output_dir=runs/seed1)"
            )
    job = parse_job(ns.slurm)
    recipe = _checked_recipe(ns, job)
    run_dir = Path(recipe.output_dir)
    script = _script(ns, job, recipe)
    facts: dict[str, Any] = {"output_dir": recipe.output_dir, "nodes": job.nodes, "processes": job.processes}
    if ns.dry_run:
        return {"status": "dry run", **facts, "script": script}, script.rstrip("\n")
    if inspect_run(run_dir, recipe) is RunState.FINISHED:
        return {"status": "already finished", **facts}, f"{run_dir} is finished with this recipe: nothing to do"
    file = run_dir / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(script, encoding="utf-8")
    return {"status": "submitted", **facts, "script": str(file), "said": (said := _submit(file))}, f"{said} ({file})"


def _submit(file: Path) -> str:
    if shutil.which("sbatch") is None:
        raise ConfigError(f"there is no sbatch on this machine: {file} is written, submit it by `sbatch {file}` there")
    done = subprocess.run(["sbatch", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(f"sbatch refused {file}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.strip()


# ---- what can be wrong


def _checked_recipe(ns: Namespace, job: Job) -> Recipe:
    """The recipe as the trainers will have it, checked as far as a machine without GPUs can."""
    for item in ns.overrides:
        key = item.partition("=")[0]
        if is_secret(key):
            raise ConfigError(f"{show(key)} would stand in the script: set it in the environment (HF_TOKEN), not here")
    recipe = load_recipe(ns.recipe, ns.overrides, allow_code=ns.allow_code)
    args_class = import_trainer(recipe.trainer, ns.allow_code).args_class()
    if job.vllm:
        if "use_vllm" not in field_types(args_class):
            raise ConfigError(f"--slurm vllm={job.vllm}: {recipe.trainer} samples without vLLM. Cure: vllm=0")
        recipe = load_recipe(ns.recipe, [*ns.overrides, *SERVED, ANY_SERVER], allow_code=ns.allow_code)
    _check_args(recipe, args_class, job)
    _check_model(recipe, job)
    if recipe.problems:
        from mrt.reasoning.problems import load_problems

        load_problems(recipe.problems["name"], **{k: v for k, v in recipe.problems.items() if k != "name"})
    return recipe


def _check_args(recipe: Recipe, args_class: type, job: Job) -> None:
    """The trainer's own checks, for as many processes as the job will have: batches divide by them."""
    planned = type(args_class.__name__, (args_class,), {"world_size": property(lambda self: job.processes)})
    plain = {key: value for key, value in recipe.args.items() if key not in OF_A_LOGIN_NODE}
    args = replace(recipe, args=plain).build_args(planned, Path(recipe.output_dir))
    group = getattr(args, "num_generations", None)
    if group:
        from mrt.credit.grouping import check_group_size

        rows = args.per_device_train_batch_size * int(args.steps_per_generation or 1)
        check_group_size(rows, group, job.processes)


def _check_model(recipe: Recipe, job: Job) -> None:
    """A model that is a folder is there, and whole where vLLM is to serve it."""
    if not recipe.model:
        return
    from mrt.reasoning.models.gguf_files import gguf_file

    folder, gguf = Path(recipe.model), gguf_file(recipe.model)
    if recipe.model.startswith((".", "/", "~", "runs/")) and gguf is None and not folder.is_dir():
        raise ConfigError(f"there is no model {recipe.model}: train or fetch it first, or set model=PATH")
    if job.vllm and (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise ConfigError(f"vLLM serves whole models, and {folder} is an adapter: `mrt merge {folder}` writes one")


# ---- the script


def _script(ns: Namespace, job: Job, recipe: Recipe) -> str:
    job = replace(job, name=job.name or re.sub(r"[^\w.-]+", "-", recipe.output_dir.removeprefix("runs/")).strip("-"))
    train = ["-m", "mrt", "train", ns.recipe, *(["--allow-code"] if ns.allow_code else []), *ns.overrides]
    serve: list[str] = []
    if job.vllm:
        train += SERVED
        serve = serve_arguments(job, _served_model(recipe), _of_the_server(recipe))
    launch = launch_arguments(job, _config(job))
    return batch_script(job, recipe.output_dir, ns.recipe, launch=launch, train=train, serve=serve)


def _served_model(recipe: Recipe) -> str:
    """What `vllm serve` takes; a GGUF file is converted here, once."""
    from mrt.reasoning.models.gguf_files import gguf_file, resolve_model

    return resolve_model(recipe.model) if gguf_file(recipe.model) else recipe.model


def _of_the_server(recipe: Recipe) -> Sequence[str]:
    """Arguments of the trainer that are the server's where there is one."""
    args, extra = recipe.args, []
    if args.get("vllm_max_model_length"):
        extra += ["--max-model-len", str(args["vllm_max_model_length"])]
    return [*extra, *(["--trust-remote-code"] if args.get("trust_remote_code") else [])]


def _config(job: Job) -> str:
    """The accelerate configuration as a path: relative where it lies below the working folder, as all paths here."""
    folder = recipe_folder() / "accelerate"
    name = job.config or ("multi_gpu" if job.processes > 1 else "single_gpu")
    path = Path(name) if Path(name).is_file() else folder / f"{name}.yaml"
    if not path.is_file():
        valid = sorted(one.stem for one in folder.glob("*.yaml") if one.stem != "cpu")
        raise ConfigError(f"--slurm: config={show(name)} is neither a file nor one of {', '.join(valid)}")
    if name == "single_gpu" and job.processes > 1:
        raise ConfigError(f"--slurm: config=single_gpu with {job.processes} processes: take multi_gpu, fsdp2 or zero3")
    here = os.path.relpath(path)
    return str(path.resolve()) if here.startswith("..") else here
