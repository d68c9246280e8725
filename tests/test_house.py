"""The rules of the house that a machine can hold: imports, banned calls, sizes, docstrings, secrets, the README."""

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mrt.runs.fields import SECRET_TEXT
from tests.support import ROOT

SOURCES = sorted(p for package in ("mrt", "classic_metarl") for p in (ROOT / package).rglob("*.py"))
TEXT_ENDINGS = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cff", ".json", ".jsonl", ".css", ".js", ".html", ""}

# The command line sits above both sides, and reaches for them only inside its functions.
COMMAND_LINE = {"mrt.cli.main", "mrt.cli.commands", "mrt.cli.doctor", "mrt.cli.quickstart", "mrt.__main__"}
ROOMS = ("mrt.reasoning", "mrt.control", "classic_metarl", "mrt")  # the first that matches is where a module lives
MAY_IMPORT = {
    "mrt": {"mrt"},
    "mrt.reasoning": {"mrt", "mrt.reasoning"},
    "mrt.control": {"mrt", "mrt.control"},
    "classic_metarl": {"mrt", "mrt.control", "classic_metarl"},
}
NOBODY_IMPORTS = {"recipes", "evals", "tests"}
HEAVY = ("torch", "transformers", "trl", "vllm", "gymnasium", "matplotlib", "math_verify", "datasets", "peft")
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BANNED_CALLS = {"eval", "exec", "torch.load", "os.system", "os.popen"} | {
    f"yaml.{name}" for name in ("load", "load_all", "full_load", "unsafe_load")
}
SECRETS = (
    SECRET_TEXT,
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    re.compile(r"""(?i)\b\w*(api_?key|token|secret|password)\w*["']?\s*[:=]\s*["'][A-Za-z0-9+/_-]{24,}["']"""),
)


def room_of(module: str) -> str | None:
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), None)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Every module that the code imports, at any depth; `from a import b` counts as a.b, which may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            base = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


def wrong_directions(code: str, module: str, is_package: bool = False) -> list[str]:
    wrong = []
    for target in imports(ast.parse(code), module, is_package):
        room = room_of(target)
        upward = room and module not in COMMAND_LINE and room not in MAY_IMPORT[room_of(module) or "mrt"]
        if upward or target.split(".")[0] in NOBODY_IMPORTS:
            wrong.append(f"{module} imports {target}")
    return wrong


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def banned(code: str) -> list[str]:
    found = []
    tree = ast.parse(code)
    for name in imports(tree, "module", False):
        found += [name] if name.split(".")[0] in BANNED_MODULES or name in BANNED_CALLS else []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found += [dotted(node.func)] if dotted(node.func) in BANNED_CALLS else []
            for word in node.keywords:
                true = isinstance(word.value, ast.Constant) and word.value.value is True
                found += [f"{word.arg}=True"] if true and word.arg in ("shell", "allow_pickle") else []
    return found


def undocumented(code: str) -> list[str]:
    """Public modules, classes and functions without a docstring; overloads and methods aside."""
    tree = ast.parse(code)
    missing = [] if ast.get_docstring(tree) or not tree.body else ["the module"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            overload = any(dotted(decorator).endswith("overload") for decorator in node.decorator_list)
            missing += [] if overload or ast.get_docstring(node) else [node.name]
    return missing


def long_functions(code: str, most: int) -> list[str]:
    functions = (n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return [n.name for n in functions if (n.end_lineno or 0) - n.lineno + 1 > most]


def tracked() -> list[Path]:
    """What git tracks or would track; outside a checkout, everything but what is generated."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        generated = {".venv", ".git", "runs", "build", "dist"}
        listed = [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if not generated & set(p.relative_to(ROOT).parts)]
    return [ROOT / name for name in listed if name and (ROOT / name).is_file()]


# ---- the checks themselves can fail


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("mrt.credit", "from mrt.reasoning.traces.prompts import render"),
        ("mrt.credit", "def f():\n    import mrt.control.rollout"),
        ("mrt.reasoning.probes", "from mrt import control"),
        ("mrt.reasoning.probes", "import classic_metarl.gradient"),
        ("mrt.reasoning.probes", "from ..control import envs"),
        ("mrt.control.rollout", "from mrt.reasoning import probes"),
        ("classic_metarl.black_box.rl2", "from mrt.reasoning import probes"),
        ("mrt.trials", "import tests.conftest"),
    ],
)
def test_a_wrong_direction_is_seen(module: str, line: str) -> None:
    assert len(wrong_directions(line, module)) == 1


def test_a_right_direction_is_not() -> None:
    assert (
        wrong_directions("from mrt.credit import outcome\nfrom . import prompts\nimport torch", "mrt.reasoning.probes")
        == []
    )
    assert wrong_directions("def f():\n    from mrt.reasoning.evaluation.run import run_eval", "mrt.cli.commands") == []
    assert wrong_directions("from mrt.control import envs", "classic_metarl.gradient.maml") == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from pickle import loads",
        "x = eval('1')",
        "exec(code)",
        "torch.load(p)",
        "from torch import load",
        "yaml.load(t)",
        "subprocess.run(c, shell=True)",
        "numpy.load(p, allow_pickle=True)",
        "os.system('ls')",
    ],
)
def test_a_banned_call_is_seen(line: str) -> None:
    assert banned(line)


def test_a_harmless_call_is_not() -> None:
    assert (
        banned("model.eval()\nyaml.safe_load(t)\nsubprocess.run(c, shell=False)\nsafetensors.torch.load_file(p)") == []
    )


def test_a_secret_is_seen() -> None:
    for text in ("hf_" + "a1B2" * 8, 'API_KEY = "' + "x1y2z3" * 5 + '"', "-----BEGIN RSA " + "PRIVATE KEY-----"):
        assert any(pattern.search(text) for pattern in SECRETS), text
    assert not any(pattern.search('eos_token="<|end|>", token = tokenizer.pad_token') for pattern in SECRETS)


# ---- the house


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_sources(path: Path) -> None:
    code = path.read_text(encoding="utf-8")
    assert wrong_directions(code, module_name(path), path.name == "__init__.py") == []
    assert banned(code) == []
    assert undocumented(code) == []
    assert len(code.splitlines()) <= 300
    assert long_functions(code, most=60) == []


@pytest.mark.parametrize(
    "module",
    [
        "mrt",
        "mrt.cli.main",
        "mrt.cli.commands",
        "mrt.cli.doctor",
        "mrt.cli.quickstart",
        "mrt.runs.recipe",
        "classic_metarl",
    ],
)
def test_import_is_light(module: str) -> None:
    code = f"import {module}, sys; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == []


def test_public_names_resolve() -> None:
    import mrt

    assert mrt.load_recipe.__module__ == "mrt.runs.recipe"
    assert set(mrt.__all__) <= set(dir(mrt))
    for name in mrt.__all__:
        assert getattr(mrt, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mrt.nothing  # noqa: B018


def test_no_secret_is_tracked() -> None:
    for path in tracked():
        if path.suffix in TEXT_ENDINGS:
            text = path.read_text(encoding="utf-8", errors="replace")
            hits = [match.group()[:12] for pattern in SECRETS for match in pattern.finditer(text)]
            assert not hits, f"{path.relative_to(ROOT)}: {hits}"


def test_constraints_are_pins_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0].startswith("torch==")
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []


# ---- the README's commands

FENCE = re.compile(r"^```bash (test|slow)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def fences(kind: str) -> list[str]:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    return [body for found, body in FENCE.findall(text) if found == kind]


def run_fences(kind: str, folder: Path) -> None:
    """In order, in one copy of the checkout, so that a later fence may use what an earlier one made."""
    commands = fences(kind)
    if not commands:
        pytest.skip(f"README.md has no fence tagged `bash {kind}`")
    for path in tracked():
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": search, "PYTHONPATH": str(folder)}
    for body in commands:
        command = ["bash", "-euo", "pipefail", "-c", body]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"{body}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_readme_commands(tmp_path: Path) -> None:
    run_fences("test", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_readme_slow_commands(tmp_path: Path) -> None:
    run_fences("slow", tmp_path)
