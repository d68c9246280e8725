"""When two mathematical answers are equal: math-verify's verdict, without its faults. Runs in the worker's processes.

Nothing of the package is imported here (see `math_worker.py`).
"""

from __future__ import annotations

import functools
import math
import random
import re
from collections.abc import Callable
from typing import Any

# What the grammar has no rule for: Euler's number with an index is a variable, \odot in an index part of a name.
_E_INDEX = re.compile(r"(?<![A-Za-z\\])\{?([Ee])\}?\s?_\s?(?:\{\s*([^{}]{1,30})\s*\}|(\w))")
_INDEX = re.compile(r"_\s?\{\s*\\(?:text\w*\s*|mathrm\s*)?\{?\s*([A-Za-z]+)\s*\}?\s*\}|_\s?\\([A-Za-z]+)")
_PRIMES = re.compile(r"(?<=[A-Za-z])(?:\^\s?\{\s*((?:\\prime\s*)+)\}|('+))(?!\s*\()")


def names(text: str) -> str:
    """The LaTeX with variables in spellings that the parser knows."""
    text = _INDEX.sub(lambda match: f"_{{{match.group(1) or match.group(2)}}}", text)
    text = _E_INDEX.sub(lambda m: "\\Xi_{E" + "".join(c for c in m[2] or m[3] if c.isalnum()) + "}", text)
    return _PRIMES.sub(lambda match: "_{prime" + str(len(match.group(2) or match.group(1).split("\\")[1:])) + "}", text)


@functools.lru_cache(maxsize=256)  # a group shares its gold answer, and often its answers
def parse(text: str) -> Any:
    """The sympy object of one LaTeX expression, unevaluated; None where it cannot be read as a whole."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex

    # Units stay in: theirs would take the h of "\pi r^2 h" for hours. `math_text.read` has dealt with them.
    config = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    latex = normalize_latex(names(text), config)
    try:
        return latex2sympy(latex, is_real=not should_treat_as_complex(latex), normalization_config=None)
    except MemoryError:
        raise
    except Exception:  # the parser raises bare Exceptions, and sympy what it likes: all of them mean "not readable"
        return None


def digits(expr: Any) -> float:
    """An upper estimate of the decimal digits met while computing `expr`, found without taking a power."""
    from sympy import Add, Mul, Pow, binomial, factorial
    from sympy.core.numbers import Number

    if isinstance(expr, Number):
        if not expr.is_finite:
            return 1.0
        parts = (expr.p, expr.q) if expr.is_Rational else (int(abs(expr)) if abs(expr) < 1e300 else 10**300, 1)
        return max(abs(part).bit_length() for part in parts) * math.log10(2)
    sizes = [digits(arg) for arg in getattr(expr, "args", ())]
    if not sizes:
        return 1.0
    largest = max(sizes)
    if isinstance(expr, Pow):
        exponent = expr.args[1]
        small = isinstance(exponent, Number) or (sizes[1] < 10 and exponent.is_number and exponent.is_real)
        size = abs(float(exponent.evalf(15))) if small else 10.0 ** min(sizes[1], 300.0)
        return max(largest, max(sizes[0], 1.0) * (1.0 if exponent.free_symbols else size))
    if isinstance(expr, factorial | binomial):
        return max(largest, 10.0 ** min(largest, 300.0) * max(largest, 1.0))
    return sum(sizes) if isinstance(expr, Mul) else largest + len(sizes) if isinstance(expr, Add) else largest


def equal(gold: Any, answer: Any, signs: str = "") -> bool:
    """math-verify's verdict, without the cases in which it accepts what is not equal."""
    from math_verify import verify
    from math_verify.grader import get_pct_val, is_equation
    from sympy import And, Expr, I, Rational

    def same(a: Any, b: Any) -> bool:
        return bool(verify(a, b, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True))

    if signs and isinstance(gold, Expr) and isinstance(answer, Expr):
        return _percent(gold, answer, signs, same)
    percent = get_pct_val(answer)
    if percent is not None and get_pct_val(gold) is None and isinstance(gold, Expr):
        # 0.5 is 50 %, and for a gold answer of 50 the sign is a unit; but 1 is not 1 %.
        unit = gold.is_number and bool(abs(gold) > 1)
        return same(gold, percent * Rational(1, 100)) or (unit and same(gold, percent))
    chain = answer.args if isinstance(answer, And) else (answer,)
    if is_equation(answer) and (len(chain) > 1 or not is_equation(gold)):
        # Of "1=2=3" only the last side would be looked at: every number in it has to be the right one.
        sides = [side for eq in chain for side in eq.args]
        numbers = [side for side in sides if isinstance(side, Expr) and not side.free_symbols]
        wanted = gold if isinstance(gold, Expr) else numbers[0] if numbers else None
        if any(not same(wanted, number) for number in numbers):
            return False
    gold, answer = _union(gold, answer), _union(answer, gold)
    if same(gold, answer):
        return not _coincidence(gold, answer)
    if isinstance(gold, Expr) and isinstance(answer, Expr):  # the parser takes i for a variable
        imaginary = {s: I for s in gold.free_symbols | answer.free_symbols if s.name == "i"}
        if imaginary and same(gold.subs(imaginary), answer.subs(imaginary)):
            return True
        return _identical(gold, answer)
    return False


def _percent(gold: Any, answer: Any, signs: str, same: Callable[[Any, Any], bool]) -> bool:
    """0.5 is 50 %, and beside 50 the sign is a unit; but 1 is not 1 %."""
    from sympy import Rational

    if signs == "both":
        return same(gold, answer)
    if signs == "gold":
        return same(gold, answer) or same(gold * Rational(1, 100), answer)
    unit = gold.is_number and bool(abs(gold) > 1)
    return same(gold, answer * Rational(1, 100)) or (unit and same(gold, answer))


def _real_at(part: Any, point: dict[Any, Any]) -> bool:
    """Whether a root, a power or a logarithm has a real value there without passing through a complex one."""
    if part.is_Pow and part.exp.is_Integer:
        return True
    base = part.args[0].subs(point).evalf(25)
    return bool(base.is_number and base.is_real and base > 0)


def _identical(gold: Any, answer: Any) -> bool:
    """Roots, powers and logarithms of variables that agree wherever both are real: sqrt(a/b), sqrt(a)/sqrt(b)."""
    from sympy import Float, Pow, log
    from sympy.core.function import AppliedUndef

    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    if not symbols or len(symbols) > 8 or gold.free_symbols != answer.free_symbols:
        return False
    both = gold.atoms(Pow, log) | answer.atoms(Pow, log)
    if not any(not part.is_Pow or not part.exp.is_Integer for part in both) or gold.has(AppliedUndef):
        return False
    rng, agreed = random.Random(0), 0
    for trial in range(16):
        values = [Float(rng.uniform(0.3, 3), 30) * (1 if trial < 6 or rng.random() < 0.5 else -1) for _ in symbols]
        point = dict(zip(symbols, values, strict=True))
        if not all(_real_at(part, point) for part in both):
            continue
        a, b = (expr.subs(point).evalf(25) for expr in (gold, answer))
        if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
            continue
        if a.as_real_imag()[1] or b.as_real_imag()[1]:
            continue
        if abs(a - b) > 1e-18 * (abs(a) + abs(b)):
            return False
        agreed += trial < 6
    return agreed >= 4


def _union(expr: Any, other: Any) -> Any:
    """Inequalities in one unknown listed against a set, "x<1 or x>2", as the union that they stand for."""
    from sympy import Eq, FiniteSet, Set, Union
    from sympy.core.relational import Relational

    listed = isinstance(expr, FiniteSet) and all(isinstance(a, Relational) and not isinstance(a, Eq) for a in expr.args)
    if listed and isinstance(other, Set) and not isinstance(other, FiniteSet) and len(expr.free_symbols) == 1:
        return Union(*(inequality.as_set() for inequality in expr.args))
    return expr


def _coincidence(gold: Any, answer: Any) -> bool:
    """Accepted through rounding to six decimals, or because two equations both have no solution."""
    from math_verify.grader import get_pct_val, unwrap_eq
    from sympy import Eq, Expr, Float, Integer, Set, Tuple, simplify, solve

    def close(a: Any, b: Any) -> bool:
        a, b = unwrap_eq(a), unwrap_eq(b)
        if not (isinstance(a, Expr) and isinstance(b, Expr)) or a.free_symbols or b.free_symbols:
            return True
        difference, scale = abs((a - b).evalf(30)), (abs(a) + abs(b)).evalf(30)
        if not (difference.is_finite and scale.is_finite) or get_pct_val(a) is not None or get_pct_val(b) is not None:
            return True
        tolerance = 2e-6 if a.has(Float) or b.has(Float) else 1e-24
        return bool(difference <= scale * (min(tolerance, 1e-12) if isinstance(a, Integer) else tolerance))

    if isinstance(gold, Eq) and isinstance(answer, Eq) and isinstance(gold.lhs, Expr) and isinstance(answer.lhs, Expr):
        ratio = simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
        return not ratio.is_number and not solve(gold, *gold.free_symbols)
    if isinstance(gold, Tuple | Set) and isinstance(answer, Tuple | Set):
        if len(gold.args) != len(answer.args):
            return False
        return any(not any(close(a, b) for b in answer.args) for a in gold.args)
    return not close(gold, answer)
