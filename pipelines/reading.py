"""Problems back from their text: canonical hashes of whole columns, and exact canonical forms of single problems.

The hashes equal the generator's, but are computed from what stands in a shard, so a corpus
can be compared with another whatever its manifest says. Numbers, `+ - *`, unary minus and
brackets are read, with Python's precedence.
"""

import ast
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.digits import LIMB_DIGITS
from pipelines.split import Canonical, Flags, Terms
from storage.columns import string_buffers
from storage.errors import RunFailure
from storage.order import UInt64s

Rows = NDArray[np.intp]
Form = tuple[object, ...]

_ALPHABET = "0123456789+-*()"
_NO_CHARACTER = ord(" ")


def text_hashes(problems: pa.Array, canonical: Canonical) -> UInt64s:
    """Hashes of the canonical forms of problems given as text, uint64 [n]; raises `RunFailure` for other text."""
    if not len(problems):
        return np.zeros(0, np.uint64)
    columns = _columns(problems)
    digit = (columns >= ord("0")) & (columns <= ord("9"))
    opened = np.cumsum((columns == ord("(")).astype(np.int8) - (columns == ord(")")), axis=0, dtype=np.int16)
    _check(problems, columns, opened)
    reader = _Reader(canonical, int(opened.max(initial=0)) + 1, columns.shape[1])
    number = np.zeros(columns.shape[1], np.uint64)
    places = _places(digit)
    weights = _weights(canonical, int(places.max(initial=0)) + 1)
    operand_next = np.ones(columns.shape[1], np.bool_)
    for place, column in enumerate(columns):
        number += np.where(digit[place], (column - np.uint8(ord("0"))) * weights.take(places[place]), 0)
        ended = np.flatnonzero(digit[place] & (places[place] == 0))
        if ended.size:
            leaf = canonical.leaf(canonical.finished(number.take(ended)))
            reader.factor(ended, leaf)
            number[ended] = 0
        minus = column == ord("-")
        reader.negate(np.flatnonzero(minus & operand_next))
        reader.next_term(np.flatnonzero(((column == ord("+")) | minus) & ~operand_next), minus)
        reader.open(np.flatnonzero(column == ord("(")))
        reader.close(np.flatnonzero(column == ord(")")))
        operand_next = ~digit[place] & (column != ord(")")) & ((column != _NO_CHARACTER) | operand_next)
    return canonical.root(reader.whole())


def canonical_form(problem: str) -> Form:
    """The canonical form of one problem as nested tuples, equal for two problems exactly if they count as one."""
    tree = ast.parse(problem, mode="eval").body
    terms = _terms(tree)
    return terms[0] if len(terms) == 1 else ("sum", *sorted(terms, key=repr))


@dataclass
class _Level:
    """What has been read inside one level of brackets: the terms before, and the term that is being read."""

    total: Terms
    some: Flags
    term: Terms
    begun: Flags
    minus: Flags
    unary: Flags


class _Reader:
    """A shunting yard over all rows at once; each method takes the rows that it happens in."""

    def __init__(self, canonical: Canonical, levels: int, rows: int) -> None:
        self._canonical = canonical
        self._depth = np.zeros(rows, np.int16)
        self._levels = [_empty_level(rows) for _ in range(levels)]

    def factor(self, rows: Rows, factor: Terms) -> None:
        """A number, or what stood in brackets, joins the term."""
        for number, part, inside in self._by_level(rows):
            level = self._levels[number]
            read = _pick(factor, inside).negated(level.unary.take(part))
            begun = level.begun.take(part)
            first, later = np.flatnonzero(~begun), np.flatnonzero(begun)
            if first.size:
                _put(level.term, part.take(first), _pick(read, first))
            if later.size:
                target = part.take(later)
                _put(
                    level.term,
                    target,
                    self._canonical.multiplied(_pick(level.term, target), _pick(read, later)),
                )
            level.begun[part], level.unary[part] = True, False

    def negate(self, rows: Rows) -> None:
        """A minus before an operand."""
        for number, part, _ in self._by_level(rows):
            self._levels[number].unary[part] ^= True

    def next_term(self, rows: Rows, minus: Flags) -> None:
        """A plus or a minus between operands: the term is complete."""
        for number, part, _ in self._by_level(rows):
            self._end_term(number, part)
            self._levels[number].minus[part] = minus.take(part)

    def open(self, rows: Rows) -> None:
        """A bracket opens."""
        if rows.size:
            self._depth[rows] += 1
            for number, part, _ in self._by_level(rows):
                level = self._levels[number]
                for flags in (level.some, level.begun, level.minus, level.unary):
                    flags[part] = False

    def close(self, rows: Rows) -> None:
        """A bracket closes: what stood in it is a factor one level up."""
        inner = list(self._by_level(rows))
        for number, part, _ in inner:
            self._end_term(number, part)
        self._depth[rows] -= 1
        for number, part, _ in inner:
            self.factor(part, _pick(self._levels[number].total, part))

    def whole(self) -> Terms:
        """The problems themselves, at their end."""
        everything = np.arange(len(self._depth))
        self._end_term(0, everything)
        return self._levels[0].total

    def _end_term(self, number: int, rows: Rows) -> None:
        level = self._levels[number]
        term = _pick(level.term, rows).negated(level.minus.take(rows))
        some = level.some.take(rows)
        first, later = np.flatnonzero(~some), np.flatnonzero(some)
        if first.size:
            _put(level.total, rows.take(first), _pick(term, first))
        if later.size:
            target = rows.take(later)
            _put(level.total, target, self._canonical.added(_pick(level.total, target), _pick(term, later)))
        level.some[rows], level.begun[rows], level.minus[rows] = True, False, False

    def _by_level(self, rows: Rows) -> list[tuple[int, Rows, Rows]]:
        """The rows of each level of brackets, and where they stand in `rows`."""
        if not rows.size:
            return []
        depths = self._depth.take(rows)
        found = []
        for number in np.unique(depths):
            inside = np.flatnonzero(depths == number)
            found.append((int(number), rows.take(inside), inside))
        return found


def _columns(problems: pa.Array) -> NDArray[np.uint8]:
    """Characters [width, n], blanks behind short problems."""
    width = pc.max(pc.binary_length(problems)).as_py()
    padded = pc.ascii_rpad(problems, max(1, width), " ")
    data, _ = string_buffers(padded)
    return np.ascontiguousarray(data.reshape(len(problems), -1).T)


def _check(problems: pa.Array, columns: NDArray[np.uint8], opened: NDArray[np.int16]) -> None:
    known = np.zeros(256, np.bool_)
    known[[ord(character) for character in _ALPHABET + " "]] = True
    bad = ~known.take(columns).all(0) | (opened.min(0) < 0) | (opened[-1] != 0)
    if bad.any():
        raise RunFailure(f"problem {problems[int(np.argmax(bad))].as_py()!r} is not one of Numerate's")


def _places(digit: Flags) -> NDArray[np.int16]:
    """For every digit how many digits of its number follow, int16 [width, n]; 0 elsewhere."""
    places = np.zeros(digit.shape, np.int16)
    for column in range(len(digit) - 2, -1, -1):
        places[column] = (places[column + 1] + 1) * (digit[column] & digit[column + 1])
    return places


def _weights(canonical: Canonical, digits: int) -> UInt64s:
    weights, limb = [], 1
    for place in range(digits):
        if place and place % LIMB_DIGITS == 0:
            limb = limb * int(canonical.limb_weight) % (1 << 64)
        weights.append(limb * 10 ** (place % LIMB_DIGITS) % (1 << 64))
    return np.array(weights, np.uint64)


def _empty_level(rows: int) -> _Level:
    def terms() -> Terms:
        plus, minus, factor = (np.zeros(rows, np.uint64) for _ in range(3))
        return Terms(plus, minus, factor, np.zeros(rows, np.bool_), np.zeros(rows, np.bool_))

    flags = (np.zeros(rows, np.bool_) for _ in range(4))
    some, begun, minus, unary = flags
    return _Level(terms(), some, terms(), begun, minus, unary)


def _pick(terms: Terms, rows: Rows) -> Terms:
    return terms.take(rows)


def _put(target: Terms, rows: Rows, values: Terms) -> None:
    for name in target.__dataclass_fields__:
        getattr(target, name)[rows] = getattr(values, name)


def _terms(node: ast.AST) -> list[Form]:
    """The addends of an expression as signed forms ('+' or '-', form)."""
    if isinstance(node, ast.UnaryOp):
        return [_turned(term) for term in _terms(node.operand)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        right = _terms(node.right)
        return _terms(node.left) + ([_turned(term) for term in right] if isinstance(node.op, ast.Sub) else right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        factors = _factors(node)
        sign = "-" if sum(turned == "-" for turned, _ in factors) % 2 else "+"
        return [(sign, ("product", *sorted((form for _, form in factors), key=repr)))]
    assert isinstance(node, ast.Constant), f"{ast.dump(node)} is no arithmetic"
    return [("+", node.value)]


def _factors(node: ast.AST) -> list[tuple[str, object]]:
    """The factors of an expression with their signs; of a sum and its negative one stands for both."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _factors(node.left) + _factors(node.right)
    if isinstance(node, ast.UnaryOp):
        (sign, form), *others = _factors(node.operand)
        return [(_opposite(sign), form), *others]
    terms = _terms(node)
    if len(terms) == 1:
        return [(str(terms[0][0]), terms[0][1])]
    plus = sorted(map(repr, terms))
    minus = sorted(map(repr, (_turned(term) for term in terms)))
    return [("+", ("sum", *plus))] if plus <= minus else [("-", ("sum", *minus))]


def _turned(term: Form) -> Form:
    return (_opposite(str(term[0])), *term[1:])


def _opposite(sign: str) -> str:
    return "-" if sign == "+" else "+"
