"""Quadratic functions: what can be known of them after k examples."""

from __future__ import annotations

import pytest
import torch

from classic_metarl.problems.functions import QuadraticFunctions, best_linear_errors, terms
from mrt.errors import ConfigError


def test_a_function_is_a_pure_function_of_seed_and_index() -> None:
    family = QuadraticFunctions(examples=8)
    x, y = family.draw(3, [5, 6])
    task = family.sample(3, 6)
    assert torch.equal(task.data["x"], x[1])
    assert torch.equal(task.data["y"], y[1])
    assert not torch.equal(y[0], family.draw(4, [5])[1][0])


def test_six_examples_determine_the_function() -> None:
    x, y = QuadraticFunctions(examples=12).draw(0, range(50))
    fitted = torch.linalg.lstsq(terms(x[:, :6].double()), y[:, :6].double()).solution
    left = (terms(x.double()) @ fitted - y.double()).abs().amax((1, 2))
    assert float(left.median()) < 1e-4


def test_the_best_linear_estimate_makes_the_error_that_is_said() -> None:
    """Against least squares with the prior as a penalty, on functions that are drawn."""
    x, y = QuadraticFunctions(examples=7).draw(1, range(4000))
    said = best_linear_errors(x).mean(0)
    for k in (0, 2, 4):
        seen, labels = terms(x[:, :k].double()), y[:, :k].double()
        kernel = seen @ seen.mT + 1e-9 * torch.eye(k, dtype=torch.float64)
        now = terms(x[:, k].double())[:, None]
        guess = (now @ seen.mT @ torch.linalg.solve(kernel, labels))[:, 0, 0] if k else torch.zeros(len(x))
        errors = (guess - y[:, k, 0]).square()
        assert abs(float(errors.mean()) - float(said[k])) < 4 * float(errors.std()) / len(x) ** 0.5
    assert said[0] == pytest.approx(0.726, abs=0.01)
    assert float(said[6]) < 1e-9


def test_no_examples() -> None:
    with pytest.raises(ConfigError, match="examples=0 must be at least 1"):
        QuadraticFunctions(examples=0)
