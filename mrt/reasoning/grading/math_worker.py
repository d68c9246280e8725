"""Mathematical equality by math-verify, in processes that can be killed.

Run as a script this file is a *keeper*: it loads sympy once, then forks one *grader* at a time and the next when that
one dies, so a hanging expression costs its time limit and a few milliseconds, not a fresh start. They read questions
and write replies as JSON lines. The parent's end is `MathWorker` in `math_process.py`. Nothing of the package is
imported here, which keeps torch out of these processes.

A question is {"id", "gold", "answer": LaTeX, "same": spelled alike}, a reply {"id", "verdict", "detail"}. The kernel's
timer ends a grader at the time limit, whatever it computes and without its help.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import json
import math
import mmap
import os
import resource
import signal
import sys
from typing import Any

ITEMS_PER_GRADER = 2000  # then a fresh fork, so that caches cannot grow for ever
MAX_RESULT_DIGITS = 20_000  # numbers beyond this are compared as they are written, never computed
FINISHED, RENEW, MEMORY = 0, 3, 4  # exit codes of a grader

# One of each kind, so that a fresh grader starts with sympy's and the parser's caches full: the first meeting of a kind
# costs ten times the second.
_WARM_UP = [
    (r"\frac{1}{2}", "0.5"),
    (r"\sqrt{8}", r"2\sqrt{2}"),
    ("x^{2}+2x+1", "(x+1)^{2}"),
    (r"\{1,2\}", "2,1"),
    ("[1,2)", "(1,2,3)"),
    ("y=2x+1", "y=2x+3"),
    (r"x=\pi", r"e^{x} \sin x"),
    (r"50\%", "x>2"),
    ("5", r"\sum_{k=1}^{7} k"),
    ("5", r"is \frac{1}{2} n"),
    ("n!", r"\binom{n}{12}"),
]

Reply = dict[str, Any]


@functools.lru_cache(maxsize=256)  # a group shares its gold answer, and often its answers
def parse(text: str) -> Any:
    """The sympy object of one LaTeX expression, unevaluated; None where it cannot be read as a whole."""
    from latex2sympy2_extended import NormalizationConfig, latex2sympy, normalize_latex
    from math_verify.grader import should_treat_as_complex

    # Units stay in: theirs would take the h of "\pi r^2 h" for hours. `math_text.read` has dealt with them.
    config = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none")
    latex = normalize_latex(text, config)
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
        size = abs(float(exponent)) if isinstance(exponent, Number) else 10.0 ** min(sizes[1], 300.0)
        return max(largest, max(sizes[0], 1.0) * (1.0 if exponent.free_symbols else size))
    if isinstance(expr, factorial | binomial):
        return max(largest, 10.0 ** min(largest, 300.0) * max(largest, 1.0))
    return sum(sizes) if isinstance(expr, Mul) else largest + len(sizes) if isinstance(expr, Add) else largest


def equal(gold: Any, answer: Any) -> bool:
    """math-verify's verdict, without the cases in which it accepts what is not equal."""
    from math_verify import verify
    from math_verify.grader import get_pct_val, is_equation
    from sympy import And, Expr, I, Rational

    def same(a: Any, b: Any) -> bool:
        return bool(verify(a, b, timeout_seconds=None, raise_on_error=True, allow_set_relation_comp=True))

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
        return bool(imaginary) and same(gold.subs(imaginary), answer.subs(imaginary))
    return False


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


def grade(question: dict[str, Any]) -> Reply:
    """{"verdict", "detail"} of one question; never raises but for want of memory."""
    from sympy import nan, zoo

    gold = parse(question["gold"])
    if gold is None or gold in (nan, zoo):
        return {"verdict": "error", "detail": f"the gold answer {question['gold']!r} cannot be parsed"}
    if question.get("same"):
        return {"verdict": "correct", "detail": ""}
    answer = parse(question["answer"])
    if answer is None or answer in (nan, zoo):
        return {"verdict": "unparsed", "detail": "math-verify cannot parse it"}
    if type(gold) is type(answer) and gold == answer:
        return {"verdict": "correct", "detail": ""}
    for verdict, whose, expr in (("error", "gold", gold), ("unparsed", "given", answer)):
        if digits(expr) > MAX_RESULT_DIGITS:
            return {
                "verdict": verdict,
                "detail": f"the {whose} answer has numbers of more than {MAX_RESULT_DIGITS} digits",
            }
    try:
        verdict = "correct" if equal(gold, answer) else "wrong"
    except MemoryError:
        raise
    except Exception as error:  # sympy raises what it likes; the caller leaves the item out and counts it
        return {"verdict": "error", "detail": f"{type(error).__name__} while comparing"}
    return {"verdict": verdict, "detail": ""}


def _peak_mb() -> float:
    """The most address space that this process ever had; 0 where the system does not tell."""
    if not os.path.exists("/proc/self/status"):
        return 0.0
    with open("/proc/self/status") as status:
        return next((int(line.split()[1]) / 1024 for line in status if line.startswith("VmPeak:")), 0.0)


def serve(out: int, busy: mmap.mmap, seconds: float, memory_mb: int) -> int:
    """A grader's life: one question a line until the pipe closes; `busy` holds the id of the one in hand. Exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb * 2**20, memory_mb * 2**20))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # a parent that ignores or blocks the timer's signal hands that on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGALRM})
    buffer = b""
    for _ in range(ITEMS_PER_GRADER):
        while b"\n" not in buffer:
            chunk = os.read(0, 65536)
            if not chunk:
                return FINISHED
            buffer += chunk
        line, buffer = buffer.split(b"\n", 1)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        question = json.loads(line)
        busy[:8] = question["id"].to_bytes(8, "little")
        try:
            reply = grade(question)
        except MemoryError:
            return MEMORY
        # math-verify takes a failed allocation for "not equal", so a "wrong" at the memory limit means nothing.
        if reply["verdict"] != "correct" and _peak_mb() > 0.9 * memory_mb:
            return MEMORY
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(out, {"id": question["id"], **reply})
        busy[:8] = bytes(8)
    return RENEW


def send(out: int, reply: Reply) -> None:
    """Writes one reply line to the parent."""
    line = b"\n" + json.dumps(reply).encode() + b"\n"  # the first newline ends what a killed grader had begun
    while line:
        line = line[os.write(out, line) :]


def main(seconds: float, memory_mb: int) -> None:
    """The keeper: loads, says that it is ready, and keeps one grader alive until the parent closes the pipe."""
    out = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a library prints is no reply
    try:
        for gold, answer in _WARM_UP:
            grade({"gold": gold, "answer": answer})
    except ImportError as error:
        send(out, {"verdict": "error", "detail": str(error)})
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.setrecursionlimit(5000)
    sys.set_int_max_str_digits(0)  # MAX_RESULT_DIGITS is the bound here
    gc.collect()
    gc.freeze()  # else a grader's first collection copies every page that it shares with the keeper
    send(out, {"verdict": "ready"})
    busy = mmap.mmap(-1, 8)  # shared with the graders
    while True:
        pid = os.fork()
        if pid == 0:
            os._exit(serve(out, busy, seconds, memory_mb))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == FINISHED:
            return
        asked, busy[:8] = int.from_bytes(busy[:8], "little"), bytes(8)
        if code == -signal.SIGALRM:
            send(out, {"id": asked, "verdict": "timeout", "detail": f"stopped after {seconds:g} s"})
        elif code != RENEW:
            cause = f"the memory limit of {memory_mb} MB" if code == MEMORY else f"exit code {code}"
            send(out, {"id": asked, "verdict": "error", "detail": f"the grader died: {cause}"})


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        main(float(sys.argv[1]), int(sys.argv[2]))
    os._exit(0)  # at once: taking sympy down in good order takes a second
