"""A recursive descent over the tokens of a plain expression; what it computes stands in `arithmetic.py`."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Any, NamedTuple

MAX_DIGITS, MAX_TOKENS = 300, 150  # beyond them an expression is sympy's
_GREEK = (
    r"alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|omega"
)
_TOKEN = re.compile(
    rf"(?P<number>\d+(?:\.\d*)?|\.\d+)|(?P<name>(?:[A-Za-z]|\\(?:{_GREEK})(?![A-Za-z]))(?:\s?_\s?(?:\w|\{{\s?\w+\s?\}}))?)"
    r"|(?P<command>\\(?:frac|sqrt|pi|cdot|times|div|sin|cos|tan|cot|sec|csc|arcsin|arccos|arctan|sinh|cosh|tanh|ln|log)(?![A-Za-z]))|(?P<mark>[-+*/^(){}\[\]])|(?P<space>\s+)"
)
OF_MPMATH = {"ln": "log", "log": "log", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}
FUNCTIONS = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", *OF_MPMATH)
_TIMES = ("*", "\\cdot", "\\times")
_STARTS = ("(", "{", "\\frac", "\\sqrt", "\\pi", *("\\" + name for name in FUNCTIONS))

Node = tuple[Any, ...]  # (operator, operands): number, name, pi, e, i, +, *, /, ^, root, a function


class NotPlain(Exception):
    """The text is no plain expression, or its value cannot be computed here."""


class Token(NamedTuple):
    """One token; `kind` is the name of its group in the expression above."""

    kind: str
    text: str


def tokens_of(text: str) -> list[Token]:
    """The tokens of `text`. Raises NotPlain where one is unknown or there are too many."""
    tokens: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or len(match.group()) > MAX_DIGITS or len(tokens) > MAX_TOKENS:
            raise NotPlain
        if match.lastgroup != "space":
            tokens.append(Token(str(match.lastgroup), match.group()))
        at = match.end()
    return tokens


class Reader:
    """Recursive descent over tokens; NotPlain where the grammar has no rule."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.at = tokens, 0
        self.names: set[str] = set()
        self.rational, self.constants, self.loose = True, False, False

    def peek(self, ahead: int = 0) -> str:
        """The text of a token that is still to come; "" behind the last."""
        i = self.at + ahead
        return self.tokens[i].text if i < len(self.tokens) else ""

    def take(self, text: str) -> None:
        """Goes past the token `text`, or raises NotPlain."""
        if self.peek() != text:
            raise NotPlain
        self.at += 1

    def accept(self, *texts: str) -> str:
        """Goes past the next token where it is one of `texts`; returns it, or ""."""
        found = self.peek()
        if found not in texts or not found:
            return ""
        self.at += 1
        return found

    def sum(self) -> Node:
        """Terms with + and - between them."""
        sign = self.accept("+", "-")
        node = self.product()
        node = ("*", ("number", Fraction(-1)), node) if sign == "-" else node
        while sign := self.accept("+", "-"):
            other = self.product()
            node = ("+", node, ("*", ("number", Fraction(-1)), other) if sign == "-" else other)
        return node

    def product(self) -> Node:
        """Factors, with or without a sign between them."""
        node, divided = self.power(), False
        while True:
            if self.accept(*_TIMES):
                node = ("*", node, self.power())
            elif self.accept("/", "\\div"):
                node, divided = ("/", node, self.power()), True
            elif self._begins_a_factor():
                self.loose |= divided  # 1/2x
                node = ("*", node, self.power())
            else:
                return node

    def _begins_a_factor(self) -> bool:
        if self.at >= len(self.tokens):
            return False
        kind, text = self.tokens[self.at]
        if kind == "number":
            raise NotPlain  # x2
        return kind == "name" or text in _STARTS

    def power(self) -> Node:
        """An atom with or without an exponent."""
        node = self.atom()
        if self.accept("^"):
            braced = self.accept("{")
            if not braced and self.tokens[self.at : self.at + 1] and len(self.peek()) > 1:
                raise NotPlain  # 2^10: only the 1 is raised
            exponent = self.sum() if braced else self.atom()
            if braced:
                self.take("}")
            whole = exponent[0] == "number" and exponent[1].denominator == 1
            whole = whole or (exponent[0] == "*" and exponent[1] == ("number", -1) and exponent[2][0] == "number")
            self.rational &= whole
            node = ("^", node, exponent)
            if self.peek() == "^":
                raise NotPlain
        return node

    def atom(self) -> Node:
        """A number, a name, a bracket, or a command with its arguments."""
        if self.at >= len(self.tokens):
            raise NotPlain
        kind, text = self.tokens[self.at]
        self.at += 1
        if kind == "number":
            return self._mixed(Fraction(text if text[-1] != "." else text[:-1]))
        if kind == "name":
            return self._name(text)
        if text in ("(", "{"):
            node = self.sum()
            self.take(")" if text == "(" else "}")
            return node
        if text == "\\frac":
            return ("/", self._braced(), self._braced())
        if text == "\\pi":
            self.rational, self.constants = False, True
            return ("pi",)
        if text == "\\sqrt":
            self.rational = False
            degree: Node = ("number", Fraction(2))
            if self.accept("["):
                degree = self.sum()
                self.take("]")
            return ("root", self._braced(), degree)
        if text.lstrip("\\") in FUNCTIONS:
            return self._function(text.lstrip("\\"))
        raise NotPlain

    def _braced(self) -> Node:
        self.take("{")
        node = self.sum()
        self.take("}")
        return node

    def _mixed(self, value: Fraction) -> Node:
        r"""3\frac{1}{2} is 3.5; any other number before a fraction of numbers could be read in two ways."""
        if self.peek() == "\\frac":
            kinds = [token.kind for token in self.tokens[self.at + 1 : self.at + 7]]
            if kinds == ["mark", "number", "mark", "mark", "number", "mark"]:
                top, bottom = self.peek(2), self.peek(5)
                before = self.tokens[self.at - 2].text if self.at > 1 else ""
                proper = top.isdigit() and bottom.isdigit() and int(top) < int(bottom) and value.denominator == 1
                if not proper or before not in ("", "+", "-", "(", "{"):
                    raise NotPlain
                self.at += 7
                return ("number", value + Fraction(int(top), int(bottom)))
        return ("number", value)

    def _name(self, text: str) -> Node:
        name = re.sub(r"[\s{}]", "", text)
        following = self.tokens[self.at].kind if self.at < len(self.tokens) else ""
        if name == "d" and following == "name":
            raise NotPlain  # dx
        if name in ("e", "i"):
            self.rational, self.constants = False, True
            return (name,)
        self.names.add(name)
        return ("name", name)

    def _function(self, name: str) -> Node:
        self.rational = False
        self.loose |= name == "log"
        power = 1
        if self.accept("^"):
            braced = self.accept("{")
            if not re.fullmatch(r"[2-9]", self.peek()):
                raise NotPlain
            power = int(self.peek())
            self.at += 1
            if braced:
                self.take("}")
        if self.peek() in ("(", "{"):
            node = self.atom()
            self.loose |= self.peek() == "^"
        else:
            node = self.atom()
            while self.at < len(self.tokens) and self.tokens[self.at].kind in ("name",):
                node = ("*", node, self.power())
            self.loose |= self.at < len(self.tokens) and self.peek() not in ("+", "-", ")", "}", "]")
        found: Node = (name, node)
        return ("^", found, ("number", Fraction(power))) if power > 1 else found
