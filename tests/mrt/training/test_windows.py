"""Means of what was logged: by hand, and of several processes that did not measure the same."""

from __future__ import annotations

import math
from typing import Any

import accelerate.utils
import pytest

from mrt.training.windows import window_means


def test_what_was_not_measured_does_not_count() -> None:
    found = window_means({"a": [1.0, math.nan, 3.0], "b": [math.nan], "c": []})
    assert found["a"] == 2.0
    assert math.isnan(found["b"])
    assert math.isnan(found["c"])


def test_every_value_of_every_process_weighs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    other = {"a": (9.0, 1), "d": (4.0, 2)}

    def gathered(mine: list[Any]) -> list[Any]:
        return [*mine, other]

    monkeypatch.setattr(accelerate.utils, "gather_object", gathered)
    assert window_means({"a": [1.0, 2.0], "b": [5.0]}, processes=2) == {"a": 4.0, "b": 5.0, "d": 2.0}
