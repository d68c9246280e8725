"""A hash of the code that a run executes, which only a change of what is computed may change.

The unit is the top-level statement: a class, a function, an assignment. Each is reduced to its syntax tree without
docstrings, comments, layout and imports; the hash is over the set of them all, of every module of our packages that
the given ones import, directly or not. So neither formatting, nor the move of a module or of a function, nor a file
that is split changes it, for no path and no order enters; editing a statement does, wherever it stands. A hash a file
would change with every split. The price: a change in a part of an imported module that a run never calls
changes it too (a row is then marked although its figures hold, never the other way round), and two names that are
exchanged between imports without any other change are not seen, unless one is renamed (`import a as b` is kept).

Modules that are named in text alone (`module:Class`) are not followed.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from mrt.runs.code import OUR_PACKAGES
from mrt.runs.recipe import named_only

ROOT = Path(__file__).resolve().parents[2]
SHORT = 16


def code_hash(modules: Iterable[str]) -> str:
    """The hash of these modules and of what they import of our packages."""
    statements = {one for name in imported(modules) for one in _statements(name)}
    return hashlib.sha256("\n".join(sorted(statements)).encode()).hexdigest()[:SHORT]


def imported(modules: Iterable[str]) -> set[str]:
    """These modules, and those of our packages that they import, directly or not."""
    found: set[str] = set()
    left = list(modules)
    while left:
        name = left.pop()
        if name not in found and _path(name) is not None:
            found.add(name)
            left += _imports(name)
    return found


def statements_of(source: str) -> set[str]:
    """The top-level statements of a source text, each as a hash of what it computes."""
    found = set()
    for node in ast.parse(source).body:
        found |= {f"{alias.name} as {alias.asname}" for alias in _renamed(node)}
        text = repr(_canonical(node))
        if not isinstance(node, ast.Import | ast.ImportFrom) and not _is_text(node) and not _lists_names(node):
            found.add(hashlib.sha256(text.encode()).hexdigest())
    return found


@cache
def _statements(name: str) -> frozenset[str]:
    return frozenset(statements_of(_source(name)))


@cache
def _imports(name: str) -> tuple[str, ...]:
    """Modules of our packages that this one imports, inside functions too, but not for type checkers alone."""
    path = _path(name)
    package = name if path is not None and path.name == "__init__.py" else name.rpartition(".")[0]
    found: list[str] = []
    for node in _walk(ast.parse(_source(name))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
            base = ".".join(part for part in ((above if node.level else ""), node.module or "") if part)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(one for one in dict.fromkeys(found) if one.split(".")[0] in OUR_PACKAGES)


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)):
            yield child
            yield from _walk(child)


def _path(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


def _source(name: str) -> str:
    path = _path(name)
    return "" if path is None else path.read_text(encoding="utf-8")


def _canonical(node: Any) -> Any:
    """A tree of tuples that does not depend on the version of Python: empty fields are left out."""
    if isinstance(node, ast.Constant):
        return ("Constant", repr(named_only(node.value)))
    if isinstance(node, ast.AST):
        fields = ((name, value) for name, value in ast.iter_fields(node) if value is not None and value != [])
        return (type(node).__name__, *((name, _canonical(value)) for name, value in fields))
    if isinstance(node, list):
        kept = [one for one in node if not isinstance(one, ast.Import | ast.ImportFrom) and not _is_text(one)]
        return tuple(_canonical(one) for one in kept)
    return repr(node)


def _renamed(node: ast.AST) -> list[ast.alias]:
    imports = (one for one in ast.walk(node) if isinstance(one, ast.Import | ast.ImportFrom))
    return [alias for one in imports for alias in one.names if alias.asname and alias.asname != alias.name]


def _is_text(node: Any) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _lists_names(node: ast.AST) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(one, ast.Name) and one.id == "__all__" for one in node.targets
    )
