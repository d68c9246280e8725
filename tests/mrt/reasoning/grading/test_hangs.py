"""The limits hold from everywhere: a main thread, another thread, an event loop and a forked child."""

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from mrt.reasoning.grading.math_grader import MathGrader
from mrt.reasoning.grading.verdict import Grade, Verdict

pytestmark = pytest.mark.training

SECONDS = 0.5

# (gold, answer): some hang math-verify for hours, the others would if the limits let them through.
HANGS = [
    ("5", r"\binom{1000000000}{500000000}"),
    (r"\int_0^1 \frac{\sin x \cos x e^{x^2}}{x^5+x+1} dx", r"\int_0^2 \frac{\sin x \ln x e^{x^2}}{x^7+x+1} dx"),
    (r"\begin{pmatrix}a&b&c&d\\e&f&g&h\\i&j&k&l\\m&n&o&p\end{pmatrix}^{-1}", "5"),
    ("5", r"9^{9^{9^9}}"),
    ("5", r"\sum_{n=1}^{1000000000} \frac{\sin n}{n^2+1}"),
    ("5", "{" * 400 + "5" + "}" * 400),
    ("9^{9^{9^9}}", "8^{8^{8^8}}"),
    ("5", "100000000!"),
    ("5", "((10!)!)!"),
    ("5", r"\binom{100000000}{50000000}+1"),
    ("(x+y+z)^{20000}", "(x+y+z)^{19999}(x+y+z)+1"),
    ("5", r"\int (x+y+z+w)^{300} dx"),
    ("5", r"\prod_{n=1}^{5000} (x+n)"),
    ("5", r"\prod_{n=1}^{100000000} \frac{n^2+1}{n^2+2}"),
    (r"\sum_{n=1}^{\infty} \frac{\sin n}{n^3+n+1}", r"\sum_{n=1}^{\infty} \frac{\cos n}{n^3+n+1}"),
    ("5", r"\sum_{n=1}^{100000000} x^n y^{n^2}"),
    ("x^{11}-x-1=0", "x^{13}-x-1=0"),
    ("5", r"\begin{vmatrix}a&b&c&d&q\\e&f&g&h&r\\i&j&k&l&s\\m&n&o&p&t\\u&v&w&x&y\end{vmatrix}"),
    ("5", "(" * 20 + "5" + ")^2" * 20),
    ("5", "{1+" * 19 + "5" + "}" * 19),
    ("5", "{ (" * 10 + "5" + ") }" * 10),
    ("5", r"\sqrt{2+" * 19 + r"\sqrt{2}" + "}" * 19),
    ("5", r"\sin(10^{10^{10}})"),
    ("5", r"1.0000001^{10^{15}}"),
    ("5", "+".join(["1"] * 299)),
    ("5", r"\text{a}" * 290),
    ("5", "9" * 1_000_000),
    ("5", "(" * 1_000_000),
]


def families() -> list[tuple[str, str]]:
    """More of each kind, to a hundred in all: numbers too large to write down, sums and products too long to run
    through, integrals, determinants and polynomials too large to work out."""
    names = "abcdefghijklmnopqrstuvwxyz"
    pairs = [("5", rf"\binom{{{n}}}{{{n // 2}}}") for n in (10**6, 3 * 10**7, 10**9 + 7, 10**12)]
    pairs += [("5", f"{n}!") for n in (10**6, 10**7, 123456789, 10**10)]
    pairs += [("5", f"(({n}!)!)!") for n in (5, 6, 9)] + [("5", f"({n}!)!") for n in (10, 12, 20)]
    pairs += [("5", f"{b}^{{{b}^{{{b}^{{{b}}}}}}}") for b in (4, 5, 7, 11)]
    pairs += [(f"{b}^{{{b}^{{{b}^{{{b}}}}}}}+1", f"{b + 1}^{{{b}^{{{b}^{{{b}}}}}}}") for b in (5, 6, 7)]
    pairs += [("5", rf"\sum_{{n=1}}^{{{10**k}}} \frac{{\cos n}}{{n^{k}+1}}") for k in (6, 7, 8, 12)]
    pairs += [("5", rf"\sum_{{n=1}}^{{{10**k}}} \frac{{x^n}}{{n!}}") for k in (5, 6, 9)]
    pairs += [("5", rf"\prod_{{n=1}}^{{{10**k}}} \frac{{n^3+n+1}}{{n^3+2}}") for k in (5, 6, 9)]
    pairs += [("5", rf"\prod_{{n=1}}^{{{k}}} (x^n+y)") for k in (300, 2000, 10**6)]
    infinite = [r"{\sin n}{n^3+n+1}", r"{\ln n}{n^3+n+1}", r"{\cos n}{n^4+n+3}", r"{\sin n^2}{n^2+5}"]
    pairs += [(rf"\sum_{{n=1}}^{{\infty}} \frac{a}", rf"\sum_{{n=2}}^{{\infty}} \frac{a}") for a in infinite]
    wild = [r"\sin x \cos x e^{x^2}", r"\ln x \sin x^2", r"e^{\sin x} \cos x^3", r"\tan x e^{-x^2}", r"x^x \sin x"]
    for i, one in enumerate(wild):
        below = rf"x^{5 + i}+x^2+{i + 1}"
        pairs.append((rf"\int_0^1 \frac{{{one}}}{{{below}}} dx", rf"\int_0^3 \frac{{{one}}}{{{below}+x}} dx"))
    pairs += [("5", rf"\int ({'+'.join(names[:k])}+x)^{{{200 + 50 * k}}} dx") for k in (2, 3, 4, 5)]
    pairs += [(f"(x+y+z)^{{{k}}}", f"(x+y+z)^{{{k - 1}}}(x+y+z)+1") for k in (3000, 9000, 40000)]
    pairs += [(f"x^{{{k}}}-x-1=0", f"x^{{{k + 2}}}-x-1=0") for k in (7, 9, 13, 17, 23)]
    for size in (4, 5):
        letters = iter(names)
        rows = r"\\".join("&".join(next(letters) for _ in range(size)) for _ in range(size))
        matrix = rf"\begin{{pmatrix}}{rows}\end{{pmatrix}}"
        pairs += [("5", matrix + "^{-1}"), (matrix + "^{-1}", matrix + "^{-2}"), ("5", matrix + "^{9}")]
    pairs += [("5", rf"\{f}(10^{{10^{{{k}}}}})") for f, k in (("cos", 9), ("tan", 10), ("ln", 11))]
    pairs += [("5", rf"{b}^{{10^{{{k}}}}}") for b, k in (("1.000001", 14), ("0.99999", 13), ("3", 10), ("7", 12))]
    pairs += [("5", "(" * k + "x+y" + ")^3" * k) for k in (9, 14, 19)]
    pairs += [("5", r"\frac{1}{1+" * k + "x" + "}" * k) for k in (15, 19, 60)]
    return pairs + [("5", r"\sqrt[3]{5+" * k + r"\sqrt{2}" + "}" * k) for k in (10, 19, 40)]


HANGS += families()


def bounded(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    """Grades each pair and asserts the bound, and that the next item is graded properly."""
    grades = []
    for gold, answer in pairs:
        start = time.monotonic()
        grades.append(grader.grade_answer(answer, gold))
        assert time.monotonic() - start < SECONDS + 1.0, (gold[:60], answer[:60])
        assert grades[-1].verdict is not Verdict.CORRECT
        assert grader.grade_answer("0.5", r"\frac{1}{2}").verdict is Verdict.CORRECT
    return grades


def from_main(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    return bounded(grader, pairs)


def from_thread(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    grades: list[Grade] = []
    thread = threading.Thread(target=lambda: grades.extend(bounded(grader, pairs)))
    thread.start()
    thread.join()
    assert len(grades) == len(pairs)
    return grades


def from_event_loop(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    async def grade() -> list[Grade]:
        return bounded(grader, pairs)

    return asyncio.run(grade())


def from_subprocess(grader: MathGrader, pairs: list[tuple[str, str]]) -> list[Grade]:
    """In a forked child, where the parent's worker must not be touched."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        verdicts = "failed"
        try:
            grader.start()  # its own worker starts
            verdicts = " ".join(grade.verdict.value for grade in bounded(grader, pairs))
        finally:
            grader.close()
            os.write(write, verdicts.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    verdicts = os.read(read, 65536).decode()
    os.close(read)
    return [Grade(Verdict(verdict)) for verdict in verdicts.split()]


CONTEXTS = [from_main, from_thread, from_event_loop, from_subprocess]


@pytest.fixture(scope="module")
def grader() -> Iterator[MathGrader]:
    with MathGrader(seconds=SECONDS) as grader:
        grader.start()
        yield grader


@pytest.mark.parametrize("context", CONTEXTS)
def test_hanging_expressions_are_bounded(grader: MathGrader, context: Callable[..., list[Grade]]) -> None:
    verdicts = [grade.verdict for grade in context(grader, HANGS[:4])]
    assert verdicts[:3] == [Verdict.TIMEOUT] * 3
    assert verdicts[3] in (Verdict.UNPARSED, Verdict.TIMEOUT)  # unparsed, where half a second is enough to see it
    assert Grade(Verdict.TIMEOUT).reward is None


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("context", CONTEXTS)
def test_all_hanging_expressions_are_bounded(grader: MathGrader, context: Callable[..., list[Grade]]) -> None:
    assert len(HANGS) >= 100
    verdicts = [grade.verdict for grade in context(grader, HANGS)]
    assert len(verdicts) == len(HANGS)
    assert verdicts.count(Verdict.TIMEOUT) >= 8


def test_long_input_is_read_in_no_time() -> None:
    """Within two seconds each: half of one, as elsewhere here, is too little on a machine with other work."""
    million = 1_000_000
    texts = ["a" * million, "{" * million, "\\" * million, "\\boxed{" * 140_000, "\\boxed{" + "9" * million + "}"]
    texts += ["\\boxed{" * 100_000 + "}" * 100_000, "\\boxed{1}\\boxed{2}" * 50_000, "<think>" * 140_000, "}" * million]
    # What makes a careless regular expression quadratic, at the longest length that is read.
    pieces = [
        "a b ",
        "1" + " " * 99,
        "1_",
        r"\frac ",
        "p.",
        "½",
        r"\{ x | ",
        "^" + " " * 9,
        "percent ",
        "111 ",
        r"\text{a",
        ".",
        "' ",
    ]
    texts += ["\\boxed{" + piece * (19_000 // len(piece)) + "!}" for piece in pieces]
    with MathGrader(seconds=2.0) as grader:
        grader.start()
        for text in texts:
            start = time.monotonic()
            assert grader.grade(text, "5").reward == 0.0
            assert time.monotonic() - start < 2.0, text[:20]
        assert grader.grade("a" * million + r"</think>\boxed{5}", "5").verdict is Verdict.CORRECT
