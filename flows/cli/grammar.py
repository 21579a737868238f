"""Parses a typed problem: numbers, the operators + - *, brackets, and unary minus before a number or bracket.

Other signs that people type for these are read too, such as × · − and full-width characters.
"""

import re
from typing import NamedTuple, NoReturn

from storage.errors import UserError

_LONGEST_SHOWN = 60
_OPERATORS = "+-*"
_TYPED = str.maketrans(
    {
        **dict.fromkeys("×·⋅∙•∗✕✖⨯xX＊", "*"),
        **dict.fromkeys("−–—‒－", "-"),
        **dict(zip("０１２３４５６７８９＋（）＝？", "0123456789+()=?", strict=True)),
        # A mark at the beginning of files that other systems write.
        "\ufeff": " ",
    }
)
_QUESTION = re.compile(r"\s*=\s*\??\s*$")
_TOKEN = re.compile(r"[0-9]+|\S")


class Reading(NamedTuple):
    """A problem without spaces, final '=' or '=?', and leading zeros of numbers."""

    text: str
    operators: frozenset[str]
    """Binary operators of the problem."""
    signed: bool
    """Whether an operand has a unary minus."""


def read(text: str, *, chains: bool = False) -> Reading:
    """Parse a typed problem; raises `UserError` with the reason, and the position of the character if there is one.

    `chains` allows several unary minuses in a row, and problems without an operator, such as (-5).
    """

    def refuse(reason: str) -> NoReturn:
        raise UserError(f"problem {quoted(text)} cannot be parsed: {reason}; write it like 12+34")

    tokens, operators, open_brackets = list[str](), set[str](), list[int]()
    signed = after_operand = after_sign = False
    for match in _TOKEN.finditer(_QUESTION.sub("", text.translate(_TYPED))):
        token, position, typed = match[0], match.start() + 1, text[match.start() : match.end()]
        if token[0] in "0123456789(":
            if after_operand:
                refuse(f"an operator is missing before {typed[0]!r} at {position}")
            if token == "(":
                open_brackets.append(position)
            after_operand, after_sign = token != "(", False
        elif token == ")":
            if not open_brackets:
                refuse(f"the bracket at {position} was never opened")
            if not after_operand:
                refuse(f"a number is missing before the bracket at {position}")
            open_brackets.pop()
        elif token not in _OPERATORS:
            refuse(f"{typed!r} at {position} is not a digit, operator ({' '.join(_OPERATORS)}) or bracket")
        elif after_operand:
            operators.add(token)
            after_operand = False
        elif token == "-" and (chains or not after_sign):
            signed = after_sign = True
        else:
            refuse(f"a number is missing before {typed!r} at {position}")
        tokens.append(token.lstrip("0") or "0")
    if not tokens:
        refuse("it is empty")
    if not after_operand:
        refuse("a number is missing at its end")
    if open_brackets:
        refuse(f"the bracket at {open_brackets[-1]} is never closed")
    if not operators and not chains:
        refuse("there is no operator between two numbers")
    return Reading("".join(tokens), frozenset(operators), signed)


def quoted(text: str) -> str:
    """The typed text in quotes, cut to fit on a line."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")
