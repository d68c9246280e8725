"""The version, and the name that pip knows this package by: `mrt-rl`, because `mrt` on the index is another project."""

import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTION = "mrt-rl"


def version() -> str:
    """The installed version; that of the checkout where nothing is installed; else "unknown"."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return str(checkout_project().get("version", "unknown"))


def checkout_project() -> dict[str, Any]:
    """The table `[project]` of the pyproject.toml beside this package; {} outside a checkout."""
    path = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if not path.is_file():
        return {}
    project = tomllib.loads(path.read_text(encoding="utf-8")).get("project", {})
    return project if project.get("name") == DISTRIBUTION else {}


def install_command(extra: str = "") -> str:
    """What installs this package, with an extra: `pip install 'mrt-rl[vllm]'`."""
    return f"pip install '{DISTRIBUTION}[{extra}]'" if extra else f"pip install {DISTRIBUTION}"
