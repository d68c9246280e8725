"""The gate over everything that we ship or run: no pickle, eval, shell or remote code, in code or in recipes.

tests/test_house.py holds the same for the packages; here are evaluations, recipes and test programs as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT
from tests.test_house import banned, tracked

pytestmark = pytest.mark.training

CODE = [path for path in tracked() if path.suffix == ".py"]
SETTINGS = [path for path in tracked() if path.suffix in (".yaml", ".yml") and path.parts[-2] != "workflows"]
REMOTE = {"trust_remote_code", "allow_remote_code", "weights_only"}


def remote_code(code: str) -> list[str]:
    """Keywords and dictionary keys that would run a repository's code or load a pickle."""
    found = []
    for node in ast.walk(ast.parse(code)):
        pairs: list[tuple[str | None, ast.expr]] = []
        if isinstance(node, ast.Call):
            pairs = [(word.arg, word.value) for word in node.keywords]
        elif isinstance(node, ast.Dict):
            pairs = [(key.value, value) for key, value in zip(node.keys, node.values, strict=True)
                     if isinstance(key, ast.Constant)]  # fmt: skip
        for name, value in pairs:
            wrong = name != "weights_only"
            if name in REMOTE and isinstance(value, ast.Constant) and value.value is wrong:
                found.append(f"{name}={value.value}")
    return found


def remote_setting(value: object) -> bool:
    if isinstance(value, dict):
        return any((k in REMOTE and v is True) or remote_setting(v) for k, v in value.items())
    return isinstance(value, list) and any(remote_setting(one) for one in value)


@pytest.mark.parametrize(
    "line",
    ["f(p, trust_remote_code=True)", "x = {'trust_remote_code': True}", "torch_load(p, weights_only=False)"],
)
def test_remote_code_is_seen(line: str) -> None:
    assert remote_code(line)


def test_harmless_lines_are_not() -> None:
    assert remote_code("f(trust_remote_code=False)\ng(trust_remote_code=self.trust)\nh(weights_only=True)") == []
    assert remote_setting(yaml.safe_load("args: {model_init_kwargs: {trust_remote_code: true}}"))
    assert not remote_setting(yaml.safe_load("args: {trust_remote_code: false}"))


def test_nothing_that_runs_code_from_data() -> None:
    assert len(CODE) > 100
    for path in CODE:
        code = path.read_text(encoding="utf-8")
        quoted = Path(__file__).with_name("test_house.py"), Path(__file__)  # they name what they look for
        found = banned(code) + ([] if path in quoted else remote_code(code))
        assert found == [], f"{path.relative_to(ROOT)}: {found}"


def test_no_recipe_turns_remote_code_on() -> None:
    assert len(SETTINGS) > 5
    for path in SETTINGS:
        for content in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            assert not remote_setting(content), path.relative_to(ROOT)
