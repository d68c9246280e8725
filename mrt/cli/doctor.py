"""`mrt doctor`: finds what would stop a run, before the run does. Loads neither torch nor transformers."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mrt.errors import MRTError
from mrt.version import DISTRIBUTION, checkout_project, install_command, version

GOOD, NOTE, FAILED = "ok", "note", "failed"
GIB = 2**30
MEMORY_GIB = 4.0  # what the quickstart may take
DISK_GIB = 2.0
OFFLINE_FLAGS = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class Check:
    """One thing looked at: `ok`, `note` (nothing is broken) or `failed`, and the cure where there is one."""

    name: str
    status: str
    found: str
    cure: str = ""


def examine(
    recipe: str | None = None, overrides: Sequence[str] = (), allow_code: bool = False, price: float | None = None
) -> list[Check]:
    """Every check of the machine and the installation, and of a recipe if one is named: memory, time, cost.

    Args:
        price: of this machine per hour, in any currency.
    """
    checks = [_python(), *_packages(), _threads(), _memory(), _disk(), _writable(), _network()]
    if recipe is not None:
        checks += _recipe(recipe, overrides, allow_code, price)
    return checks


def render(checks: Sequence[Check]) -> str:
    """The checks as lines for a terminal, the cure under what failed."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.status:6}  {check.name.ljust(width)}  {check.found}")
        if check.cure and check.status != GOOD:
            lines.append(f"{'':6}  {'':{width}}  -> {check.cure}")
    failed = sum(check.status == FAILED for check in checks)
    return "\n".join([*lines, "", f"{failed} of {len(checks)} checks failed" if failed else "no problems found"])


def _python() -> Check:
    return Check("python", GOOD, f"{sys.version.split()[0]} ({sys.executable})")


def _packages() -> Iterator[Check]:
    """Each dependency against the range that mrt declares; each extra as a whole."""
    try:
        installed = metadata.metadata(DISTRIBUTION)
        declared, names = metadata.requires(DISTRIBUTION) or [], installed.get_all("Provides-Extra") or []
        yield Check("mrt", GOOD, version())
    except metadata.PackageNotFoundError:
        project = checkout_project()
        declared, names = list(project.get("dependencies", [])), list(project.get("optional-dependencies", {}))
        for name in names:
            declared += [_of_extra(line, name) for line in project["optional-dependencies"][name]]
        found, cure = (
            f"{version()}, {DISTRIBUTION} is not installed in this Python",
            "in the checkout, run `make install`",
        )
        yield Check("mrt", NOTE if project else FAILED, found, f"{cure}, or `pip install -e .`")
    try:
        from packaging.requirements import Requirement
    except ModuleNotFoundError:
        yield Check("packaging", FAILED, "not installed", "pip install packaging")
        return
    extras: dict[str, list[str]] = {name: [] for name in names}
    for requirement in map(Requirement, declared):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _package(requirement.name, str(requirement.specifier))
            continue
        for extra, missing in extras.items():
            if requirement.marker.evaluate({"extra": extra}):
                check = _package(requirement.name, str(requirement.specifier))
                missing += [requirement.name] if check.status == FAILED else []
    for extra, missing in extras.items():
        found = f"not installed ({', '.join(missing)})" if missing else "installed"
        cure = f"optional: {install_command(extra)}, or `pip install -e '.[{extra}]'` in a checkout"
        yield Check(f"[{extra}]", NOTE if missing else GOOD, found, cure)


def _of_extra(requirement: str, extra: str) -> str:
    """The requirement with the marker that a wheel's metadata would give it."""
    name, _, marker = requirement.partition(";")
    return f"{name} ; ({marker}) and extra == '{extra}'" if marker else f"{name} ; extra == '{extra}'"


def _package(name: str, wanted: str) -> Check:
    from packaging.specifiers import SpecifierSet

    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, FAILED, "not installed", f"pip install '{name}{wanted}'")
    if not SpecifierSet(wanted, prereleases=True).contains(version.split("+")[0]):
        return Check(name, FAILED, f"{version}, mrt supports {wanted}", f"pip install '{name}{wanted}'")
    return Check(name, GOOD, f"{version} (supported {wanted or 'any'})")


def _threads() -> Check:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is None:
        cure = (
            "with several runs, or on a busy machine, set OMP_NUM_THREADS=1: contending threads are many times slower"
        )
        return Check("threads", NOTE, f"{cores} cores, OMP_NUM_THREADS is not set", cure)
    return Check("threads", GOOD, f"{cores} cores, OMP_NUM_THREADS={threads}")


def _memory() -> Check:
    try:
        import psutil
    except ModuleNotFoundError:  # doctor is what one runs when something is missing
        return Check("memory", NOTE, "not known without psutil")
    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}"
    if memory.available < MEMORY_GIB * GIB:
        return Check("memory", NOTE, found, f"the quickstart may need {MEMORY_GIB:.0f} GiB: close other programs")
    return Check("memory", GOOD, found)


def _disk() -> Check:
    free = shutil.disk_usage(Path.cwd()).free
    if free < DISK_GIB * GIB:
        return Check(
            "disk", FAILED, f"{free / GIB:.1f} GiB free here", f"a run with its checkpoints needs {DISK_GIB:.0f} GiB"
        )
    return Check("disk", GOOD, f"{free / GIB:.1f} GiB free here")


def _writable() -> Check:
    folder = Path("runs") if Path("runs").is_dir() else Path.cwd()
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mrt-doctor-"):
            return Check("write access", GOOD, str(folder))
    except OSError as error:
        return Check(
            "write access", FAILED, f"{folder}: {error.strerror}", "change to a folder of your own, or set output_dir"
        )


def _network() -> Check:
    flags = [name for name in OFFLINE_FLAGS if os.environ.get(name, "0").lower() in ("1", "true", "yes", "on")]
    found = f"offline ({', '.join(flags)})" if flags else "models and data may be fetched from the hub"
    return Check("network", GOOD, found + "; mrt itself sends nothing")


def _recipe(name: str, overrides: Sequence[str], allow_code: bool, price: float | None) -> Iterator[Check]:
    from mrt.runs.recipe import load_recipe

    try:
        recipe = load_recipe(name, overrides, allow_code=allow_code)
    except MRTError as error:
        yield Check("recipe", FAILED, str(error))
        return
    yield Check("recipe", GOOD, f"{name}: {recipe.trainer}, {len(recipe.args)} args, output_dir {recipe.output_dir}")
    from mrt.reasoning.models.gguf_files import gguf_file

    looks_local = recipe.model.startswith((".", "/", "~", "runs/"))
    try:
        file = gguf_file(recipe.model)
    except MRTError as error:
        yield Check("model", FAILED, str(error))
        return
    if looks_local and file is None and not Path(recipe.model).is_dir():
        yield Check("model", FAILED, f"no directory {recipe.model}", "train or fetch it first, or set model=PATH")
    elif recipe.model:
        yield Check("model", GOOD, recipe.model)
        yield from _run(recipe, allow_code, price)
    if recipe.problems:
        yield _problems(dict(recipe.problems))


def _run(recipe: Any, allow_code: bool, price: float | None) -> Iterator[Check]:
    """Memory before anything is loaded; time and cost where it fits, from timing one layer of the model."""
    from mrt.reasoning.training.plan import facts, seconds_an_update
    from mrt.runs.plan import GIB as unit
    from mrt.runs.plan import plan, proposals

    try:
        found = facts(recipe, allow_code)
    except MRTError as error:
        yield Check("memory plan", FAILED, str(error))
        return
    except (OSError, ValueError, AttributeError) as error:  # no causal LM, or a hub that cannot be reached
        yield Check("memory plan", NOTE, f"not known: {str(error).splitlines()[0][:120]}")
        return
    if found is None:
        return
    room, accelerator = _room()
    needed = plan(found.shape, found.settings, accelerator)
    text = ", ".join(needed.lines()) + f"; {room / unit:.2f} GiB are free"
    if needed.peak > room:
        changes, least = proposals(found.shape, found.settings, accelerator, room)
        cure = f"add {' '.join(changes)} (then {least.peak / unit:.2f} GiB)" if changes else ""
        if least.peak > room:
            cure = f"{cure or 'no setting helps'}: still too much; take a smaller model or a larger machine"
        yield Check("memory plan", FAILED, text, cure)
        return
    yield Check("memory plan", GOOD, text)
    seconds = seconds_an_update(found)
    hours, cost = found.updates * seconds / 3600, found.updates * found.cost
    said = f"at most {seconds:.3g} s per update and {hours:.2g} h for {found.updates} updates (traces at full length)"
    money = f", {hours * price:.2f} at {price:g} per hour" if price is not None else ""
    yield Check("time and cost", GOOD, f"{said}; {cost:.2g} positions{money}")


def _room() -> tuple[float, bool]:
    """Free bytes where this process would train, and whether that is an accelerator."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0]), True
    import psutil

    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return psutil.virtual_memory().available / processes, False


def _problems(dials: dict) -> Check:
    from mrt.reasoning.problems import load_problems

    name = dials.pop("name")
    try:
        load_problems(name, **dials)
    except MRTError as error:
        return Check("problems", FAILED, str(error))
    return Check("problems", GOOD, f"{name} {dials or ''}".rstrip())
