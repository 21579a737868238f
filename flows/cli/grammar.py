"""Parses a typed problem: numbers, the operators + - *, brackets, and unary minus before a number or bracket.

It makes one pass over the characters, so that an error message can give the position of the mistake.
"""

from typing import NamedTuple, NoReturn

from storage.errors import UserError

_SHOWN = 60
_OPERATORS = "+-*"


class Reading(NamedTuple):
    """A problem without spaces, final '=' and leading zeros of numbers."""

    text: str
    operators: frozenset[str]
    """Binary operators of the problem."""
    signed: bool
    """Whether an operand has a unary minus."""


def read(typed: str) -> Reading:
    """Parse what was typed; raises `UserError` with the reason, and the character's position where there is one."""
    reader = _Reader(typed)
    problem = typed.rstrip().removesuffix("=").rstrip()
    for place, character in enumerate(problem, 1):
        reader.take(place, character)
    reader.end()
    return Reading("".join(reader.read), frozenset(reader.operators), reader.signed)


def shown(typed: str) -> str:
    """The typed text in quotes, cut to fit on a line."""
    return repr(typed if len(typed) <= _SHOWN else typed[:_SHOWN] + "…")


class _Reader:
    def __init__(self, typed: str) -> None:
        self.typed = typed
        self.read: list[str] = []
        self.operators: set[str] = set()
        self.signed = False
        self._open: list[int] = []
        self._last = self._number = ""
        self._blank = self._sign = False

    @property
    def _behind_operand(self) -> bool:
        return self._last.isdecimal() or self._last == ")"

    def take(self, place: int, character: str) -> None:
        """Consume the next character."""
        if character.isspace():
            self._blank = True
            return
        if character in "0123456789(":
            self._begin_or_go_on(place, character)
        elif character == ")":
            self._close(place)
        elif character in _OPERATORS:
            self._operator(place, character)
        else:
            self._refuse(f"{character!r} at {place} is not a digit, operator ({' '.join(_OPERATORS)}) or bracket")
        if character.isdecimal() and self._number == "0":
            self.read.pop()
            self._number = ""
        self._number = self._number + character if character.isdecimal() else ""
        self.read.append(character)
        self._last, self._blank = character, False

    def end(self) -> None:
        """Check that the problem is complete."""
        if not self.read:
            self._refuse("it is empty")
        if not self._behind_operand:
            self._refuse("a number is missing at its end")
        if self._open:
            self._refuse(f"the bracket at {self._open[-1]} is never closed")
        if not self.operators:
            self._refuse("there is no operator between two numbers")

    def _begin_or_go_on(self, place: int, character: str) -> None:
        goes_on = character != "(" and self._last.isdecimal() and not self._blank
        if self._behind_operand and not goes_on:
            self._refuse(f"an operator is missing before {character!r} at {place}")
        self._sign = False
        if character == "(":
            self._open.append(place)

    def _close(self, place: int) -> None:
        if not self._open:
            self._refuse(f"the bracket at {place} was never opened")
        if not self._behind_operand:
            self._refuse(f"a number is missing before the bracket at {place}")
        self._open.pop()

    def _operator(self, place: int, character: str) -> None:
        if self._behind_operand:
            self.operators.add(character)
        elif character == "-" and not self._sign:
            self.signed = self._sign = True
        else:
            self._refuse(f"a number is missing before {character!r} at {place}")

    def _refuse(self, reason: str) -> NoReturn:
        raise UserError(f"problem {shown(self.typed)} cannot be parsed: {reason}; write it like 12+34")
