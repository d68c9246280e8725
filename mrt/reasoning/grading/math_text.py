r"""How a written mathematical answer is spelled before it is read: limits, and one spelling for everything.

Everything here is plain text and linear in the length of the input. What a spelled answer *is* stands in `form.py`,
what its words are in `lexicon.py`, the mathematics in `math_equality.py`.
"""

from __future__ import annotations

import re
import unicodedata

from mrt.reasoning.grading import lexicon

MAX_DIGITS = 1000  # in one number
MAX_DEPTH = 20  # brackets inside brackets
MAX_CARETS = 4  # exponents stacked on each other
MAX_ITEMS = 200  # separators in a list
MAX_TOKENS = 600  # a millisecond each to parse

_GREEK_NAMES = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi rho sigma tau phi chi psi
omega Gamma Delta Theta Lambda Xi Sigma Phi Psi Omega"""
_GREEK = dict(zip("αβγδεζηθικλμνξρστφχψωΓΔΘΛΞΣΦΨΩ", re.split(r"\s+", _GREEK_NAMES), strict=True))
_UNICODE = {
    **{chr(0xFF10 + d): str(d) for d in range(10)},
    **{c: f"^{{{i}}}" for i, c in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
    **{c: f"_{{{i}}}" for i, c in enumerate("₀₁₂₃₄₅₆₇₈₉")},
    **{c: rf"\frac{{{a}}}{{{b}}}" for c, a, b in [("½", 1, 2), ("⅓", 1, 3), ("⅔", 2, 3), ("¼", 1, 4), ("¾", 3, 4)]},
    **dict.fromkeys("−–‐‑－", "-"),
    **dict.fromkeys("\u00a0\u2002\u2003\u2009\u200a\u202f\u3000\t\r\n~", " "),
    **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff", ""),
    **{"×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ "},
    **{"≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap "},
    **{"∈": r"\in ", "∅": r"\emptyset ", "√": r"\sqrt ", "，": ",", "％": "%", "＝": "=", "（": "(", "）": ")"},
    **{"℃": r"^\circ C", "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}"},
    **{letter: rf"\{name} " for letter, name in _GREEK.items()},
}
_TABLE = str.maketrans(_UNICODE)

TEXT = rf"\\(?:{lexicon.TEXT_MACROS})(?![A-Za-z])\s*"
_GROUP = r"(?:\{,\}|\\[,;:! ]|[ ])"  # what stands between the thousands; a plain comma is math-verify's to read
_THOUSANDS = re.compile(rf"(?<![\d.,])\d{{1,3}}(?:(?:{_GROUP}|,\\!\s?)\d{{3}})+(?!\d)")
_REPEATING = re.compile(r"(\d{0,20})\.(\d{0,20})\\(?:overline|bar)\s?\{(\d{1,20})\}")
_SCIENTIFIC = re.compile(r"(?<![A-Za-z\\\d.])(\d{1,30}(?:\.\d{1,30})?)[eE]([+-]?\d{1,6})(?![\d.A-Za-z])")
_ROMAN = re.compile(rf"\\(?:{lexicon.TEXT_MACROS})(?![A-Za-z])\s*\{{\s*([A-Za-z]+)\s*\}}")
_FUNCTION = re.compile(
    rf"(?<![\\A-Za-z])({'|'.join(lexicon.BARE_FUNCTIONS)})(?=\s*(?:\^\s*\{{?-?\d\}}?\s*|_\s*\{{?\w+\}}?\s*)?(?:[({{\\]|\s[a-z\d](?![A-Za-z])))"
)
_NAMES = {
    **{"leqslant": "le", "geqslant": "ge", "leq": "le", "geq": "ge", "lt": "<", "gt": ">", "neq": "ne"},
    **{"oslash": "emptyset", "varnothing": "emptyset", "colon": ":", "infin": "infty", "degree": "^\\circ "},
    **{"dbinom": "binom", "tbinom": "binom", "dfrac": "frac", "tfrac": "frac", "cfrac": "frac"},
    **{"R": "mathbb{R}", "Z": "mathbb{Z}", "N": "mathbb{N}", "Q": "mathbb{Q}", "vert": "|", "lvert": "|", "rvert": "|"},
    **{"langle": "(", "rangle": ")", "lparen": "(", "rparen": ")", "lbrace": "{", "rbrace": "}", "lt;": "<"},
    **{"lg": "log", "bigcup": "cup", "bigcap": "cap", "arctg": "arctan", "tg": "tan", "ctg": "cot", "sim": "approx"},
    **{"simeq": "approx", "thickapprox": "approx", "mathop": "mathrm", "mod": "bmod", "lnot": "neg", "textdollar": "$"},
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_LAYOUT = re.compile(
    r"\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|left\s?\.|right\s?\.|left|right|middle|[bB]igg?[lrm]?"
    r"|qed|nonumber|notag|centering|bullet|checkmark|boldmath|Large|large|therefore|because)(?![A-Za-z])"
)
_INVISIBLE = re.compile(r"\\(?:[hv]?phantom|[hv]space\*?|label|tag|color|square|Box|blacksquare)\s*(?:\{[^{}]*\})?")
_STYLED = re.compile(
    r"\\(?:textcolor|colorbox)\s*\{[^{}]*\}|\\(?:underline|fbox|pmb|boldsymbol|mathcal|mathbf)(?![A-Za-z])"
)
_OLD_FONT = re.compile(r"\{\s*\\(rm|bf|it|sf|tt)(?![A-Za-z])\s*([^{}]*)\}")
_ARRAY = re.compile(r"([\[(|])\s*\\begin\{array\}\s*(?:\{[^{}]*\})?(.*?)\\end\{array\}\s*([\])|])", re.DOTALL)
_ARRAYS = {"[]": "bmatrix", "()": "pmatrix", "||": "vmatrix"}


# \mathrm e, \text{\$}, \mu\text{m}, \text{k}\Omega, 5^{\text{th}} in the spelling that the rest of the grader reads.
_BARE_MACRO = re.compile(
    r"\\(mathrm|mathbf|mathit|mathsf|text|textbf|textit|operatorname)\s+([A-Za-z\d])(?![A-Za-z\d])"
)
_WRAPPED_SIGN = re.compile(rf"{TEXT}\{{\s*(\\?[$%£€¥₹])\s*\}}")
_MICRO = re.compile(rf"(?:\\mu\s*(\\(?:{lexicon.TEXT_MACROS})\s*\{{)\s*|({TEXT}\{{)\s*\\mu\s*)(?=[A-Za-z])")
_OHM = re.compile(
    rf"(?:{TEXT}\{{\s*([kMGm]?)\s*\\Omega\s*\}}|{TEXT}\{{\s*([kMGm])\s*\}}\s*\\Omega(?![A-Za-z])"
    r"|(?<=[\d}])(?:\\[,;: ]|~|\s)+\\Omega(?=\s*$))"
)
_ORDINAL = re.compile(
    rf"(?<=\d)\s?(?:\^\s?\{{\s*(?:{TEXT})?\{{?\s*(st|nd|rd|th)\s*\}}?\s*\}}|\^\s?{TEXT}\{{\s*(st|nd|rd|th)\s*\}})"
)


class Unreadable(ValueError):
    """An answer beyond the limits, or one that cannot be read in a single way; the text says which."""


def check_limits(text: str, max_chars: int) -> None:
    """Raises `Unreadable` for what would be expensive to parse or is no answer; linear time."""
    if len(text) > max_chars:
        raise Unreadable(f"{len(text)} characters, the limit is {max_chars}")
    if not text.strip():
        raise Unreadable("empty")
    if re.search(rf"\d{{{MAX_DIGITS + 1}}}", text):
        raise Unreadable(f"a number of more than {MAX_DIGITS} digits")
    if text.count(",") + text.count(";") + text.count("\\\\") > MAX_ITEMS:
        raise Unreadable(f"a list of more than {MAX_ITEMS} items")
    if re.search(rf"(?:\^[{{(]{{0,9}}[\w.!\\]{{0,30}}\){{0,9}}){{{MAX_CARETS + 1}}}", "".join(text.split())):
        raise Unreadable(f"a tower of more than {MAX_CARETS} exponents")
    depth = braces = 0
    for match in re.finditer(r"\\.|[({\[\])}]", text, re.DOTALL):
        mark = match.group()
        if mark in "({[":
            depth += 1
        elif mark in ")}]":
            depth -= 1
        braces += (mark == "{") - (mark == "}")
        if depth > MAX_DEPTH:
            raise Unreadable(f"brackets nested more than {MAX_DEPTH} deep")
        if braces < 0:
            break
    if braces:
        raise Unreadable("unbalanced braces")


def tidy(text: str) -> str:
    """One spelling for spaces, dollars, fonts, commands, functions, fractions, thousands and powers of ten."""
    text = unicodedata.normalize("NFC", text).translate(_TABLE)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\*\*(.+?)\*\*|__(.+?)__|`([^`]*)`", lambda m: m[1] or m[2] or m[3] or "", text)  # of Markdown
    text = _INVISIBLE.sub(" ", _LAYOUT.sub(" ", text))
    if "\\" in text:
        text = _BARE_MACRO.sub(r"\\\1{\2}", text)
        text = _WRAPPED_SIGN.sub(r"\1", text)
        text = _MICRO.sub(lambda m: (m[1] or m[2]) + "u", text)
        text = _OHM.sub(lambda m: f"\\text{{ {m[1] or m[2] or ''}ohm}}", text)
        text = _ORDINAL.sub(lambda m: f"\\text{{{m[1] or m[2]}}}", text)
        text = re.sub(rf"{TEXT}\{{\s*(\d+)(st|nd|rd|th)\s*\}}", r"\1\\text{\2}", text)
    text = _OLD_FONT.sub(r"\\math\1{\2}", text).replace("\\mathtt{", "\\text{")
    text = re.sub(r"\\[()]|\\\[|(?<!\\)\\\]", " ", text) if text.lstrip().startswith(("\\(", "\\[")) else text
    text = re.sub(r"\b(?:US|AU|CA|HK|NZ|A|C|S)\s?(?=\\?\$\s?\d)", "", text)
    text = re.sub(r"(?<!\\)\$", "", text)
    text = _THOUSANDS.sub(lambda match: re.sub(r"\D", "", match.group()), text)
    text = re.sub(r"(?<!\\)\\(?:[,;:!> ]|q?quad(?![A-Za-z])|enspace(?![A-Za-z])|newline(?![A-Za-z]))", " ", text)
    text = _COMMAND.sub(_one_name, text)
    text = re.sub(r"(?<!\\)<=|=<", r"\\le ", text).replace(">=", r"\ge ").replace("!=", r"\ne ")
    text = _ROMAN.sub(_roman, text)
    text = re.sub(rf"({TEXT}\{{[^{{}}]*?\w)\s+(and|or)\s*\}}", r"\1}\\text{ \2 }", text)
    text = re.sub(rf"_\s*\{{?\s*{TEXT}\{{\s*(\w+)\s*\}}\s*\}}?", r"_{\1}", _STYLED.sub("", text))
    text = _numbers(_operators(text))
    return re.sub(r"(?:(?<=[^.\s])\.|[,;:])\s*$", "", _drop_doubled(re.sub(r"\s+", " ", text).strip())).strip()


def _one_name(match: re.Match[str]) -> str:
    name = _NAMES.get(match.group(1))
    if name is None:
        return match.group()
    if name in ("cup", "cap") and match.string[match.end() :].lstrip()[:1] == "_":
        return match.group()
    return "\\" + name if name[0].isalpha() or name in "{}$" else name


def _roman(match: re.Match[str]) -> str:
    r"""\mathrm{e} is e, \mathrm{sin} is \sin; any other word keeps its macro."""
    word = match.group(1)
    macro = match.group().lstrip("\\").partition("{")[0].strip()
    if word in lexicon.CONSTANTS:
        return lexicon.CONSTANTS[word]
    if word in lexicon.FUNCTIONS and not (word in ("min", "sec") and macro != "operatorname"):
        return f"\\{word} "
    if word == "d" and macro == "mathrm":
        return "d"
    return match.group()


def _operators(text: str) -> str:
    """Fractions, roots, binomials, bare function names and Greek letters, matrices in brackets."""
    text = re.sub(r"(?<![A-Za-z.])(?:np|numpy|math|sympy)\.(?=[a-z])", "", text)
    text = re.sub(r"\\frac\s*(\d|[A-Za-z](?![A-Za-z]))\s*(\d|[A-Za-z](?![A-Za-z]))", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac\s*([A-Za-z\d])\s*\{", r"\\frac{\1}{", text)
    text = re.sub(r"(\\frac\s*\{[^{}]*\})\s*(\d|[A-Za-z](?![A-Za-z]))", r"\1{\2}", text)
    text = re.sub(r"\\frac\s+([A-Za-z])([A-Za-z])(?![A-Za-z])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\{([^{}]*?)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}", text)
    text = re.sub(r"\\binom\s*([A-Za-z\d])\s*([A-Za-z\d])", r"\\binom{\1}{\2}", text)
    text = re.sub(r"_\s*\{\s*\\(max|min)\s*\}|_\s*\\(max|min)(?![A-Za-z])", lambda m: f"_{{{m[1] or m[2]}}}", text)
    text = re.sub(r"(?<![\\A-Za-z])sqrt(?=\s*[({\d])", r"\\sqrt", text)
    text = re.sub(r"\\sqrt\s*(\d+|\\pi(?![A-Za-z]))", r"\\sqrt{\1}", text)
    text = re.sub(r"\\sqrt\s*([A-Za-z])", r"\\sqrt{\1}", text)
    text = _braced_roots(text)
    text = re.sub(r"\\mathbb\s*([A-Z])", r"\\mathbb{\1}", text)
    text = _FUNCTION.sub(r"\\\1", text)
    text = re.sub(r"(?<![\\A-Za-z])(?:pi|Pi)(?![A-Za-z])", r"\\pi ", text)
    text = re.sub(rf"(?<![\\A-Za-z])({'|'.join(lexicon.GREEK)})(?![A-Za-z])", r"\\\1 ", text)
    if "\\begin{array}" in text:
        text = _ARRAY.sub(_matrix, text)
    return text


def _matrix(match: re.Match[str]) -> str:
    name = _ARRAYS.get(match.group(1) + match.group(3))
    return match.group() if name is None else rf"\begin{{{name}}}{match.group(2)}\end{{{name}}}"


def _braced_roots(text: str) -> str:
    r"""\sqrt(2) becomes \sqrt{2}, by the bracket that closes it."""
    start = 0
    while (at := re.compile(r"\\sqrt\s*\(").search(text, start)) is not None:
        depth, start = 1, at.end()
        for i in range(at.end(), len(text)):
            depth += (text[i] == "(") - (text[i] == ")")
            if depth == 0:
                text = text[: at.start()] + "\\sqrt{" + text[at.end() : i] + "}" + text[i + 1 :]
                break
        else:
            return text
    return text


def _numbers(text: str) -> str:
    """Percent signs, clock marks, exponents, bare points, repeating decimals and powers of ten."""
    text = re.sub(
        rf"\s?(?:{TEXT}\{{\s*(?:percent|pct|per cent|\\?%)\s*\}}|\b(?:percent|pct)\b|per cent\b|(?<!\\)%)", r"\\%", text
    )
    text = re.sub(r"(?<![\\A-Za-z])inf(?:inity)?(?![A-Za-z])", r"\\infty ", text)
    text = re.sub(rf"{TEXT}\{{:\}}|\{{:\}}", ":", text)
    text = re.sub(r"([_^])\s?(\d)(?!\d)", r"\1{\2}", text)
    text = re.sub(r"(?i)(?<![A-Za-z])([ap])\.\s?m\b\.?", lambda m: m[1].lower() + "m", text)
    text = re.sub(r"(?<=\d)\.(?=\s*(?:[/*+^)}\]=<>|-]|\\(?!overline|bar|text|math|mbox|ldots|dots|circ)))", "", text)
    text = _REPEATING.sub(_fraction_of_repeating, text)
    return _SCIENTIFIC.sub(r"\1\\times 10^{\2}", text)


def _drop_doubled(text: str) -> str:
    """((x)) becomes (x), {{x}} becomes {x} and a pair of braces around everything goes: the parser is slow on them."""
    partner: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[(){}]", text):
        if match.group() in "({":
            stack.append(match.start())
        elif match.group() in ")}" and stack and text[stack[-1]] + match.group() in ("()", "{}"):
            partner[stack.pop()] = match.start()
    drop = {i for i, j in partner.items() if i - 1 in partner and partner[i - 1] == j + 1 and text[i - 1] == text[i]}
    if text.startswith("{") and partner.get(0) == len(text) - 1:
        drop.add(0)
    drop |= {partner[i] for i in drop}
    return "".join(char for i, char in enumerate(text) if i not in drop).strip() if drop else text


def _fraction_of_repeating(match: re.Match[str]) -> str:
    whole, fixed, repeated = match.groups()
    numerator = int(whole + fixed + repeated) - int(whole + fixed or "0")
    return rf"\frac{{{numerator}}}{{{10 ** len(fixed) * (10 ** len(repeated) - 1)}}}"
