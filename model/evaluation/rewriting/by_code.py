"""One half of a rewriting by code instead of by the encoder, so that an evaluation measures the other half alone.

Code that marks knows precedence; code that computes uses Python's integers. They are references of evaluations
(`--decoding.marks code`, `--decoding.values code`), and no other answer uses them. Code marks no whole brackets.
"""

import re
from collections.abc import Iterable

from model.config.evaluation import Decoding
from model.evaluation.rewriting.loop import OPERATION, Rewriter
from model.evaluation.rewriting.trace import Trace

# A minus that belongs to the number or bracket after it; the rules write it as '~'.
_UNARY = re.compile(r"(?<![\d)])-")
# Brackets around a number; the last two minuses before a number; a product that no product precedes; a sum or
# difference that begins the state or a bracket, and is followed by no product.
_MARKED = re.compile(
    r"~?\(~?\d+\)|(?<!\d)~~\d+|(?<![*~\d])~?\d+\*~?\d+|(?:^|(?<=\())~?\d+[+-]~?\d+(?![\d*])",
)
_BINARY = re.compile(r"(-?\d+)([-+*])(-?\d+)")


class MarksByCode(Rewriter):
    """The encoder computes the values of what the rules of precedence mark."""

    def _marked(self, traces: list[Trace]) -> list[list[tuple[bool, str]]]:
        return [marked_parts(trace.states[-1]) for trace in traces]


class ValuesByCode(Rewriter):
    """The encoder marks operations, whose values are exact."""

    def _carried_out(self, spans: Iterable[str]) -> dict[str, tuple[str, float] | str]:
        return {span: (value_of(span), 1.0) if OPERATION.fullmatch(span) else "which is no operation" for span in spans}


def rewriter_class(decoding: Decoding) -> type[Rewriter]:
    """The rewriting that a decoding asks for."""
    if decoding.marks == "code":
        return MarksByCode
    return ValuesByCode if decoding.values == "code" else Rewriter


def marked_parts(state: str) -> list[tuple[bool, str]]:
    """A state, cut into parts that can be carried out now and parts that cannot."""
    parts, begin = list[tuple[bool, str]](), 0
    for found in _MARKED.finditer(_UNARY.sub("~", state)):
        parts += [(False, state[begin : found.start()]), (True, state[found.start() : found.end()])]
        begin = found.end()
    return [part for part in (*parts, (False, state[begin:])) if part[1]]


def value_of(operation: str) -> str:
    """The value of a marked operation."""
    if not (found := _BINARY.fullmatch(operation.strip("()"))):
        minuses, digits = operation.count("-"), operation.strip("-()")
        return str(int(digits) * (-1) ** minuses)
    first, operator, second = int(found[1]), found[2], int(found[3])
    return str(first * second if operator == "*" else first + second if operator == "+" else first - second)
