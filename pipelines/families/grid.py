"""The grid: every combination of n operands from one range and of operators from a set.

Row numbers are mixed-radix numbers, the operators the highest digits and the first operand
next. `*` binds before `+` and `-`, as usual. The notebook's corpus (section 1) is
`terms=4, low=0, high=99, operators=('+',)`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.spec import CorpusSpec
from pipelines.split import Canonical
from pipelines.text import CharacterTable, decimal_characters
from storage.columns import to_strings
from storage.order import UInt64s
from storage.shard import Layout

STRATUM = "grid"
_LARGEST_TABLE = 1 << 16

Codes = NDArray[np.uint8]


@dataclass(frozen=True)
class Problems:
    """A block of n problems: `operands` [terms][n], and `operators` [terms − 1][n] as codes into the spec's list."""

    operands: tuple[NDArray[np.unsignedinteger], ...]
    operators: tuple[Codes, ...]

    def take(self, rows: NDArray[np.integer]) -> "Problems":
        """The problems at `rows`, in their order."""
        return Problems(tuple(x.take(rows) for x in self.operands), tuple(x.take(rows) for x in self.operators))

    @staticmethod
    def concatenate(parts: list["Problems"]) -> "Problems":
        """All parts, one behind the other."""
        return Problems(
            tuple(np.concatenate(x) for x in zip(*(part.operands for part in parts), strict=True)),
            tuple(np.concatenate(x) for x in zip(*(part.operators for part in parts), strict=True)),
        )


class Grid:
    """Rows of one grid corpus; every method is vectorised over a block and pure."""

    def __init__(self, spec: CorpusSpec) -> None:
        self.spec = spec
        self._canonical = Canonical(spec.split_key)
        self._radix = spec.high - spec.low + 1
        self._mixed = len(spec.operators) > 1
        self._operand_type = np.min_scalar_type(spec.high)
        low, high = self._answer_bounds()
        self._answer_low, self._answer_high = low, high
        self._answer_type = np.result_type(np.int32, np.min_scalar_type(low), np.min_scalar_type(high))

    @property
    def operand_columns(self) -> list[str]:
        """Names of the operands' columns: a, b, c, …"""
        return [chr(ord("a") + position) for position in range(self.spec.terms)]

    @property
    def answer_column(self) -> str:
        """Name of the numeric answer: `sum`, or `value` where there is more than addition."""
        return "sum" if self.spec.operators == ("+",) else "value"

    @cached_property
    def layout(self) -> Layout:
        """Schema and Parquet choices; measured on the notebook's corpus at 10.8 bytes a row."""
        numbers = [*self.operand_columns, self.answer_column]
        # Wider than the values need: SQL adds two of them in their own type, and dictionaries cost the same.
        types = {name: pa.int32() for name in self.operand_columns}
        types |= {"id": pa.int64(), self.answer_column: pa.from_numpy_dtype(self._answer_type)}
        types |= {"problem": pa.string(), "answer": pa.string()}
        order = ["id", *numbers, "problem", "answer"]
        schema = pa.schema([pa.field(name, types[name], nullable=False) for name in order])
        return Layout(
            schema,
            dictionary=(*numbers, "answer"),
            encodings={"id": "DELTA_BINARY_PACKED", "problem": "DELTA_LENGTH_BYTE_ARRAY"},
        )

    def widest_text(self) -> tuple[int, int]:
        """Characters of the longest problem, and digits of the longest answer without its sign."""
        largest = max(abs(self._answer_low), abs(self._answer_high))
        return self.spec.terms * (len(str(self.spec.high)) + 1) - 1, len(str(largest))

    def problems(self, indices: UInt64s) -> Problems:
        """The problems at grid positions `indices` [n]."""
        rest = indices if self.spec.size > 1 << 32 else indices.astype(np.uint32)
        operands = []
        for _ in range(self.spec.terms):
            quotient = rest // rest.dtype.type(self._radix)
            operands.append(rest - quotient * rest.dtype.type(self._radix) + rest.dtype.type(self.spec.low))
            rest = quotient
        operators = []
        if self._mixed:
            for _ in range(self.spec.terms - 1):
                quotient = rest // rest.dtype.type(len(self.spec.operators))
                operators.append((rest - quotient * rest.dtype.type(len(self.spec.operators))).astype(np.uint8))
                rest = quotient
        return Problems(tuple(x.astype(self._operand_type) for x in reversed(operands)), tuple(reversed(operators)))

    def canonical(self, problems: Problems) -> UInt64s:
        """Hashes of the canonical forms, uint64 [n]; equal for all orders of a sum or a product."""
        numbers = self._operand_hashes
        hashes = [numbers.take(x - self._operand_type.type(self.spec.low)) for x in problems.operands]
        if self.spec.operators == ("+",):
            total = hashes[0]
            for part in hashes[1:]:
                total = total + part
            return self._canonical.sum(total)
        return self._canonical_mixed(hashes, problems)

    def _canonical_mixed(self, hashes: list[UInt64s], problems: Problems) -> UInt64s:
        size = len(hashes[0])
        total, terms = np.zeros(size, np.uint64), np.zeros(size, np.uint8)
        product, factors = hashes[0], np.ones(size, np.uint8)
        negative = np.zeros(size, np.bool_)

        def close(where: NDArray[np.bool_]) -> None:
            term = np.where(factors > 1, self._canonical.product(product), product)
            total[where] += self._canonical.minus(term, negative)[where]
            terms[where] += 1

        for position, part in enumerate(hashes[1:]):
            times, minus = (self._is(problems, position, operator) for operator in "*-")
            close(~times)
            product = np.where(times, product + part, part)
            factors = np.where(times, factors + 1, 1).astype(np.uint8)
            negative = np.where(times, negative, minus)
        close(np.ones(size, np.bool_))
        return np.where(terms > 1, self._canonical.sum(total), total)

    def answers(self, problems: Problems) -> NDArray[np.integer]:
        """Exact answers [n] in the smallest type that holds them all."""
        if self.spec.operators == ("+",):
            total = problems.operands[0].astype(self._answer_type)
            for operand in problems.operands[1:]:
                total += operand
            return total
        value = np.zeros(len(problems.operands[0]), np.int64)
        term = problems.operands[0].astype(np.int64)
        for position, operand in enumerate(problems.operands[1:]):
            times, minus = (self._is(problems, position, operator) for operator in "*-")
            number = operand.astype(np.int64)
            value += np.where(times, 0, term)
            term = np.where(times, term * number, np.where(minus, -number, number))
        return (value + term).astype(self._answer_type)

    def carries(self, problems: Problems) -> NDArray[np.uint8]:
        """Longest run of neighbouring columns that carry into the next, uint8 [n]; for pure addition only."""
        assert self.spec.operators == ("+",), "carries are defined for sums"
        size = len(problems.operands[0])
        rest = [operand.astype(np.uint32) for operand in problems.operands]
        carry = np.zeros(size, np.uint32)
        run, longest = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
        for _ in range(len(str(self.spec.high))):
            column = carry
            for position, operand in enumerate(rest):
                rest[position] = operand // np.uint32(10)
                column = column + (operand - rest[position] * np.uint32(10))
            carry = column // np.uint32(10)
            run = np.where(carry > 0, run + np.uint8(1), np.uint8(0)).astype(np.uint8)
            longest = np.maximum(longest, run)
        return longest

    def table(self, ids: UInt64s, problems: Problems) -> pa.Table:
        """The corpus's columns for a block, `ids` [n]."""
        answers = self.answers(problems)
        return pa.Table.from_arrays(
            [
                pa.array(ids.view(np.int64)),
                *(pa.array(operand.astype(np.int32)) for operand in problems.operands),
                pa.array(answers),
                self._problem_text(problems),
                self._answer_text(answers),
            ],
            schema=self.layout.schema,
        )

    def _is(self, problems: Problems, position: int, operator: str) -> NDArray[np.bool_]:
        if operator not in self.spec.operators:
            return np.zeros(len(problems.operands[0]), np.bool_)
        if not self._mixed:
            return np.ones(len(problems.operands[0]), np.bool_)
        return problems.operators[position] == self.spec.operators.index(operator)

    def _answer_bounds(self) -> tuple[int, int]:
        low, high, terms = self.spec.low, self.spec.high, self.spec.terms
        if self.spec.operators == ("+",):
            return low * terms, high * terms
        largest = high * terms if "*" not in self.spec.operators else max(high**terms, high * terms)
        return (-largest if "-" in self.spec.operators else 0), largest

    def _problem_text(self, problems: Problems) -> pa.Array:
        words = np.empty((len(problems.operands[0]), self.spec.terms), self._tables[0].words.dtype)
        lengths = np.zeros(len(words), np.uint8)
        for position, operand in enumerate(problems.operands):
            last = position == self.spec.terms - 1
            rows = operand - self._operand_type.type(self.spec.low)
            if self._mixed and not last:
                rows = rows + problems.operators[position] * np.uint32(self._radix)
            table = self._tables[1 if last else 0]
            words[:, position] = table.words.take(rows)
            lengths += table.lengths.take(rows)
        return to_strings(words, lengths)

    def _answer_text(self, answers: NDArray[np.integer]) -> pa.Array:
        if self._answer_table is None:
            return to_strings(*decimal_characters(answers.astype(np.int64)))
        rows = answers.astype(np.int64) - self._answer_low
        return to_strings(self._answer_table.words.take(rows), self._answer_table.lengths.take(rows))

    @cached_property
    def _operand_hashes(self) -> UInt64s:
        return self._canonical.number(np.arange(self.spec.low, self.spec.high + 1, dtype=np.uint64))

    @cached_property
    def _tables(self) -> tuple[CharacterTable, CharacterTable]:
        # Operands followed by each operator, one table behind the other; and the last operand of a problem.
        tables = [CharacterTable.of_range(self.spec.low, self.spec.high, suffix) for suffix in self.spec.operators]
        inner = CharacterTable(
            np.concatenate([table.words for table in tables]), np.concatenate([table.lengths for table in tables])
        )
        last = CharacterTable.of_range(self.spec.low, self.spec.high)
        return inner, CharacterTable(last.words.astype(inner.words.dtype), last.lengths)

    @cached_property
    def _answer_table(self) -> CharacterTable | None:
        if self._answer_high - self._answer_low >= _LARGEST_TABLE:
            return None
        return CharacterTable.of_range(self._answer_low, self._answer_high)
