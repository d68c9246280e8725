"""The rules of the house that a machine can hold: imports, banned calls, sizes, docstrings, secrets."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from mrt.runs.fields import SECRET_TEXT
from tests.support import ROOT

SOURCES = sorted(p for package in ("mrt", "classic_metarl") for p in (ROOT / package).rglob("*.py"))
TEXT_ENDINGS = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".cff", ".json", ".jsonl", ".css", ".js", ".html", ""}

# The command line sits above both sides, and reaches for them only inside its functions.
COMMAND_LINE = {
    "mrt.cli.main",
    "mrt.cli.arguments",
    "mrt.cli.commands",
    "mrt.cli.doctor",
    "mrt.cli.quickstart",
    "mrt.cli.slurm",
    "mrt.__main__",
}
ROOMS = ("mrt.reasoning", "mrt.control", "classic_metarl", "mrt")  # the first that matches is where a module lives
MAY_IMPORT = {
    "mrt": {"mrt"},
    "mrt.reasoning": {"mrt", "mrt.reasoning"},
    "mrt.control": {"mrt", "mrt.control"},
    "classic_metarl": {"mrt", "mrt.control", "classic_metarl"},
}
NOBODY_IMPORTS = {"recipes", "evals", "tests"}
# `mrt` finds what it offers by name, when it is asked for; the memories go once recipes name the classic ones.
NAME_UPWARD = {"mrt"}
NO_MIRROR = {"support", "programs", "fixtures"}
TOP_TESTS = {"test_house.py", "test_docs.py", "test_gate.py", "test_wheel.py"}
HEAVY = ("torch", "transformers", "trl", "vllm", "gymnasium", "matplotlib", "math_verify", "datasets", "peft")
BANNED_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
BANNED_CALLS = {"eval", "exec", "torch.load", "os.system", "os.popen"} | {
    f"yaml.{name}" for name in ("load", "load_all", "full_load", "unsafe_load")
}
USERS = ("mrt", "classic_metarl", "recipes", "evals", "docs")  # and README.md: a public name has one of them as a user
# These lists may only shrink: what stands here breaks a rule still.
MANY_POSITIONAL: tuple[str, ...] = (
    "mrt.reasoning.problems.reward.ProblemReward.__call__",
    "mrt.reasoning.training.trainer.MRTTrainer._get_per_token_logps_and_entropies",
)
ONLY_TESTED: tuple[str, ...] = ()
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


class _WithoutTypeImports(ast.NodeTransformer):
    """Drops what stands under `if TYPE_CHECKING:`, which never runs."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if dotted(node.test).endswith("TYPE_CHECKING") else node


def circle(code_of: dict[str, str], packages: Iterable[str] = ()) -> list[str]:
    """A circle among the imports of these modules, those inside functions included: [a, b, a]; [] without one."""
    graph: dict[str, set[str]] = {}
    for module, code in code_of.items():
        found = imports(_WithoutTypeImports().visit(ast.parse(code)), module, module in packages)
        sources = {target if target in code_of else target.rpartition(".")[0] for target in found}
        graph[module] = (sources & code_of.keys()) - {module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def named_upward(code: str, module: str) -> list[str]:
    """Strings that name a module which this one may not import: `package.module` or `package.module:Name`."""
    constants = (n.value for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Constant))
    names = [v for v in constants if isinstance(v, str) and re.fullmatch(r"\w+(\.\w+)+(:\w+)?", v)]
    rooms = [(name, room_of(name.partition(":")[0])) for name in names]
    return [name for name, room in rooms if room and room not in MAY_IMPORT[room_of(module) or "mrt"]]


def many_positional(code: str, module: str, most: int = 5) -> set[str]:
    """Functions and methods with more positional parameters than that, `self` and `cls` aside."""
    found = set()

    def look(node: ast.AST, name: str) -> None:
        for inner in ast.iter_child_nodes(node):
            named = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            inner_name = f"{name}.{inner.name}" if named else name  # type: ignore[attr-defined]
            if named and not isinstance(inner, ast.ClassDef):
                parameters = [one.arg for one in (*inner.args.posonlyargs, *inner.args.args)]  # type: ignore[attr-defined]
                own = parameters[:1] in (["self"], ["cls"])
                found.update({inner_name} if len(parameters) - own > most else ())
            look(inner, inner_name)

    look(ast.parse(code), module)
    return found


def public_names(code: str) -> set[str]:
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return {n.name for n in ast.parse(code).body if isinstance(n, kinds) and not n.name.startswith("_")}


def names_used(code: str) -> set[str]:
    """Names that the code reads, calls, imports under another name, or gives as a string (`Name`, `module:Name`)."""
    used = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Name):
            used.add(node.id)
        elif isinstance(node, ast.Attribute):
            used.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            used.update(alias.name for alias in node.names if alias.asname)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            used.update({node.value} if node.value.isidentifier() else re.findall(r"\w:(\w+)", node.value))
    return used


def tracked() -> list[Path]:
    """What git tracks or would track; outside a checkout, everything but what is generated."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):
        generated = {".venv", ".git", "runs", "build", "dist"}
        paths = (path.relative_to(ROOT) for path in ROOT.rglob("*"))
        listed = [str(path) for path in paths if path.parts[0] not in generated and "__pycache__" not in path.parts]
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


def test_a_circle_is_seen() -> None:
    inside = {"a": "from b import x", "b": "def f():\n    import a.c", "a.c": "import a"}
    assert set(circle(inside)) == {"a", "b", "a.c"}
    assert circle({"p": "from . import q", "p.q": "from ..p import x"}, packages={"p"})
    types = {"a": "import b", "b": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from a import X"}
    assert circle(types) == []
    assert circle({"a": "from b import x", "b": "import torch", "a.c": "import a, b"}) == []


def test_a_name_upward_is_seen() -> None:
    assert named_upward("x = {'a': 'classic_metarl.black_box.snail:SNAIL'}", "mrt.control.memories")
    assert named_upward("x = 'mrt.control.rollout'", "mrt.reasoning.probes")
    assert named_upward("x = 'mrt.control.rollout:f'; y = 'write module:Class'", "classic_metarl.problems.paired") == []


def test_many_positional_parameters_are_seen() -> None:
    code = (
        "def f(a, b, c, d, e, f): ...\nclass C:\n    def g(self, a, b, c, d, e, *, f): ...\n    def h(self, *a, b): ..."
    )
    assert many_positional(code, "m") == {"m.f"}
    assert many_positional(code, "m", most=4) == {"m.f", "m.C.g"}


def test_names_that_nobody_uses_are_seen() -> None:
    code = "class A: ...\ndef b(): ...\ndef c(): ...\ndef d(): ...\ndef e(): ...\ndef _f(): ..."
    users = "from m import b as bee, e\nx = {'k': 'm:A'}\nm.c()"
    assert public_names(code) - names_used(users) == {"d", "e"}


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


def test_sources_are_tracked_outside_a_checkout_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """mrt/runs is a package, runs/ at the top is what trainings leave."""
    monkeypatch.setenv("PATH", "")  # no git
    assert set(SOURCES) <= set(tracked())


def test_tests_mirror_the_tree() -> None:
    for path in (path for path in tracked() if path.is_relative_to(ROOT / "tests")):
        where = path.relative_to(ROOT / "tests")
        if where.parts[0] not in NO_MIRROR:
            assert (ROOT / where.parent).is_dir(), f"tests/{where}: the project has no folder {where.parent}"
            assert len(where.parts) > 1 or where.name in TOP_TESTS or not where.name.startswith("test_"), where
        else:
            assert not where.name.startswith("test_"), f"tests/{where} is not collected as a test of anything"
        if path.suffix == ".py" and path != Path(__file__):
            assert "sys.path" not in path.read_text(encoding="utf-8"), f"tests/{where}: import from tests.support"


def test_imports_have_no_circle() -> None:
    code_of = {module_name(path): path.read_text(encoding="utf-8") for path in SOURCES}
    assert circle(code_of, {module_name(path) for path in SOURCES if path.name == "__init__.py"}) == []


def test_no_module_names_one_above_it_in_a_string() -> None:
    for path in SOURCES:
        if (module := module_name(path)) not in COMMAND_LINE:
            found = named_upward(path.read_text(encoding="utf-8"), module)
            assert bool(found) == (module in NAME_UPWARD), f"{module} names {found}; NAME_UPWARD holds who may"


def test_at_most_five_positional_parameters() -> None:
    found = set().union(*(many_positional(p.read_text(encoding="utf-8"), module_name(p)) for p in SOURCES))
    assert sorted(found - set(MANY_POSITIONAL)) == [], "make options keyword-only, or group what belongs together"
    assert sorted(set(MANY_POSITIONAL) - found) == [], "no longer so: take them off MANY_POSITIONAL"


def test_no_public_name_is_there_for_tests_only() -> None:
    users = [path for path in tracked() if path.relative_to(ROOT).parts[0] in {*USERS, "README.md"}]
    used: set[str] = set()
    for path in users:
        if path.suffix == ".py":
            used |= names_used(path.read_text(encoding="utf-8"))
        elif path.suffix in (".md", ".yaml"):
            used.update(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    names = {f"{module_name(p)}.{n}" for p in SOURCES for n in public_names(p.read_text(encoding="utf-8"))}
    found = {name for name in names if name.rpartition(".")[2] not in used}
    assert sorted(found - set(ONLY_TESTED)) == [], "use it, document it in docs/, or take it out"
    assert sorted(set(ONLY_TESTED) - found) == [], "no longer so: take them off ONLY_TESTED"


def test_no_secret_is_tracked() -> None:
    for path in tracked():
        if path.suffix in TEXT_ENDINGS:
            text = path.read_text(encoding="utf-8", errors="replace")
            hits = [match.group()[:12] for pattern in SECRETS for match in pattern.finditer(text)]
            assert not hits, f"{path.relative_to(ROOT)}: {hits}"


# `mrt` on the package index belongs to others: installing it, or an extra of it, would run a stranger's code.
STRANGER = re.compile(
    r"""\b(?:pip[3x]?|uv)\s+(?:install|add)\b[^\n;)]*?[\s"'=]mrt(?![\w-])(?!\.)|(?<![\w./-])mrt\\?\[[a-z]+\\?\]"""
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pip install mrt", True),
        ("pip install -U 'mrt'", True),
        ("`pip install mrt`", True),
        ("uv add mrt", True),
        ("uv pip install mrt==0.1", True),
        ("the extra mrt[vllm]", True),
        (r"match='mrt\[vllm\]'", True),
        ("pip install mrt-rl", False),
        ("pip install 'mrt-rl[vllm]'", False),
        ("pip install -e '.[dev]'; mrt doctor", False),
        ("pip install mrt.whl", False),
        ("`pip install x` (mrt needs it)", False),
    ],
)
def test_the_name_of_another_project_is_seen(text: str, found: bool) -> None:
    assert bool(STRANGER.search(text)) == found


def test_nothing_installs_the_package_of_another_project() -> None:
    for path in tracked():
        if path.suffix in {*TEXT_ENDINGS, ".jinja"} and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="replace")
            assert (hit := STRANGER.search(text)) is None, f"{path.relative_to(ROOT)}: {hit and hit.group()}"


def test_constraints_are_pins_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins[0].startswith("torch==")
    assert [line for line in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9a-z.]*", line)] == []
