"""The steps of rewritings as a table, one row per operation, each checked against exact integers.

A step is right if the state keeps its value when the span alone is replaced by the result. So a wrong mark, such as
3+4 in 3+4*5, is a wrong step, even if its result is the sum.
"""

import ast
from collections.abc import Iterator, Sequence

import pyarrow as pa

from model.evaluation.rewriting.trace import Trace

STEPS = {
    "pass": pa.int32(),
    "state": pa.string(),
    "span": pa.string(),
    "result": pa.string(),
    "right": pa.bool_(),
    "confidence": pa.float32(),
}

# Longer numbers would raise an error in Python; no state is nearly as deep as its parser allows.
_MOST_DIGITS = 4_000


def step_table(ids: Sequence[int], traces: Sequence[Trace]) -> pa.Table:
    """The steps of n traces with the `ids` of their problems, in order: `id`, `step` and the columns of `STEPS`."""
    rows = [
        {"id": number, "step": step, **row}
        for number, trace in zip(ids, traces, strict=True)
        for step, row in enumerate(_rows(trace), 1)
    ]
    return pa.Table.from_pylist(rows, pa.schema([("id", pa.int64()), ("step", pa.int32()), *STEPS.items()]))


def _rows(trace: Trace) -> Iterator[dict[str, object]]:
    """One row per operation; `right` is None if the value of a state cannot be computed."""
    for number, (state, steps) in enumerate(zip(trace.states, trace.steps, strict=False), 1):
        value = value_of(state)
        for step in steps:
            after = state[: step.begin] + step.result + state[step.begin + len(step.span) :]
            right = None if value is None else value_of(after) == value
            if not step.result:
                # What the encoder marked could not be carried out.
                right = False
            yield {"pass": number, "state": state, **step._asdict(), "result": step.result or None, "right": right}


def value_of(text: str) -> int | None:
    """The exact value of an expression of numbers, + - * and brackets; None if it is invalid or too large."""
    if len(text) > _MOST_DIGITS:
        return None
    try:
        return _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        return None


def _value(node: ast.AST) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
    raise ValueError(f"{ast.dump(node)} is no arithmetic")
