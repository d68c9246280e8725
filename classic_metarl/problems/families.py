"""The families of few-shot problems that recipes can name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from classic_metarl.problems.functions import QuadraticFunctions
from classic_metarl.problems.images import ImageEpisodes
from classic_metarl.problems.reaching import Reaching
from classic_metarl.problems.sinusoid import Sinusoids
from mrt.errors import ConfigError, nearest

FAMILIES: dict[str, Callable[..., Any]] = {
    "sinusoid": Sinusoids,
    "quadratic-functions": QuadraticFunctions,
    "reaching": Reaching,
    "strokes": ImageEpisodes,
    "omniglot": ImageEpisodes,
    "miniimagenet": ImageEpisodes,
}


def problem_family(name: str = "", **options: Any) -> Any:
    """The family called `name` with these options.

    Raises:
        ConfigError: for an unknown name or option, naming the nearest valid one.
    """
    if name not in FAMILIES:
        raise ConfigError(f"problems {name!r} is not a few-shot family; {nearest(name, set(FAMILIES))}")
    valid = set(inspect.signature(FAMILIES[name]).parameters) - {"name", "source"}
    for option, value in options.items():
        if option not in valid:
            raise ConfigError(f"problems '{name}' has no option '{option}'; {nearest(option, valid)}")
        options[option] = tuple(value) if isinstance(value, list) else value
    if FAMILIES[name] is ImageEpisodes:
        options |= {"source": name, "name": name}
        options.setdefault("rotations", name != "miniimagenet")
        options.setdefault("size", {"strokes": 20, "omniglot": 28, "miniimagenet": 84}[name])
    return FAMILIES[name](**options)
