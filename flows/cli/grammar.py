"""Parses a typed problem: numbers, the operators + - *, brackets, and unary minus before a number or bracket.

It makes one pass over the characters, so that an error message can give the position of the mistake.
"""

from typing import NamedTuple, NoReturn

from storage.errors import UserError

_LONGEST_SHOWN = 60
_OPERATORS = "+-*"


class Reading(NamedTuple):
    """A problem without spaces, final '=' and leading zeros of numbers."""

    text: str
    operators: frozenset[str]
    """Binary operators of the problem."""
    signed: bool
    """Whether an operand has a unary minus."""


def read(text: str) -> Reading:
    """Parse a typed problem; raises `UserError` with the reason, and the position of the character if there is one."""
    parser = _Parser(text)
    problem = text.rstrip().removesuffix("=").rstrip()
    for position, character in enumerate(problem, 1):
        parser.take(position, character)
    parser.end()
    return Reading("".join(parser.read), frozenset(parser.operators), parser.signed)


def shown(text: str) -> str:
    """The typed text in quotes, cut to fit on a line."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "…")


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.read: list[str] = []
        self.operators: set[str] = set()
        self.signed = False
        self._open: list[int] = []
        self._last = self._number = ""
        self._after_space = self._after_sign = False

    @property
    def _after_operand(self) -> bool:
        return self._last.isdecimal() or self._last == ")"

    def take(self, position: int, character: str) -> None:
        """Consume the next character."""
        if character.isspace():
            self._after_space = True
            return
        if character in "0123456789(":
            self._operand(position, character)
        elif character == ")":
            self._close(position)
        elif character in _OPERATORS:
            self._operator(position, character)
        else:
            self._refuse(f"{character!r} at {position} is not a digit, operator ({' '.join(_OPERATORS)}) or bracket")
        if character.isdecimal() and self._number == "0":
            self.read.pop()
            self._number = ""
        self._number = self._number + character if character.isdecimal() else ""
        self.read.append(character)
        self._last, self._after_space = character, False

    def end(self) -> None:
        """Check that the problem is complete."""
        if not self.read:
            self._refuse("it is empty")
        if not self._after_operand:
            self._refuse("a number is missing at its end")
        if self._open:
            self._refuse(f"the bracket at {self._open[-1]} is never closed")
        if not self.operators:
            self._refuse("there is no operator between two numbers")

    def _operand(self, position: int, character: str) -> None:
        continues = character != "(" and self._last.isdecimal() and not self._after_space
        if self._after_operand and not continues:
            self._refuse(f"an operator is missing before {character!r} at {position}")
        self._after_sign = False
        if character == "(":
            self._open.append(position)

    def _close(self, position: int) -> None:
        if not self._open:
            self._refuse(f"the bracket at {position} was never opened")
        if not self._after_operand:
            self._refuse(f"a number is missing before the bracket at {position}")
        self._open.pop()

    def _operator(self, position: int, character: str) -> None:
        if self._after_operand:
            self.operators.add(character)
        elif character == "-" and not self._after_sign:
            self.signed = self._after_sign = True
        else:
            self._refuse(f"a number is missing before {character!r} at {position}")

    def _refuse(self, reason: str) -> NoReturn:
        raise UserError(f"problem {shown(self.text)} cannot be parsed: {reason}; write it like 12+34")
