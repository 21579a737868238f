"""The grid: every combination of n operands from one range and of operators from a set.

Row numbers are mixed-radix numbers: the operators are the highest digits, followed by the first operand. `*` has
precedence over `+` and `-`, as usual. The notebook's corpus (section 1) is `terms=4, low=0, high=99, operators=('+',)`.
"""

import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import digit_columns, integer_digits, limbs_of, product_carries, sum_carries
from pipelines.problems.family import Arrays, Block, Family, layout_for, pattern_column, schema_of
from pipelines.problems.text import character_words, decimal_text
from pipelines.spec.corpus import ProblemSpec
from pipelines.split.canonical import Canonical, Flags
from storage.datasets.arrow_buffers import to_strings
from storage.datasets.shard import Layout
from storage.order import Permutation, UInt64s

_LARGEST_TABLE = 1 << 16


class Grid(Family):
    """Rows of one grid."""

    # Large enough to make numpy's call overhead small, small enough for the cache.
    block_rows = 1 << 17

    def __init__(self, spec: ProblemSpec, canonical: Canonical, key: int, rows: int) -> None:
        super().__init__(spec, canonical, key, rows)
        self._permutation = Permutation(spec.size, key)
        self._radix = spec.high - spec.low + 1
        self._operand_type = np.min_scalar_type(spec.high)
        self._answer_low, self._answer_high = self._answer_bounds()
        # Not numpy's result type, which is a float if one bound is unsigned and the other signed.
        small = np.iinfo(np.int32).min <= self._answer_low and self._answer_high <= np.iinfo(np.int32).max
        self._answer_type = np.dtype(np.int32 if small else np.int64)
        self._patterns = ["".join(gaps) for gaps in itertools.product(spec.operators, repeat=spec.terms - 1)]
        self._pattern_type = np.min_scalar_type(len(self._patterns))
        self.operand_columns = [chr(ord("a") + position) for position in range(spec.terms)]
        self.answer_column = "sum" if spec.operators == ("+",) else "value"
        self.layout = self._layout()

    def _layout(self) -> Layout:
        """The layout; 11 bytes per row on the notebook's corpus (measured)."""
        # Wider than the values need: SQL adds two values in the column's type, and dictionaries cost the same.
        numbers = {name: pa.int32() for name in self.operand_columns}
        numbers |= {self.answer_column: pa.from_numpy_dtype(self._answer_type)}
        # Measured: operands are incompressible except for their zero bytes, and a dictionary takes twice the time.
        encodings = dict.fromkeys((*self.operand_columns, self.answer_column), "BYTE_STREAM_SPLIT")
        encodings |= {self.answer_column: "DELTA_BINARY_PACKED"} if self._answer_table is None else {"answer": ""}
        return layout_for(schema_of(numbers), encodings, page_bytes=1 << 16)

    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions` of the permuted order: operands `a`, `b`, … and `pattern`."""
        indices = self._permutation(positions)
        rest = indices if self.spec.size > 1 << 32 else indices.astype(np.uint32)
        arrays: Arrays = {}
        for name in reversed(self.operand_columns):
            quotient = rest // rest.dtype.type(self._radix)
            digit = rest - quotient * rest.dtype.type(self._radix) + rest.dtype.type(self.spec.low)
            arrays[name] = digit.astype(self._operand_type)
            rest = quotient
        if len(self._patterns) > 1:
            arrays["pattern"] = rest.astype(self._pattern_type)
        return Block(arrays)

    def canonical(self, problems: Block) -> UInt64s:
        hashes = np.empty(problems.rows, np.uint64)
        for pattern, rows, operands in self._by_pattern(problems):
            numbers = [self._operand_hashes.take(x - self._operand_type.type(self.spec.low)) for x in operands]
            hashes[rows] = self._canonical.fixed(numbers, pattern)
        return hashes

    def text_lengths(self, problems: Block) -> NDArray[np.integer] | int:
        shortest, longest = (self.spec.terms * (len(str(number)) + 1) - 1 for number in (self.spec.low, self.spec.high))
        if longest <= 16 or shortest == longest:
            return longest
        return self._problem_lengths(problems)

    def _columns(self, problems: Block) -> dict[str, Any]:
        answers, carries = self._results(problems)
        negative = answers < 0
        magnitudes = np.abs(answers)
        counts = integer_digits(magnitudes)
        return {
            **{name: problems[name].astype(np.int32) for name in self.operand_columns},
            self.answer_column: answers,
            "problem": self._problem_text(problems),
            "answer": self._answer_text(answers, magnitudes, counts, negative),
            "operators": pattern_column(self._codes(problems), self._patterns, problems.rows),
            "terms": np.full(problems.rows, self.spec.terms, np.int32),
            "digits": integer_digits(np.maximum.reduce(self._operands(problems))),
            "answer_digits": counts,
            "carries": carries,
            "depth": np.zeros(problems.rows, np.int32),
            "negative": negative,
        }

    def _operands(self, problems: Block) -> list[NDArray[np.unsignedinteger]]:
        return [problems[name] for name in self.operand_columns]

    def _codes(self, problems: Block) -> NDArray[np.integer] | int:
        return problems["pattern"] if len(self._patterns) > 1 else 0

    def _by_pattern(self, problems: Block) -> Iterator[tuple[str, Any, list[NDArray[np.unsignedinteger]]]]:
        """Yields each operator pattern with an index of its rows and their operands."""
        operands = self._operands(problems)
        if len(self._patterns) == 1:
            yield self._patterns[0], slice(None), operands
            return
        order = np.argsort(problems["pattern"], kind="stable")
        operands = [operand.take(order) for operand in operands]
        ends = np.cumsum(np.bincount(problems["pattern"], minlength=len(self._patterns)))
        for pattern, first, last in zip(self._patterns, [0, *ends[:-1]], ends, strict=True):
            if first < last:
                yield pattern, order[first:last], [operand[first:last] for operand in operands]

    def _results(self, problems: Block) -> tuple[NDArray[np.integer], pa.Array]:
        """Exact answers [n], and the longest run of columns that carry or borrow [n].

        The second is null for three or more operands with a product.
        """
        answers = np.empty(problems.rows, self._answer_type)
        carries, unknown = np.zeros(problems.rows, np.int32), np.zeros(problems.rows, np.bool_)
        for pattern, rows, operands in self._by_pattern(problems):
            values = _value(operands, pattern, np.result_type(self._answer_type, np.int32))
            answers[rows] = values
            if "*" in pattern and len(pattern) > 1:
                unknown[rows] = True
            else:
                carries[rows] = self._carries(operands, pattern, values < 0)
        return answers, pa.array(carries, mask=unknown if unknown.any() else None)

    def _carries(self, operands: list[NDArray[np.unsignedinteger]], pattern: str, negative: Flags) -> NDArray[np.int32]:
        digits = len(str(self.spec.high))
        columns = [digit_columns([operand], digits) for operand in operands]
        if pattern == "*":
            return product_carries(columns[0], columns[1])
        total = columns[0].astype(np.int16)
        for operator, column in zip(pattern, columns[1:], strict=True):
            total = total - column if operator == "-" else total + column
        if "-" in pattern:
            total *= np.where(negative, np.int16(-1), np.int16(1))
        return sum_carries(total)

    def _answer_bounds(self) -> tuple[int, int]:
        low, high, terms = self.spec.low, self.spec.high, self.spec.terms
        if self.spec.operators == ("+",):
            return low * terms, high * terms
        largest = high * terms if "*" not in self.spec.operators else max(high**terms, high * terms)
        return (-largest if "-" in self.spec.operators else 0), largest

    def _problem_lengths(self, problems: Block) -> NDArray[np.uint16]:
        lengths = np.full(problems.rows, 2 * self.spec.terms - 1, np.uint16)
        for operand in self._operands(problems):
            for digits in range(1, len(str(self.spec.high))):
                lengths += operand >= 10**digits
        return lengths

    def _problem_text(self, problems: Block) -> pa.Array:
        words = np.empty((problems.rows, self.spec.terms), self._tables[0].dtype)
        for position, operand in enumerate(self._operands(problems)):
            last = position == self.spec.terms - 1
            rows = operand - self._operand_type.type(self.spec.low)
            if len(self._patterns) > 1 and not last:
                rows = rows + self._gap_offsets[position].take(problems["pattern"])
            words[:, position] = self._tables[1 if last else 0].take(rows)
        return to_strings(words.tobytes(), self._problem_lengths(problems))

    def _answer_text(
        self, answers: NDArray[np.integer], magnitudes: NDArray[np.integer], counts: NDArray[np.int32], negative: Flags
    ) -> pa.Array:
        if self._answer_table is None:
            largest = max(self._answer_high, -self._answer_low)
            return decimal_text(limbs_of(magnitudes, largest), counts, negative)
        rows = answers.astype(np.int64) - self._answer_low
        return to_strings(self._answer_table.take(rows).tobytes(), counts + negative)

    @cached_property
    def _operand_hashes(self) -> UInt64s:
        return self._canonical.number([np.arange(self.spec.low, self.spec.high + 1, dtype=np.uint64)])

    @cached_property
    def _gap_offsets(self) -> NDArray[np.uint32]:
        # [gap, pattern]: offset of the operands followed by the pattern's operator at this gap, in the table of
        # operands.
        codes = [[self.spec.operators.index(gap) for gap in pattern] for pattern in self._patterns]
        return np.ascontiguousarray(np.array(codes, np.uint32).T * np.uint32(self._radix))

    @cached_property
    def _tables(self) -> tuple[NDArray[np.unsignedinteger], NDArray[np.unsignedinteger]]:
        # All operands followed by each operator, one table after the other; and the last operand of a problem.
        inner = np.concatenate(
            [character_words(self.spec.low, self.spec.high, suffix) for suffix in self.spec.operators]
        )
        return inner, character_words(self.spec.low, self.spec.high).astype(inner.dtype)

    @cached_property
    def _answer_table(self) -> NDArray[np.unsignedinteger] | None:
        if self._answer_high - self._answer_low >= _LARGEST_TABLE:
            return None
        return character_words(self._answer_low, self._answer_high)


def _value(operands: list[NDArray[np.unsignedinteger]], pattern: str, kind: np.dtype[Any]) -> NDArray[np.integer]:
    """Exact values [n] of problems with the operators of `pattern`, of type `kind`."""
    total: NDArray[np.integer] | None = None
    term, sign = operands[0].astype(kind), "+"
    for operator, operand in zip([*pattern, "+"], [*operands[1:], None], strict=True):
        if operator == "*" and operand is not None:
            term *= operand
            continue
        total = term if total is None else (total - term if sign == "-" else total + term)
        if operand is not None:
            term, sign = operand.astype(kind), operator
    assert total is not None
    return total
