"""Suites of `mrt eval`: YAML files under evals/ that say what is measured, of `kind: reasoning` or `kind: control`."""

import re
from importlib import resources
from pathlib import Path
from typing import Any

from mrt.errors import ConfigError, nearest
from mrt.runs.strict_yaml import parse_yaml

KINDS = ("reasoning", "control")
MAX_BYTES = 1_000_000


def suite_folder() -> Path:
    """Where the packaged suites are: `evals/` of the checkout, or the copy inside an installed wheel."""
    here = Path(str(resources.files("mrt")))
    packaged = here / "_packaged" / "evals"
    return packaged if packaged.is_dir() else here.parent / "evals"


def suite_names() -> list[str]:
    """The packaged suites, as `read_suite` takes them (`control/bandits`)."""
    folder = suite_folder()
    found = (p for kind in KINDS for p in (folder / kind).glob("*.yaml"))
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in found)


def is_suite(name: str) -> bool:
    """Whether `name` asks for a suite: it ends in .yaml, or is the name of a packaged one."""
    return name.endswith((".yaml", ".yml")) or name in suite_names()


def read_suite(path_or_name: str) -> tuple[dict[str, Any], str]:
    """(content, source) of a suite: a path first, then a packaged name (`control/bandits`, evals/control/bandits.yaml).

    Raises:
        ConfigError: for a file that is missing, not valid YAML, or without a kind.
    """
    path, name = Path(path_or_name), re.sub(r"^(\./)?evals/", "", path_or_name).removesuffix(".yaml")
    if not path.is_file():
        if name not in suite_names():
            raise ConfigError(
                f"no suite '{path_or_name}', neither a file nor a name; {nearest(name, set(suite_names()))}"
            )
        path = suite_folder() / f"{name}.yaml"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has more than {MAX_BYTES} bytes: that is not a suite")
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or content.get("kind") not in KINDS:
        raise ConfigError(f"{path} is not a suite: it needs `kind: {'` or `kind: '.join(KINDS)}`")
    return content, str(path)
