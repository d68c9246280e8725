"""Pairs (gold, answer, whether they are equal) for the grader of mathematics, made by rewriting one side."""

import itertools
from collections.abc import Iterator
from fractions import Fraction

SUMS = [["x^2", "3x", "2"], [r"\sqrt{3}", "2", r"\pi"], ["a", "2b", "5"], ["y^3", "xy", "x"], [r"\sin x", "x", "1"]]
ROOTS = [(1, 2), (4, 4), (2, 7), (3, 5), (6, 1), (9, 2), (5, 8), (3, 3), (7, 10)]
SETS = [
    ["1", "2", "3"],
    ["-1", "4"],
    [r"\frac{1}{2}", "0", "5"],
    [r"\sqrt{2}", r"-\sqrt{2}"],
    ["x", "y"],
    ["6", "7", "8"],
]
ENDS = [(0, 1), (-2, 3), (1, 10), (4, 5), (-7, -1), (2, 100), (0, 6)]
WORDS = [("yes", "no"), ("Monday", "Tuesday"), ("no solution", "solution"), ("even", "odd")]
UNITS = [("cm", "m"), ("hours", "minutes"), ("dollars", "cents"), ("kg", "g"), ("inches", "feet")]

# As they stand in competition answers and in what models write.
EQUAL = [
    (r"\left( 3, \frac{\pi}{2} \right)", r"(3, \pi/2)"), ("p - q", "-q+p"), (r"\frac{14}{3}", r"4\frac{2}{3}"),
    (r"\text{Evelyn}", "Evelyn"), ("6 - 5i", "6-5i"),
    (r"\begin{pmatrix} 1/5 \\ -18/5 \end{pmatrix}", r"\begin{pmatrix} \frac{1}{5} \\ -\frac{18}{5} \end{pmatrix}"),
    (r"(-\infty, -2]", r"x \leq -2"), (r"\{1\pm\sqrt{5},-2\}", r"-2, 1+\sqrt5, 1-\sqrt5"), (r"\$32,348", "32348"),
    (r"\$32,\!348", "32,348"), (r"11\sqrt2", r"11 \cdot \sqrt{2}"), ("1,-2", "-2, 1"),
    (r"\frac{3\sqrt{3}}{4}", r"\frac{3}{4}\sqrt{3}"), ("y = 2x+3", "2x+3"), ("5.5", r"\frac{11}{2}"),
    ("2k+2", "2(k+1)"), (r"8 \text{ hours}", "8"), ("4343_6", "4343_{6}"), (r"\text{(E)}", "E"),
    (r"\textbf{(E)}", "E"), ("18.90", r"\$18.90"), (r"x \in [-2,7]", "[-2,7]"), ("(1,4.5)", r"(1, \frac{9}{2})"),
    (r"3 \pm 2 \sqrt{2}", r"3+2\sqrt2, 3-2\sqrt2"), (".45", "0.45"), ("13535", "13,535"), ("13{,}535", "13535"),
    (r"2\sqrt{3}-2\pi+5", r"5+2\sqrt{3}-2\pi"), (r"-\frac{35}{9}", r"\frac{-35}{9}"),
    (r"-\frac{35}{9}", r"-3\frac{8}{9}"), (r"\frac{1}{x+1}", "(x+1)^{-1}"), ("x^4 - 1", "(x^2+1)(x-1)(x+1)"),
    (r"\frac{\sqrt{6}-\sqrt{2}}{4}", r"\frac{\sqrt{2}(\sqrt{3}-1)}{4}"), (r"\cot x", r"\frac{\cos x}{\sin x}"),
    (r"\sec^2 x", r"1+\tan^2 x"), (r"\log_2 8", "3"), (r"\ln 4", r"2\ln 2"), ("2e^{2x}", "2 e^{2 x}"),
    ("e^{x+1}", r"e \cdot e^x"), ("(-2,-3)", "(-2, -3)"), (r"\left(\frac{3}{2},-13\right)", "(1.5,-13)"),
    ("0, 1, 2", r"\{0,1,2\}"), (r"(0,9)\cup(9,36)", r"(0, 9) \cup (9, 36)"), (r"120^\circ", "120"),
    (r"\frac{\pi}{3}", r"\pi/3"), (r"1 \text{ or } 3", "1, 3"), (r"\frac{5}{13}", "5/13"), ("x^2+4x+4", "(x+2)^2"),
    (r"\sqrt{a^2+b^2}", r"\sqrt{b^2+a^2}"), ("3n^2-n+2", "3n^2 - n + 2"), (r"5 \times 10^{-3}", "0.005"),
    (r"\binom{10}{3}", "120"), ("2^{10}", "1024"), ("7!", "5040"), (r"\frac{10!}{3!7!}", "120"),
    (r"50\%", r"\frac12"), (r"10\text{ cm}^2", "10"), (r"10\pi \text{ cm}^3", r"10\pi"),
    (r"4\pi", r"4 \pi \text{ square units}"), ("x=2", "2"), ("n = 7", "7"), ("a=1,b=2", "a = 1, b = 2"),
    ("(x,y)=(1,2)", "(1,2)"), ("(a,b) = (2,3)", "a=2, b=3"),
    (r"\text{no real solutions}", r"\text{No real solutions}"), (r"\emptyset", r"\varnothing"), (r"\mathbf{5}", "5"),
    (r"\overline{AB}", r"\overline{AB}"), (r"\angle A", r"\angle A"), (r"0.\overline{36}", r"\frac{4}{11}"),
    (r"i\sqrt{2}", r"\sqrt{2}i"), ("(1+i)^2", "2i"), (r"x<-1 \text{ or } x>3", r"(-\infty,-1)\cup(3,\infty)"),
    (r"(-\infty,-1)\cup(3,\infty)", r"x<-1 \text{ or } x>3"), ("-1 < x < 3", r"x \in (-1,3)"),
    (r"\{x \mid x > 3\}", "x>3"), (r"2\frac{1}{2}", "2.5"), (r"5.0\times10^6", "5000000"), ("3:5", "3 : 5"),
    (r"5 \text{ feet } 4 \text{ inches}", r"5 \text{ feet } 4 \text{ inches}"), ("10{:}30", "10:30"),
    ("10:45 a.m.", "10:45 AM"), (r"\dfrac{p}{q}", "p/q"), (r"\frac{x+y}{2}", "(x+y)/2"), ("|x-2|", "|2-x|"),
    (r"\lfloor x \rfloor", r"\lfloor x \rfloor"), (r"\sum_{k=1}^n k", r"\frac{n(n+1)}{2}"), (r"x \ne 3", r"x \neq 3"),
    (r"\pi^2/6", r"\frac{\pi^2}{6}"), (r"\sqrt[3]{2}", "2^{1/3}"), ("5", "5_{10}"),
]  # fmt: skip
DIFFERENT = [
    ("six", "6"), ("all real numbers", r"\mathbb{R}"), ("1.41", r"\sqrt2"), ("(3,4)", "(4,3)"), ("x^2", "x^3"),
    (r"\frac{n(n-1)}{2}", r"\frac{n(n+1)}{2}"), (r"2\pi", r"\pi"), ("(0,1]", "[0,1)"), ("-3", "3"), ("6-5i", "6+5i"),
    (r"\ln 4", r"2\ln 3"), ("4343_6", "4343_7"), (r"\text{Evelyn}", r"\text{Angela}"), ("a_1", "a_2"), ("a_1", "a"),
    (r"\log_2 8", "8"), (r"(-\infty,-1)\cup(3,\infty)", r"x<-1 \text{ or } x>4"), ("10:45 a.m.", "10:45 PM"),
    (r"\{x \mid x > 3\}", "x<3"),
]  # fmt: skip


def fractions(most: int) -> Iterator[tuple[str, str, bool]]:
    values = sorted({Fraction(n * (-1) ** n, d) for n in range(1, 12) for d in (2, 3, 4, 5, 8, 20)} - {Fraction(-1)})
    values = [value for value in values if value.denominator > 1]
    for value in values[:: max(1, len(values) // most)]:
        a, b, sign = abs(value.numerator), value.denominator, "-" if value < 0 else ""
        gold = rf"{sign}\frac{{{a}}}{{{b}}}"
        yield gold, f"{sign}{a}/{b}", True
        yield gold, rf"{sign}\dfrac{{{a}}}{{{b}}}", True
        yield gold, rf"\frac{{{sign}{2 * a}}}{{{2 * b}}}", True
        yield gold, rf"$ {sign}\tfrac{{{a}}}{{{b}}} $", True
        yield gold, rf"x = {sign}{a}/{b}", True
        yield gold, rf"\left({sign}\frac{{{a}}}{{{b}}}\right)", True
        if a < 10 and b < 10:
            yield gold, rf"{sign}\frac{a}{b}".replace("rac", "rac ", 1), True
        if 200 % b == 0:
            yield gold, f"{float(value)}", True
            yield gold, f"{float(value)}0", True
        if a > b:
            yield gold, rf"{sign}{a // b}\frac{{{a % b}}}{{{b}}}", True
            yield gold, f"{sign}{a // b} {a % b}/{b}", True
        yield gold, rf"{sign}\frac{{{b}}}{{{a}}}", False
        yield gold, rf"{'' if sign else '-'}\frac{{{a}}}{{{b}}}", False
        yield gold, rf"{sign}\frac{{{a + 1}}}{{{b}}}", False
        yield gold, f"{float(value) + 0.01:.3f}", False
        yield gold, f"{a} {b}", False
        yield gold, f"{a},{b}", False


def integers(most: int) -> Iterator[tuple[str, str, bool]]:
    for n in (0, 7, -45, 2024, 10**9, 1234567, 12, 100, 1, 99, 1000, -6, 365, 86400)[:most]:
        gold = str(n)
        yield from (
            (gold, form, True) for form in (f"{n}.0", f"{n}.", f" {n} ", rf"\text{{{n}}}", f"{{{n}}}", f"(({n}))")
        )
        yield from (
            (gold, form, True) for form in (rf"{n}\text{{ cm}}", f"{n} meters", rf"${n}$", f"n={n}", rf"\mathbf{{{n}}}")
        )
        yield gold, rf"\frac{{{3 * n}}}{{3}}", True
        yield gold, f"{n - 3}+3", True
        yield gold, rf"\({n}\)", True
        if n > 999:
            grouped = f"{n:,}"
            yield from ((gold, grouped.replace(",", mark), True) for mark in (",", "{,}", r"\,", " ", r"\ ", r",\!"))
            yield grouped, gold, True
        if str(n) in ("100", "1000", "1000000000"):
            power = len(str(n)) - 1
            yield gold, f"10^{{{power}}}", True
            yield gold, rf"1 \times 10^{{{power}}}", True
            yield gold, f"1e{power}", True
        yield from (
            (gold, form, False) for form in (str(n + 1), f"{n}1", f"{n}.5", f"{n + 1}x", rf"{n}+\pi", f"{n + 2},{n}")
        )
        yield gold, rf"{n + 0.000001:.6f}", False
        if n:
            yield from (
                (gold, form, False) for form in (str(-n), f"{10 * n}", rf"{n}\sqrt{{2}}", f"{n}^2+1", f"0.{abs(n)}")
            )


def expressions(most: int) -> Iterator[tuple[str, str, bool]]:
    for terms in SUMS[:most]:
        gold = "+".join(terms)
        for order in itertools.islice(itertools.permutations(terms), 1, 5):
            yield gold, "+".join(order), True
        yield gold, f"{terms[0]}+({terms[1]}+{terms[2]})", True
        yield gold, "-".join(terms), False
        yield gold, "+".join(terms[:2]), False
        yield gold, "+".join([*terms, "1"]), False
        yield gold, ",".join(terms), False
    for a, b in ROOTS[:most]:
        gold = f"(x+{a})(x-{b})"
        yield gold, f"(x-{b})(x+{a})", True
        yield gold, f"x^2{a - b:+d}x-{a * b}" if a != b else f"x^2-{a * b}", True
        yield gold, f"(x+{b + 1})(x-{a})", False
        yield gold, f"x^2-{a * b + 1}", False
        yield f"x={a}", f"{a}=x", True
        yield f"y={a}x+{b}", f"y={b}+{a}x", True
        yield f"y={a}x+{b}", f"{a}x-y+{b}=0", True
        yield f"y={a}x+{b}", f"y={a + 1}x+{b}", False
        yield f"x={a}", f"y={a}", False
        yield f"x>{a}", f"{a}<x", True
        yield f"x>{a}", rf"x \ge {a}", False
        yield f"x>{a}", f"x<{a}", False
    for n in (2, 5, 7, 3, 6)[:most]:
        yield rf"\sqrt{{{4 * n}}}", rf"2\sqrt{{{n}}}", True
        yield rf"2\sqrt{{{n}}}", rf"2\sqrt{n}", True
        yield rf"\frac{{1}}{{\sqrt{{{n}}}}}", rf"\frac{{\sqrt{{{n}}}}}{{{n}}}", True
        yield rf"{n}\pi", rf"\pi \cdot {n}", True
        yield rf"\sqrt{{{n}}}", rf"\sqrt[3]{{{n}}}", False
        yield rf"\sqrt{{{n}}}", f"{n**0.5:.2f}", False
        yield rf"{n}\pi", f"{n * 3.14:.2f}", False
        yield rf"\pi r^{n} h", rf"\pi r^{n}", False  # h is no unit
        yield f"2^{{{20 * n}}}", f"2^{{{20 * n}}}+1", False
        yield f"10^{{-{20 * n}}}", f"10^{{-{20 * n + 1}}}", False
        yield f"x^2=-{n}", f"x^2=-{n + 1}", False  # without real solutions either way
        yield rf"\frac{{{n}}}{{9}}" if n != 3 else "1/3", rf"0.\overline{{{n}}}", True


def collections(most: int) -> Iterator[tuple[str, str, bool]]:
    for elements in SETS[:most]:
        gold = rf"\{{{','.join(elements)}\}}"
        for order in itertools.islice(itertools.permutations(elements), 0, 4):
            yield gold, rf"\{{{', '.join(order)}\}}", True
            yield ", ".join(elements), ",".join(order), True
        yield gold, rf"\left\{{{'; '.join(elements)}\right\}}", True
        yield gold, " or ".join(elements), True
        yield gold, r" \text{ and } ".join(f"x={e}" for e in elements), True
        yield gold, rf"\{{{','.join(elements[:-1])}\}}", False
        yield gold, rf"\{{{','.join([*elements, '9'])}\}}", False
        yield gold, elements[0], False
        yield elements[0], gold, False
    for a, b in ENDS[:most]:
        yield f"({a},{b})", rf"\left({a}, {b}\right)", True
        yield f"[{a},{b})", f"[ {a} , {b} )", True
        yield f"[{a},{b}]", rf"{a} \le x \le {b}", True
        yield f"({a},{b})", f"{a}<x<{b}", True
        yield rf"(-\infty,{a})\cup({b},\infty)", rf"({b},\infty) \cup (-\infty,{a})", True
        yield f"({b},{a})", rf"\langle {b}, {a} \rangle", True
        yield rf"\begin{{pmatrix}}{a}\\{b}\end{{pmatrix}}", rf"\begin{{bmatrix}} {a} \\ {b} \end{{bmatrix}}", True
        yield f"[{a},{b})", f"({a},{b}]", False
        yield f"[{a},{b}]", f"({a},{b})", False
        yield f"[{a},{b}]", rf"\{{{a},{b}\}}", False
        yield f"({b},{a})", f"({a},{b})", False
        yield f"({b},{a})", f"({b + 1},{a})", False
        yield rf"(-\infty,{a})\cup({b},\infty)", rf"(-\infty,{a}]\cup({b},\infty)", False
        yield rf"\begin{{pmatrix}}{a}\\{b}\end{{pmatrix}}", rf"\begin{{pmatrix}}{b}\\{a}\end{{pmatrix}}", False


def words_and_units(most: int) -> Iterator[tuple[str, str, bool]]:
    for p in (5, 25, 50, 80, 12, 60, 75, 99)[:most]:
        forms = (f"{p}%", rf"{p} \%", f"{p} percent", rf"{p}\text{{ percent}}", str(p), f"{p / 100}")
        yield from ((rf"{p}\%", form, True) for form in forms)
        yield str(p), rf"{p}\%", True
        yield f"{p / 100}", rf"{p}\%", True
        yield from ((rf"{p}\%", form, False) for form in (f"{p + 1}%", f"{p / 10}", rf"{p / 10}\%", f"{p * 10}"))
        yield f"{p / 100}", rf"{p / 100}\%", False
    yield "1", r"1\%", False
    for word, other in WORDS[:most]:
        yield rf"\text{{{word}}}", word, True
        yield word, rf"\textbf{{{word.upper()}}}", True
        yield rf"\text{{{word}}}", rf"\text{{{other}}}", False
        yield rf"\text{{{word}}}", word[::-1], False  # math-verify compares letters as a product
        yield rf"\text{{{word}}}", rf"\text{{{word} or {other}}}", False
        yield rf"\text{{{word}}}", "5", False
        yield "5", word, False
    for letter, other in itertools.pairwise("ABCDE"):
        yield from ((letter, form, True) for form in (rf"\text{{{letter}}}", f"({letter})", rf"\textbf{{({letter})}}"))
        yield from (
            (letter, form, False) for form in (other, f"{letter}{other}", f"{letter},{other}", f"{letter} or {other}")
        )
    for unit, other in UNITS[:most]:
        yield from (
            (rf"12\text{{ {unit}}}", form, True) for form in ("12", f"12 {unit}", rf"12 \mathrm{{{unit}}}", "12.0")
        )
        yield from (
            (rf"12\text{{ {unit}}}", form, False) for form in (rf"12\text{{ {other}}}", f"12 {other}", f"13 {unit}")
        )
        yield "12", rf"12\text{{ {unit}}}^2", True
        yield "12", r"12\text{ million}", False
    yield from (("90", form, True) for form in (r"90^\circ", r"90^{\circ}", "90°", r"90\text{ degrees}"))
    yield from ((r"\$5", form, True) for form in ("5", "$5", r"\$5.00", r"5 \text{ dollars}"))
    yield from (("1011_2", form, True) for form in ("1011", r"1011_{2}", r"1011_{\text{two}}"))
    yield from (("1011_2", form, False) for form in ("1011_3", "11", "1101_2"))


def pairs(most: int) -> list[tuple[str, str, bool]]:
    """(gold, answer, whether they are equal): the written ones, and `most` values of each kind."""
    written = [(*pair, True) for pair in EQUAL] + [(*pair, False) for pair in DIFFERENT]
    return written + [
        pair for kind in (fractions, integers, expressions, collections, words_and_units) for pair in kind(most)
    ]
