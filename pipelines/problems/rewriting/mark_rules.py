"""Marks the operations of an expression that can be carried out now: those whose operands are literals.

A literal is an optional unary minus and digits. These operations are marked, all at once:

1. brackets around a literal, together with a unary minus directly before them, as in `-(-12)`;
2. the last two minuses of a chain before digits, both unary, as in `--5`;
3. a product of two literals, unless a `*` or a unary minus precedes it;
4. a sum or a difference of two literals that begins the text or a bracket, unless a `*` follows it.

With whole brackets, a product, sum or difference that fills a bracket is marked with the bracket, as in `(3+4)`, unless
a unary minus precedes it: its result can be zero or negative, and states with `-0` or longer chains would come up.

Each rule depends only on the neighbourhood, so no parser is needed. Marked spans never overlap, and at least one
unmarked character separates two of them: a span ends with a digit or a bracket, and an operator or a closing bracket
follows, with which no span begins.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from storage.datasets.arrow_buffers import string_buffers

MARKED, UNMARKED = "^", "."

Flags = NDArray[np.bool_]

# Characters of a block, so that its arrays fit in the cache.
_BLOCK_CHARACTERS = 1 << 18

# The rules read at most this many units on either side.
_REACH = 4


def marks_of(problems: pa.Array, whole_brackets: bool = False) -> pa.Array:
    """The marks of expressions, strings [n]: `^` for each character of a marked operation, `.` for all others.

    The texts must be valid expressions; the marks of other texts have no meaning.
    """
    return marks_and_counts(problems, whole_brackets)[0]


def marks_and_counts(problems: pa.Array, whole_brackets: bool = False) -> tuple[pa.Array, NDArray[np.int32]]:
    """The result of `marks_of`, and the number of marked operations of each expression, int32 [n]."""
    characters = int(pc.sum(pc.binary_length(problems)).as_py() or 0)
    step = max(1, _BLOCK_CHARACTERS * len(problems) // max(1, characters))
    firsts = range(0, max(1, len(problems)), step)
    blocks = [_block(problems.slice(first, step), whole_brackets) for first in firsts]
    marks, counts = zip(*blocks, strict=True)
    return marks[0] if len(marks) == 1 else pa.concat_arrays(marks), np.concatenate(counts)


def _block(problems: pa.Array, whole_brackets: bool) -> tuple[pa.Array, NDArray[np.int32]]:
    characters, offsets = string_buffers(problems)
    counts, filled = np.zeros(len(problems), np.int32), np.diff(offsets) > 0
    if not len(characters):
        return pa.array([""] * len(problems), pa.string()), counts
    digit = characters - np.uint8(ord("0")) <= 9
    begin = np.zeros(len(characters), np.bool_)
    begin[offsets[:-1].compress(filled)] = True
    # A number is one unit, and so is every other character.
    first = ~digit | begin
    first[1:] |= ~digit[:-1]
    firsts = np.flatnonzero(first)
    units = _Units(characters.take(firsts), begin.take(firsts))
    marked, operations = units.marked(whole_brackets)
    lengths = np.diff(firsts, append=len(characters))
    marks = np.repeat(np.where(marked, np.uint8(ord(MARKED)), np.uint8(ord(UNMARKED))), lengths)
    ends = np.append(np.flatnonzero(begin.take(firsts))[1:], len(firsts)) - 1
    counts[filled] = np.diff(np.cumsum(operations, dtype=np.int32).take(ends), prepend=np.int32(0))
    offsets_buffer = pa.py_buffer(np.ascontiguousarray(offsets, np.int32))
    return pa.StringArray.from_buffers(len(problems), offsets_buffer, pa.py_buffer(marks)), counts


class _Units:
    """The numbers, signs and brackets of concatenated texts, [k], from the first character of each.

    `begin` [k] marks the first unit of each text. A text ends with an operand, and an operand, a bracket or a unary
    minus begins the next. Only rules that read a beginning or the operand before a minus can confuse two texts.
    """

    def __init__(self, units: NDArray[np.uint8], begin: Flags) -> None:
        self._inner = slice(_REACH, _REACH + len(units))
        padded = np.zeros(len(units) + 2 * _REACH, np.uint8)
        padded[self._inner] = units
        self.begin = np.zeros(len(padded), np.bool_)
        self.begin[self._inner] = begin
        self.number = padded - np.uint8(ord("0")) <= 9
        self.opening, self.closing, self.times = (padded == ord(character) for character in "()*")
        minus, after_operand = padded == ord("-"), np.zeros(len(padded), np.bool_)
        np.logical_or(self.number[:-1], self.closing[:-1], out=after_operand[1:])
        after_operand &= ~self.begin
        self.unary = minus & ~after_operand
        self.sum = minus & after_operand
        self.sum |= padded == ord("+")

    def marked(self, whole_brackets: bool) -> tuple[Flags, Flags]:
        """The units of marked operations, and one unit of each such operation, bool [k]."""
        binary, double = self._binary(), self._double_minuses()
        bare, signed = self._brackets()
        unary = self.unary
        marked = binary | _at(binary, 1) | _at(binary, -1)
        marked |= unary & _at(binary, 2)
        marked |= _at(unary, -1) & _at(binary, -2)
        if whole_brackets:
            marked |= self._around(binary)
        brackets = bare | signed
        for flags in (double, brackets):
            marked |= flags | _at(flags, 1) | _at(flags, 2)
        marked |= _at(signed, 3)
        marked |= unary & (_at(bare, 3) | _at(signed, 4))
        binary |= double
        binary |= brackets
        return marked[self._inner], binary[self._inner]

    def _binary(self) -> Flags:
        """The operators of marked products, sums and differences."""
        number, unary = self.number, self.unary
        signed_left = _at(unary, -2)
        signed_right = _at(unary, 1) & _at(number, 2)
        follows = _at(self.times, -2) | signed_left & _at(self.times | unary, -3)
        product = self.times & (_at(number, 1) | signed_right) & ~follows
        starts = _at(self.begin, -1) | _at(self.opening, -2)
        starts |= signed_left & (_at(self.begin, -2) | _at(self.opening, -3))
        ends = _at(number, 1) & ~_at(self.times, 2) | signed_right & ~_at(self.times, 3)
        return (product | self.sum & starts & ends) & _at(number, -1)

    def _around(self, binary: Flags) -> Flags:
        """The brackets that an operation fills, from the operators of marked operations."""
        unary, closing = self.unary, self.closing
        opening = self.opening & ~_at(unary, -1)
        signed_left = binary & _at(unary, -2) & _at(opening, -3)
        signed_right = binary & _at(unary, 1) & _at(closing, 3)
        bare_left, bare_right = binary & _at(opening, -2), binary & _at(closing, 2)
        filled = (signed_left | bare_left) & (signed_right | bare_right)
        before = _at(filled & bare_left, 2) | _at(filled & signed_left, 3)
        return before | _at(filled & bare_right, -2) | _at(filled & signed_right, -3)

    def _double_minuses(self) -> Flags:
        """The numbers after two unary minuses."""
        return self.number & _at(self.unary, -1) & _at(self.unary, -2)

    def _brackets(self) -> tuple[Flags, Flags]:
        """The closing brackets of a number, and those of a number with a minus."""
        ends = self.closing & _at(self.number, -1)
        return ends & _at(self.opening, -2), ends & _at(self.unary, -2) & _at(self.opening, -3)


def _at(flags: Flags, offset: int) -> Flags:
    """The flags of the units `offset` places to the right; False past the ends."""
    shifted = np.zeros_like(flags)
    if offset > 0:
        shifted[:-offset] = flags[offset:]
    else:
        shifted[-offset:] = flags[:offset]
    return shifted
