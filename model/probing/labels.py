"""What the tokens of a problem stand for, by Python's own integers: digits, carries, column sums, signs, depths.

Pure and exact, and the only source of the probes' labels: nothing here has seen a model.
"""

import re
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from model.tokenizer import right_groups

OPERATORS = "+-*"
NOTHING = 3
"""The operator before a number that has none."""

_LINEAR = re.compile(r"-?[0-9]+(?:[+-][0-9]+)*")
_PRODUCT = re.compile(r"[0-9]+\*[0-9]+")
_LEXEMES = re.compile(r"[0-9]+|[-+*()]")


class Token(NamedTuple):
    """One token of a problem."""

    text: str
    number: int
    """Which number it is part of, from 0; -1 for operators and brackets."""
    place: int
    """Its place in the number, 0 at the units, counted in tokens; -1 for operators and brackets."""
    depth: int
    """Brackets that are open around it."""


class Column(NamedTuple):
    """One column of the sum or product, as people write it."""

    total: int
    """What its digits add up to: of a product of two, the products of digits that fall on it."""
    carry_in: int
    running: int
    """Both together."""
    carry_out: int
    """Of a difference the borrow, below zero."""
    digit: int
    """The answer's."""


@dataclass(frozen=True)
class Problem:
    """A problem in text, in tokens of `group` digits from the right of each number."""

    text: str
    group: int = 1

    @cached_property
    def tokens(self) -> tuple[Token, ...]:
        """Its tokens, from the left."""
        found: list[Token] = []
        numbers = [len(right_groups(number, self.group)) for number in re.findall(r"[0-9]+", self.text)]
        current, left, depth = -1, 0, 0
        for text in right_groups(self.text, self.group):
            if text.isdigit():
                if not left:
                    current += 1
                    left = numbers[current]
                left -= 1
                found.append(Token(text, current, left, depth))
                continue
            depth += text == "("
            found.append(Token(text, -1, -1, depth))
            depth -= text == ")"
        return tuple(found)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """Its operands, from the left."""
        return tuple(int(number) for number in re.findall(r"[0-9]+", self.text))

    @cached_property
    def value(self) -> int:
        """The exact answer; raises `ValueError` for a text that is no problem."""
        return value_of(self.text)

    @cached_property
    def depth(self) -> int:
        """Its deepest brackets."""
        return max(token.depth for token in self.tokens)

    @cached_property
    def operators(self) -> tuple[int, ...]:
        """The operator before each number, by its place in `OPERATORS`, or `NOTHING`; brackets are passed over."""
        found, last = [], NOTHING
        for lexeme in _LEXEMES.findall(self.text):
            if lexeme.isdigit():
                found.append(last)
                last = NOTHING
            elif lexeme in OPERATORS:
                last = OPERATORS.index(lexeme)
        return tuple(found)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Its columns, units first, as many as answer and operands have; empty where it isn't worked in columns.

        So are sums and differences without brackets, of a negative result with all signs turned, and products of two.
        """
        if not _LINEAR.fullmatch(self.text) and not _PRODUCT.fullmatch(self.text):
            return ()
        base = 10**self.group
        places = max(-(-len(str(number)) // self.group) for number in (*self.numbers, abs(self.value)))
        digits = [[number // base**place % base for place in range(places)] for number in self.numbers]
        if "*" in self.text:
            one, other = digits
            totals = [sum(one[low] * other[place - low] for low in range(place + 1)) for place in range(places)]
        else:
            turned = -1 if self.value < 0 else 1
            signs = [turned * (-1 if operator == OPERATORS.index("-") else 1) for operator in self.operators]
            totals = [
                sum(sign * own[place] for sign, own in zip(signs, digits, strict=True)) for place in range(places)
            ]
        found, carry = [], 0
        for total in totals:
            running = total + carry
            found.append(Column(total, carry, running, running // base, running % base))
            carry = running // base
        return tuple(found)


def value_of(text: str) -> int:
    """The exact value of a problem of numbers, + - * and brackets; raises `ValueError` for anything else."""
    lexemes = [*_LEXEMES.findall(text), ""]
    if "".join(lexemes) != text:
        raise ValueError(f"{text!r} is no problem")
    value, rest = _sum(lexemes)
    if rest != [""]:
        raise ValueError(f"{text!r} is no problem")
    return value


def operand_labels(problem: Problem, token: int) -> dict[str, int]:
    """What is true of a number's token; labels that don't apply are left out."""
    found = problem.tokens[token]
    number = problem.numbers[found.number]
    labels = {"digit": int(found.text), **_whole(number, found.place), "operator": problem.operators[found.number]}
    return {**labels, **_column_labels(problem, found.place), "depth": found.depth}


def operator_labels(problem: Problem, token: int) -> dict[str, int]:
    """What is true of an operator's token: of the number behind it too, and of the whole answer's sign."""
    found = problem.tokens[token]
    behind = next(later.number for later in problem.tokens[token:] if later.number >= 0)
    return {
        "operator": OPERATORS.index(found.text),
        "mod 10": problem.numbers[behind] % 10,
        "sign": int(problem.value < 0),
        "depth": found.depth,
    }


def answer_labels(problem: Problem, place: int) -> dict[str, int]:
    """What is true of the answer's slot of a place, 0 at the units, and of the whole answer."""
    value, base = abs(problem.value), 10**problem.group
    labels = {"digit": value // base**place % base, **_whole(value, place), "sign": int(problem.value < 0)}
    first = next((operator for operator in problem.operators if operator != NOTHING), NOTHING)
    return {**labels, "operator": first, **_column_labels(problem, place), "depth": problem.depth}


def _whole(number: int, place: int) -> dict[str, int]:
    """What is true of a whole number, told at its token of a place; its residues are no news at the units."""
    residues = {"parity": number % 2, "mod 5": number % 5, "mod 10": number % 10} if place else {}
    return {**residues, "magnitude": len(str(number))}


def _column_labels(problem: Problem, place: int) -> dict[str, int]:
    if place >= len(problem.columns):
        return {}
    column = problem.columns[place]
    return {
        "carry in": column.carry_in,
        "carry out": column.carry_out,
        "column sum": column.total,
        "running sum": column.running,
    }


def _sum(lexemes: list[str]) -> tuple[int, list[str]]:
    value, rest = _product(lexemes)
    while rest[0] in ("+", "-"):
        other, behind = _product(rest[1:])
        value, rest = (value + other if rest[0] == "+" else value - other), behind
    return value, rest


def _product(lexemes: list[str]) -> tuple[int, list[str]]:
    value, rest = _factor(lexemes)
    while rest[0] == "*":
        other, rest = _factor(rest[1:])
        value *= other
    return value, rest


def _factor(lexemes: list[str]) -> tuple[int, list[str]]:
    first, rest = lexemes[0], lexemes[1:]
    if first.isdigit():
        return int(first), rest
    if first == "-":
        value, rest = _product(rest)
        return -value, rest
    if first == "(":
        value, rest = _sum(rest)
        if rest[0] == ")":
            return value, rest[1:]
    raise ValueError("no number where one is needed")
