"""Tasks as parameters of one environment: each is drawn from a range or from a list of choices.

vary: {g: [5, 15], l: {range: [0.5, 1.5]}, size: {integers: [4, 8]}, map_name: [4x4, 8x8]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mrt.control.envs.draws import reflected
from mrt.errors import ConfigError, nearest

FORMS = {"range", "integers", "choices"}


class Variation:
    """From uniform numbers, one a parameter, to the parameters of a task.

    Args:
        vary: {name: values}. [low, high], two numbers, is a range; any other list holds choices. By name: `{range:
            [low, high]}`, `{integers: [low, high]}` (both ends included), `{choices: [...]}`.

    Raises:
        ConfigError: for values of another form, or bounds that are not finite or not in order.
    """

    def __init__(self, vary: Mapping[str, Any]) -> None:
        if not isinstance(vary, Mapping) or not all(isinstance(name, str) for name in vary):
            raise ConfigError(f"vary={vary!r} should map parameters to their values, as in vary: {{g: [5, 15]}}")
        self.values = {name: _form(name, values) for name, values in vary.items()}

    @property
    def draws(self) -> int:
        """Uniform numbers of a task; a task that nothing varies takes one."""
        return max(len(self.values), 1)

    def __call__(self, u: list[float]) -> dict[str, Any]:
        return {name: _chosen(*values, x) for (name, values), x in zip(self.values.items(), u, strict=False)}

    def mutated(self, numbers: Tensor, u: Tensor, size: float) -> Tensor:
        """(B, N) the numbers of tasks a little different from `numbers` (B, N): by up to `size` of each range.

        Choices stay as they are. u (B, N) uniform numbers.

        Raises:
            ConfigError: where all parameters are choices.
        """
        moves = torch.tensor([form != "choices" for form, _ in self.values.values()], device=numbers.device)
        if not bool(moves.any()):
            raise ConfigError("no parameter of these tasks has a range, so none can change a little")
        return torch.where(moves, reflected(numbers + size * (2 * u - 1), 0.0, 1.0 - 2**-24), numbers)


def _form(name: str, values: Any) -> tuple[str, list[Any]]:
    if isinstance(values, Mapping):
        if len(values) != 1 or not set(values) <= FORMS:
            wrong = next((str(key) for key in values if key not in FORMS), "")
            raise ConfigError(
                f"vary.{name}={dict(values)} has one of range, integers, choices; {nearest(wrong, FORMS)}"
            )
        form, inner = next(iter(values.items()))
    else:
        pair = isinstance(values, list | tuple) and len(values) == 2 and all(_number(value) for value in values)
        form, inner = "range" if pair else "choices", values
    if not isinstance(inner, list | tuple) or not inner:
        raise ConfigError(f"vary.{name}={values!r} should be [low, high] or a list of choices")
    if form != "choices" and not (len(inner) == 2 and all(_number(x) for x in inner) and inner[0] < inner[1]):
        raise ConfigError(f"vary.{name}: the {form} {list(inner)} should be two finite numbers, the lower one first")
    if form == "integers" and not all(isinstance(x, int) for x in inner):
        raise ConfigError(f"vary.{name}: integers {list(inner)} should be two integers")
    return form, [float(x) for x in inner] if form == "range" else list(inner)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _chosen(form: str, values: list[Any], x: float) -> Any:
    if form == "range":
        return values[0] + (values[1] - values[0]) * x
    if form == "integers":
        return min(values[0] + int((values[1] - values[0] + 1) * x), values[1])
    return values[min(int(len(values) * x), len(values) - 1)]
