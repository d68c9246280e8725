"""The hash of the code changes with what is computed, not with where or how it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from evals.gates import code
from evals.gates.code import code_hash, imported, statements_of

WRITTEN = '''"""Doubles."""
from mrt.old.place import helper
RATE = 2  # twice

def double(x):
    """Doubles x."""
    from mrt.old.place import late
    return helper(x) * RATE + late("mrt.old.place:Name")
'''
MOVED = """import os
from mrt.new import helper

RATE   =   2
__all__ = ["double"]
def double(x):
        # another comment
        from mrt.elsewhere.still import late
        return (
            helper(x) * RATE + late("mrt.elsewhere:Name")
        )
"""


def test_layout_comments_docstrings_imports_and_places_do_not_count() -> None:
    assert statements_of(WRITTEN) == statements_of(MOVED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 2", "RATE = 3"),
        ("helper(x) * RATE", "helper(x) + RATE"),
        ("import helper", "import helper as late"),
        (":Name", ":Other"),
        ("def double(x)", "def double(x, y=None)"),
    ],
)
def test_what_is_computed_counts(old: str, new: str) -> None:
    assert statements_of(WRITTEN.replace(old, new)) != statements_of(WRITTEN)


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two modules of a package: a imports b inside a function, and c for type checkers alone."""
    (tmp_path / "mrt").mkdir()
    (tmp_path / "mrt" / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mrt import c\n\n"
        "def run():\n    from mrt.b import one, two\n    return one() + two()\n"
    )
    (tmp_path / "mrt" / "b.py").write_text("def one():\n    return 1\n\ndef two():\n    return 2\n")
    (tmp_path / "mrt" / "c.py").write_text("KIND = 1\n")
    monkeypatch.setattr(code, "ROOT", tmp_path)
    return tmp_path / "mrt"


def hashed() -> str:
    code._statements.cache_clear()
    code._imports.cache_clear()
    return code_hash(["mrt.a"])


@pytest.fixture(autouse=True)
def _fresh() -> None:
    code._statements.cache_clear()
    code._imports.cache_clear()


def test_imported_modules_count_and_those_of_type_checkers_do_not(tree: Path) -> None:
    before = hashed()
    assert imported(["mrt.a"]) == {"mrt.a", "mrt.b"}
    (tree / "c.py").write_text("KIND = 2\n")
    assert hashed() == before
    (tree / "b.py").write_text("def one():\n    return 1\n\ndef two():\n    return 3\n")
    assert hashed() != before


def test_a_module_that_is_moved_or_split_is_the_same_code(tree: Path) -> None:
    before = hashed()
    (tree / "room").mkdir()
    (tree / "b.py").unlink()
    (tree / "room" / "__init__.py").write_text('"""A room."""\n')
    (tree / "room" / "first.py").write_text("def one():\n    return 1\n")
    (tree / "room" / "second.py").write_text("def two():\n    return 2\n")
    text = (tree / "a.py").read_text()
    moved = "from mrt.room import second\n    from mrt.room.first import one\n    from .room.second import two"
    (tree / "a.py").write_text(text.replace("from mrt.b import one, two", moved))
    assert hashed() == before


def test_a_trainer_brings_the_core_along_and_other_systems_stay_out() -> None:
    found = imported(["classic_metarl.black_box.rl2"])
    assert {"mrt.control.trainer", "mrt.credit.returns", "mrt.trainer", "mrt.control.envs.bandits"} <= found
    assert not {name for name in found if name.startswith(("classic_metarl.gradient", "mrt.reasoning"))}
