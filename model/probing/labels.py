"""Exact labels of a problem's tokens, computed with Python integers: digits, carries, column sums, signs, depths.

These pure functions are the only source of probe labels and do not depend on a model.
"""

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from model.tokenizer import right_groups

OPERATORS = "+-*"
NOTHING = 3
"""Operator code of a number without an operator before it."""

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}
_LINEAR = re.compile(r"-?[0-9]+(?:[+-][0-9]+)*")
_PRODUCT = re.compile(r"[0-9]+\*[0-9]+")
_LEXEMES = re.compile(r"[0-9]+|[-+*()]")


class Token(NamedTuple):
    """One token of a problem."""

    text: str
    number: int
    """Index of its number, from 0; -1 for operators and brackets."""
    place: int
    """Position in its number, in tokens, from 0 at the units; -1 for operators and brackets."""
    depth: int
    """Number of brackets that are open around it."""


class Column(NamedTuple):
    """One column of a sum, difference or product in written arithmetic."""

    total: int
    """Sum of its digits; for a product, the sum of the digit products in this column."""
    carry_in: int
    running: int
    """Sum of `total` and `carry_in`."""
    carry_out: int
    """Negative for a borrow."""
    digit: int
    """Digit of the answer."""


@dataclass(frozen=True)
class Problem:
    """A problem in text form, with tokens of `group` digits from the right of each number."""

    text: str
    group: int = 1

    @cached_property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens, from left to right."""
        found: list[Token] = []
        number, depth = -1, 0
        for lexeme in _LEXEMES.findall(self.text):
            if lexeme.isdigit():
                number += 1
                groups = right_groups(lexeme, self.group)
                found += [
                    Token(text, number, place, depth)
                    for place, text in zip(range(len(groups))[::-1], groups, strict=True)
                ]
            else:
                depth += lexeme == "("
                found.append(Token(lexeme, -1, -1, depth))
                depth -= lexeme == ")"
        return tuple(found)

    @cached_property
    def numbers(self) -> tuple[int, ...]:
        """The operands, from left to right."""
        return tuple(int(number) for number in re.findall(r"[0-9]+", self.text))

    @property
    def longest(self) -> int:
        """Digits of the longest operand."""
        return max(len(str(number)) for number in self.numbers)

    @cached_property
    def value(self) -> int:
        """The exact answer; raises `ValueError` if the text is not a problem."""
        return value_of(self.text)

    @property
    def answer_length(self) -> int:
        """Tokens of the answer, without its sign."""
        return -(-len(str(abs(self.value))) // self.group)

    @cached_property
    def depth(self) -> int:
        """Largest depth of brackets."""
        return max(token.depth for token in self.tokens)

    @cached_property
    def operators(self) -> tuple[int, ...]:
        """The operator before each number, as an index in `OPERATORS` or `NOTHING`; brackets are skipped."""
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
        """The columns, units first, as many as the longest of answer and operands; empty for other problems.

        Sums and differences without brackets have columns, with all signs inverted if the result is negative. So do
        products of two numbers.
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
    """The exact value of a problem with numbers, + - * and brackets; raises `ValueError` for any other text."""
    try:
        if _LEXEMES.sub("", text):
            raise ValueError("there are other characters")
        return _value(ast.parse(text, mode="eval").body)
    except (ValueError, SyntaxError) as error:
        raise ValueError(f"{text!r} is not a problem") from error


def _value(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() as operation, right=right):
            return _OPERATIONS[type(operation)](_value(left), _value(right))
    raise ValueError(f"{type(node).__name__} is not an operation of a problem")


def operand_labels(problem: Problem, token: int) -> dict[str, int]:
    """Labels of an operand's token; labels that do not apply are omitted."""
    text, number, place, depth = problem.tokens[token]
    labels = {"digit": int(text), **_number_labels(problem.numbers[number], place)}
    return {**labels, "operator": problem.operators[number], **_column_labels(problem, place), "depth": depth}


def operator_labels(problem: Problem, token: int) -> dict[str, int]:
    """Labels of an operator's token, including the next number modulo 10 and the answer's sign."""
    found = problem.tokens[token]
    following = next(later.number for later in problem.tokens[token:] if later.number >= 0)
    return {
        "operator": OPERATORS.index(found.text),
        "mod 10": problem.numbers[following] % 10,
        "sign": int(problem.value < 0),
        "depth": found.depth,
    }


def answer_labels(problem: Problem, place: int) -> dict[str, int]:
    """Labels of the answer's slot at a position, 0 for the units, and of the whole answer."""
    value, base = abs(problem.value), 10**problem.group
    labels = {"digit": value // base**place % base, **_number_labels(value, place), "sign": int(problem.value < 0)}
    first = next((operator for operator in problem.operators if operator != NOTHING), NOTHING)
    return {**labels, "operator": first, **_column_labels(problem, place), "depth": problem.depth}


def _number_labels(number: int, place: int) -> dict[str, int]:
    """Labels of a whole number at its token `place`; without residues at the units, whose digit contains them."""
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
