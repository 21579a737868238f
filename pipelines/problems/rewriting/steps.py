"""Steps: single operations of an encoder that evaluates by rewriting, each with its result.

A row is a sum or difference of two signed literals, such as `-7+-12`, one Horner step of a product, such as
`-345*2:2070`, or one literal in a bracket or after two minuses, such as `-(-12)`. In a step `a*b:R`, b holds the digits
that are not consumed yet, R is the register, and d is the first digit of b. The result is 10·R + |a|·d with the sign of
the product; it is the next register. With `digits_per_step` k, d is the number of the first k digits, and the result is
10ᵏ·R + |a|·d. A product's first step consumes fewer if that leaves a multiple of k digits.

Each row is drawn by a hash of its number, with a room of 3 … digits + 2 columns (`step_draws`). So short and long rows
are equally frequent, and short ones repeat.
"""

from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import Flags, digit_columns, digit_counts, limb_count
from pipelines.problems.family import Arrays, Block, Family, answer_columns, layout_for, pattern_column, schema_of
from pipelines.problems.rewriting.step_draws import (
    DRAWS,
    LITERAL,
    Digits,
    Drawn,
    Lanes,
    Rows,
    StepDraws,
    carry_of,
    joined,
    largest_carry,
    product_totals,
)
from pipelines.problems.text import decimal_text, number_words
from pipelines.spec.corpus import ProblemSpec
from pipelines.split.canonical import Canonical
from storage.datasets.arrow_buffers import blank_words, to_strings
from storage.order import UInt64s, derive_key, mix64

# Columns of this family besides those of every family.
COLUMNS = {
    "consumed": pa.string(),
    "draw": pa.dictionary(pa.int32(), pa.string()),
    "done": pa.bool_(),
    "column_total": pa.int32(),
    "largest_carry": pa.int32(),
    "carry_bound": pa.int32(),
}

# Share of products if there are other operators too.
_PRODUCTS = 0.6
_TRAJECTORIES = 0.45
# Share of literals in brackets and after minuses among sums and differences, if there are differences.
_LITERALS = 0.2
# What is before the digits of such a literal; 0 is an ordinary row. All but the last have a closing bracket.
_FORMS = ("", "(", "(-", "-(", "-(-", "--")
_FORM_LENGTHS = np.array([0, *(len(form) + ("(" in form) for form in _FORMS[1:])], np.int32)
_FORM_WORDS = np.array([sum(ord(sign) << 8 * number for number, sign in enumerate(form)) for form in _FORMS], np.uint64)
_ODD_FORMS = np.array([form.count("-") % 2 > 0 for form in _FORMS])
_BRACKETS = np.array(["(" in form for form in _FORMS])


class _Results(NamedTuple):
    """Results of n rows: digits of their magnitudes [columns, n], signs, and what the columns carry, each [n]."""

    digits: Digits
    negative: Flags
    carries: NDArray[np.integer]
    column_total: NDArray[np.integer]
    largest_carry: NDArray[np.integer]
    carry_bound: NDArray[np.integer]


class Steps(Family):
    """Rows of single steps with operands of up to `spec.digits` digits."""

    def __init__(self, spec: ProblemSpec, canonical: Canonical, key: int, rows: int) -> None:
        super().__init__(spec, canonical, key, rows)
        # A register has one more digit than an operand, and a result has as many more as a step consumes.
        self._register_limbs = limb_count(spec.digits + 1)
        self._draws = StepDraws(spec.digits, spec.digits_per_step)
        self.block_rows = max(1 << 10, min(1 << 15, 1 << ((1 << 21) // spec.digits).bit_length() - 1))
        schema = schema_of({})
        for name, kind in COLUMNS.items():
            schema = schema.append(pa.field(name, kind, nullable=False))
        schema = schema.set(schema.names.index("carries"), pa.field("carries", pa.int32(), nullable=False))
        self.layout = layout_for(schema, {"consumed": "DELTA_LENGTH_BYTE_ARRAY"})

    def problems(self, positions: UInt64s) -> Block:
        """The problems at `positions`.

        `limbs` [2 · (limbs + register limbs), n] of a, b, R and the consumed digits, `lengths` [3, n] of a, b and R (0
        for sums), `minus` [2, n] of a and b; `operator` (index in the spec, or one more), `draw` (index in `DRAWS`),
        and `form` (index in `_FORMS`), each [n]; `digit` [digits_per_step, n], the digits of b that a product's step
        consumes, units first. A literal alone is b.
        """
        seeds = mix64(positions * np.uint64(0x9E3779B97F4A7C15) + np.uint64(derive_key(self._key, "steps")))
        lanes, rows = Lanes(seeds, derive_key(self._key, "row")), len(positions)
        room = 3 + lanes.below(self.spec.digits)
        operator, walks = self._operators(lanes), lanes.chance(_TRAJECTORIES)
        minus = np.array([lanes.chance(0.5), lanes.chance(0.5)])
        times = self._are(operator, "*")
        form = self._forms(lanes, ~times)
        operator[form > 0] = len(self.spec.operators)
        minus[:, form > 0] = [[False], [True]] & _ODD_FORMS.take(form[form > 0])
        arrays: Arrays = {
            "limbs": np.zeros((2 * (self._limbs + self._register_limbs), rows), np.uint32),
            "lengths": np.zeros((3, rows), np.uint16),
            "minus": minus,
            "operator": operator,
            "draw": np.zeros(rows, np.uint8),
            "digit": np.zeros((self.spec.digits_per_step, rows), np.uint8),
            "form": form,
        }
        block = Block(arrays)
        apart = minus[0] ^ minus[1] ^ self._are(operator, "-")
        for kind, where in enumerate((~times, times & walks, times & ~walks)):
            chosen = np.flatnonzero(where)
            # Taken also if no row is chosen: the draws of a row must not depend on the others of its block.
            own = lanes.take(chosen)
            if not chosen.size:
                continue
            if kind == 0:
                drawn = self._draws.sums(own, room.take(chosen), apart.take(chosen))
            else:
                drawn = (self._draws.trajectories if kind == 1 else self._draws.registers)(own, room.take(chosen))
            self._put(block, chosen, drawn)
        arrays["limbs"][: self._limbs, form > 0] = 0
        arrays["lengths"][0, form > 0] = 0
        arrays["draw"][form > 0] = LITERAL
        # Zero has no sign. But the digits that remain of a negative factor keep its sign.
        minus[0] &= self._operand(block, 0).any(0)
        minus[1] &= self._operand(block, 1).any(0) | self._register(block).any(0)
        return block

    def canonical(self, problems: Block) -> UInt64s:
        hashes = np.empty(problems.rows, np.uint64)
        times = self._are(problems["operator"], "*")
        if (rows := np.flatnonzero(~times)).size:
            hashes[rows] = self._sum_hashes(problems.take(rows))
        if (rows := np.flatnonzero(problems["form"])).size:
            number = self._canonical.number(self._operand(problems.take(rows), 1))
            odd = _ODD_FORMS.take(problems["form"].take(rows))
            hashes[rows] = np.where(odd, self._canonical.minus(number), number)
        if (rows := np.flatnonzero(times)).size:
            part = problems.take(rows)
            hashes[rows] = self._canonical.step(
                self._operand(part, 0),
                self._operand(part, 1),
                part["lengths"][1],
                self._register(part),
                self._consumed(part),
                part["minus"][0] ^ part["minus"][1],
            )
        return hashes

    def text_lengths(self, problems: Block) -> NDArray[np.integer] | int:
        lengths, register = problems["lengths"], problems["lengths"][2]
        form = problems["form"]
        signs = np.where(form > 0, _FORM_LENGTHS.take(form), problems["minus"].sum(0, dtype=np.int32) + 1)
        return lengths.sum(0, dtype=np.int32) + signs + (register > 0)

    def _columns(self, problems: Block) -> dict[str, Any]:
        results, lengths = self._results(problems), problems["lengths"]
        consumed = self._consumed(problems)
        counts = digit_counts(consumed) * consumed.any(0)
        return {
            **answer_columns(joined(results.digits), results.negative),
            "problem": self._problem_text(problems),
            "operators": pattern_column(problems["operator"], [*self.spec.operators, ""], problems.rows),
            "terms": np.where(problems["form"] > 0, np.int32(1), np.int32(2)),
            "digits": lengths[:2].max(0).astype(np.int32),
            "carries": results.carries.astype(np.int32),
            "depth": _BRACKETS.take(problems["form"]).astype(np.int32),
            "consumed": decimal_text(consumed, counts, np.zeros(problems.rows, np.bool_)),
            "draw": pattern_column(problems["draw"], list(DRAWS), problems.rows),
            "done": ~self._are(problems["operator"], "*") | (lengths[1] <= self.spec.digits_per_step),
            "column_total": results.column_total.astype(np.int32),
            "largest_carry": results.largest_carry.astype(np.int32),
            "carry_bound": results.carry_bound.astype(np.int32),
        }

    def _operators(self, lanes: Lanes) -> Digits:
        """Operators as indices in the spec, [n]: products in 60 % of the rows, the others equally often."""
        others = [operator for operator in self.spec.operators if operator != "*"]
        chosen, times = lanes.below(max(1, len(others))), lanes.chance(_PRODUCTS)
        symbols = np.array([self.spec.operators.index(operator) for operator in others or ("*",)], np.uint8)
        found = symbols.take(chosen)
        return np.where(times, np.uint8(self.spec.operators.index("*")), found) if "*" in self.spec.operators else found

    def _forms(self, lanes: Lanes, where: Flags) -> NDArray[np.uint8]:
        """Forms of the rows, as indices in `_FORMS`, [n]: not 0 in a share of the rows in `where`."""
        chosen, form = lanes.chance(_LITERALS), 1 + lanes.below(len(_FORMS) - 1)
        return np.where(chosen & where & ("-" in self.spec.operators), form, 0).astype(np.uint8)

    def _are(self, operators: NDArray[np.uint8], symbol: str) -> Flags:
        if symbol not in self.spec.operators:
            return np.zeros(len(operators), np.bool_)
        return operators == self.spec.operators.index(symbol)

    def _put(self, block: Block, rows: Rows, drawn: Drawn) -> None:
        """Writes drawn rows into the block."""
        limbs, lengths, size = block["limbs"], block["lengths"], self._limbs
        numbers = (joined(drawn.a), joined(drawn.b), drawn.register, drawn.consumed)
        first = 0
        for number in numbers:
            for limb in number:
                limbs[first, rows] = limb
                first += 1
        assert first == 2 * (size + self._register_limbs)
        product = drawn.lengths > 0
        lengths[0, rows] = digit_counts(numbers[0])
        lengths[1, rows] = np.where(product, drawn.lengths, digit_counts(numbers[1]))
        lengths[2, rows] = digit_counts(drawn.register) * product
        per_step, columns = self.spec.digits_per_step, np.arange(len(rows))
        lowest = np.maximum(drawn.lengths - 1, 0) // per_step * per_step
        for digit in range(per_step):
            place = np.minimum(lowest + digit, len(drawn.b) - 1)
            block["digit"][digit, rows] = drawn.b[place, columns] * (lowest + digit < drawn.lengths)
        block["draw"][rows] = drawn.draws

    def _register(self, problems: Block) -> NDArray[np.uint32]:
        """Limbs of R, [register limbs, n]."""
        limbs: NDArray[np.uint32] = problems["limbs"][2 * self._limbs : 2 * self._limbs + self._register_limbs]
        return limbs

    def _consumed(self, problems: Block) -> NDArray[np.uint32]:
        """Limbs of the consumed digits, [register limbs, n]."""
        limbs: NDArray[np.uint32] = problems["limbs"][2 * self._limbs + self._register_limbs :]
        return limbs

    def _sum_hashes(self, problems: Block) -> UInt64s:
        minus = problems["minus"] ^ np.stack([np.zeros(problems.rows, np.bool_), self._are(problems["operator"], "-")])
        hashes = (self._canonical.number(self._operand(problems, term)) for term in range(2))
        first, second = (
            np.where(flags, self._canonical.minus(number), number) for flags, number in zip(minus, hashes, strict=True)
        )
        return self._canonical.sum(first + second)

    def _results(self, problems: Block) -> _Results:
        times = self._are(problems["operator"], "*")
        parts = []
        for chosen, results_of in (
            (np.flatnonzero(~times), self._sum_results),
            (np.flatnonzero(times), self._products),
        ):
            if chosen.size == problems.rows:
                return results_of(problems)
            if chosen.size:
                parts.append((chosen, results_of(problems.take(chosen))))
        fields = []
        for values in zip(*(results for _, results in parts), strict=True):
            merged = np.zeros((*values[-1].shape[:-1], problems.rows), values[-1].dtype)
            for (chosen, _), part in zip(parts, values, strict=True):
                if merged.ndim == 2:
                    merged[: len(part), chosen] = part
                else:
                    merged[chosen] = part
            fields.append(merged)
        return _Results(*fields)

    def _sum_results(self, problems: Block) -> _Results:
        """Results of sums; the bound of a difference includes the comparison of the magnitudes, from the units up."""
        digits, lengths = self.spec.digits, problems["lengths"]
        first, second = (self._operand(problems, term) for term in range(2))
        apart = problems["minus"][0] ^ problems["minus"][1] ^ self._are(problems["operator"], "-")
        less = _is_less(first, second) & apart
        sign = np.where(apart, np.int8(-1), np.int8(1))
        totals = digit_columns(first, digits).view(np.int8) + digit_columns(second, digits).view(np.int8) * sign
        totals *= np.where(less, np.int8(-1), np.int8(1))
        tie, width = np.where(apart, np.int8(0), np.int8(9)), lengths[:2].max(0)
        chain = _Chain(problems.rows, digits + 1)
        moves, at_top = chain.moves(), chain.moves()
        carry = np.zeros(problems.rows, np.int8)
        for place, column in enumerate(totals):
            total = column + carry
            carry = (total >= 10).view(np.int8) - (total < 0).view(np.int8)
            moves = 1 + moves * ((column == tie) & (place < width))
            np.copyto(at_top, moves, where=width == place + 1)
            chain.add((total - carry * np.int8(10)).view(np.uint8), carry, moves)
        chain.add(carry.view(np.uint8), np.zeros_like(carry), moves)
        # Which magnitude is larger decides every digit of a difference, one move later.
        bound = np.maximum(chain.bound, (at_top + 1) * apart)
        results = chain.digits
        negative = (problems["minus"][0] ^ less) & results.any(0)
        return _Results(results, negative, chain.longest, np.abs(totals).max(0), chain.largest, bound)

    def _products(self, problems: Block) -> _Results:
        """Results of Horner steps; a column's total has the units of this and the tens of the next lower product."""
        digits, per_step = self.spec.digits, self.spec.digits_per_step
        totals = np.zeros((digits + per_step + 1, problems.rows), np.uint8)
        totals[:-1] = product_totals(digit_columns(self._operand(problems, 0), digits), problems["digit"])
        totals[per_step:] += digit_columns(self._register(problems), digits + 1)
        chain, most = _Chain(problems.rows, len(totals)), largest_carry(per_step)
        # Moves after which it is certain whether the carry is at least 1, 2 …
        moves = {least: chain.moves() for least in range(1, most + 1)}
        carry = np.zeros(problems.rows, np.uint8)
        for column in totals:
            total = column + carry
            carry = carry_of(total, most)
            # A column of 9 passes on whether the carry into it is at least 1, a column of 18 whether it is 2.
            moves = {
                least: 1 + sum(moves[other] * (column == 10 * least - other) for other in moves) for least in moves
            }
            bound = moves[1]
            for least in range(2, most + 1):
                bound = np.maximum(bound, moves[least])
            chain.add(total - carry * np.uint8(10), carry, bound)
        results = chain.digits
        negative = (problems["minus"][0] ^ problems["minus"][1]) & results.any(0)
        return _Results(results, negative, chain.longest, totals.max(0), chain.largest, chain.bound)

    def _problem_text(self, problems: Block) -> pa.Array:
        # The operator and a sign come first in the words of a number, or in a word of their own if there is no room.
        size, step = self._limbs, limb_count(self.spec.digits + 2)
        last = limb_count(self.spec.digits + 2)
        buffer, words = blank_words(problems.rows, 2 * step + last)
        lengths, form = problems["lengths"], problems["form"]
        minus = (problems["minus"] & (form == 0)) * np.uint64(ord("-"))
        symbols = np.array([*map(ord, self.spec.operators), 0], np.uint64)
        for term in range(2):
            end = (term + 1) * step
            number_words(self._operand(problems, term), lengths[term], words[:, end - size : end])
        words[:, 0] |= minus[0] | _FORM_WORDS.take(form)
        words[:, step] |= symbols.take(problems["operator"]) | minus[1] << np.uint64(8)
        if "*" in self.spec.operators:
            number_words(self._register(problems), lengths[2], words[:, -self._register_limbs :])
            words[:, 2 * step] |= (lengths[2] > 0) * np.uint64(ord(":"))
        words[:, 2 * step] |= _BRACKETS.take(form) * np.uint64(ord(")"))
        return to_strings(buffer, self.text_lengths(problems))  # type: ignore[arg-type]


class _Chain:
    """What is carried from column to column in n rows, from the units up."""

    def __init__(self, rows: int, columns: int) -> None:
        self.digits = np.empty((columns, rows), np.uint8)
        self.largest = np.zeros(rows, np.uint8)
        # Small types are several times faster.
        self._kind = np.dtype(np.uint8 if columns < 250 else np.uint16)
        self.bound, self.longest, self._run = (self.moves() for _ in range(3))
        self._column = 0

    def moves(self) -> NDArray[Any]:
        """Counts of moves that start at zero, [n]."""
        return np.zeros(self.largest.shape, self._kind)

    def add(self, digits: Digits, carry: NDArray[np.integer], moves: NDArray[Any]) -> None:
        """The next column: its digits, the carry out of it, and after how many moves that is certain, each [n]."""
        self.digits[self._column] = digits
        self._column += 1
        self._run += 1
        self._run *= carry != 0
        np.maximum(self.longest, self._run, out=self.longest)
        np.maximum(self.largest, np.abs(carry).view(np.uint8), out=self.largest)
        np.maximum(self.bound, moves, out=self.bound)


def _is_less(first: NDArray[np.uint32], second: NDArray[np.uint32]) -> Flags:
    """Whether the first number is less, [n]."""
    less = np.zeros(first.shape[1], np.bool_)
    for one, other in zip(first, second, strict=True):
        less = np.where(one == other, less, one < other)
    return less
