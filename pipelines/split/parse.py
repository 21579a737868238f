"""Parses problems from text: canonical hashes of whole columns, and exact canonical forms of single problems.

The hashes equal those of the generator but are computed from the text in a shard. Corpora can therefore be compared
without trusting their manifests. The grammar is numbers, `+ - *`, unary minus and brackets, with Python's precedence.
A Horner step of a product, such as `345*2:2070`, is a problem too: see `pipelines.problems.rewriting.steps`.
"""

import ast
import re
from dataclasses import dataclass
from math import prod

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.problems.arithmetic import LIMB_DIGITS, exact_quotients, limb_count
from pipelines.split.canonical import Canonical, Flags, Terms
from storage.datasets.arrow_buffers import string_buffers
from storage.errors import RunFailure
from storage.order import UInt64s

Positions = NDArray[np.intp]
Form = tuple[object, ...]
# A sign, 1 or -1, and a number or form.
Term = tuple[int, object]

# Characters of a block, so that its arrays of 64-bit numbers fit in the cache.
_BLOCK_CHARACTERS = 1 << 17

# A Horner step: two signed factors, of which the second may begin with zeros, and the register.
_STEP = r"^(?P<minus>-?)(?P<a>0|[1-9][0-9]*)\*(?P<turned>-?)(?P<b>[0-9]+):(?P<register>0|[1-9][0-9]*)$"


def text_hashes(problems: pa.Array, canonical: Canonical) -> UInt64s:
    """Hashes of the canonical forms of problem texts, uint64 [n]; raises `RunFailure` for an invalid problem."""
    characters = int(pc.sum(pc.binary_length(problems)).as_py() or 0)
    step = max(1, _BLOCK_CHARACTERS * len(problems) // max(1, characters))
    blocks = [_block_hashes(problems.slice(first, step), canonical) for first in range(0, len(problems), step)]
    return np.concatenate(blocks) if blocks else np.zeros(0, np.uint64)


def canonical_form(problem: str) -> Form:
    """The canonical form of one problem as nested tuples; equal exactly for equivalent problems."""
    if ":" in problem:
        return _step_form(problem)
    tree = ast.parse(problem, mode="eval").body
    terms = _terms(tree)
    return terms[0] if len(terms) == 1 else ("sum", *sorted(terms, key=repr))


@dataclass(frozen=True)
class _Text:
    """The concatenated characters of n problems, uint8 [total], and where each problem begins and ends, [n]."""

    problems: pa.Array
    characters: NDArray[np.uint8]
    begins: Positions
    ends: Positions

    @staticmethod
    def of(problems: pa.Array) -> "_Text":
        """Raises `RunFailure` if a problem is empty."""
        characters, offsets = string_buffers(problems)
        text = _Text(problems, characters, offsets[:-1].astype(np.intp), offsets[1:].astype(np.intp))
        text.refuse_rows(text.begins == text.ends)
        return text

    def are(self, character: str) -> Flags:
        return self.characters == ord(character)

    def before(self, flags: Flags) -> Flags:
        """The `flags` [total] of each character's predecessor; False at the beginning of a problem."""
        shifted = np.empty_like(flags)
        shifted[1:] = flags[:-1]
        shifted[self.begins] = False
        return shifted

    def after(self, flags: Flags) -> Flags:
        """The `flags` [total] of each character's successor; False at the end of a problem."""
        shifted = np.empty_like(flags)
        shifted[:-1] = flags[1:]
        shifted[self.ends - 1] = False
        return shifted

    def refuse(self, bad: Flags) -> None:
        """Raises `RunFailure` if a character [total] is invalid."""
        if bad.any():
            self.refuse_rows(self.ends > np.argmax(bad))

    def refuse_rows(self, bad: Flags) -> None:
        """Raises `RunFailure` if a problem [n] is invalid."""
        if bad.any():
            text = self.problems[int(np.argmax(bad))].as_buffer().to_pybytes().decode(errors="replace")
            raise RunFailure(f"problem {text!r} is not valid")


@dataclass(frozen=True)
class _Items:
    """Numbers and opening brackets in reading order, [k], and the operators before each.

    `joined`: a '*'; `negative`: an odd number of minuses; `first`: the first item of its problem or bracket.
    """

    joined: Flags
    negative: Flags
    first: Flags

    @staticmethod
    def of(text: _Text, begin: Flags, opening: Flags) -> "_Items":
        """The items that begin at the characters marked by `begin` [total]."""
        begins = np.flatnonzero(begin)

        def count_before(sign: str) -> NDArray[np.int32]:
            """Occurrences of `sign` between an item and the previous one."""
            return np.diff(np.cumsum(text.are(sign), dtype=np.int32).take(begins), prepend=np.int32(0))

        first = np.zeros(len(begins), np.bool_)
        first[1:] = opening.take(begins[:-1])
        first[(np.cumsum(begin, dtype=np.int32) - begin).take(text.begins)] = True
        return _Items(count_before("*") > 0, count_before("-") % 2 > 0, first)

    def take(self, rows: Positions) -> "_Items":
        return _Items(self.joined.take(rows), self.negative.take(rows), self.first.take(rows))


def _block_hashes(problems: pa.Array, canonical: Canonical) -> UInt64s:
    """Hashes of a block of problems, of which some can be Horner steps."""
    if b":" not in string_buffers(problems)[0].tobytes():
        return _expression_hashes(problems, canonical)
    are_steps = pc.match_substring(problems, ":").to_numpy(zero_copy_only=False)
    hashes = np.empty(len(problems), np.uint64)
    for chosen, hashes_of in ((are_steps, _step_hashes), (~are_steps, _expression_hashes)):
        if chosen.any():
            hashes[chosen] = hashes_of(problems.filter(pa.array(chosen)), canonical)
    return hashes


def _step_hashes(problems: pa.Array, canonical: Canonical) -> UInt64s:
    """Hashes of a block of Horner steps."""
    text = _Text.of(problems)
    fields = pc.extract_regex(problems, _STEP)
    text.refuse_rows(fields.is_null().to_numpy(zero_copy_only=False))
    (a, _), (b, lengths), (register, _) = (_limbs(fields.field(name)) for name in ("a", "b", "register"))
    # Nothing is consumed if the register is zero, so the second factor is complete.
    zeros = pc.starts_with(fields.field("b"), "0").to_numpy(zero_copy_only=False) & (lengths > 1)
    text.refuse_rows(zeros & (register == 0).all(0))
    minus, turned = (pc.equal(fields.field(name), "-").to_numpy(zero_copy_only=False) for name in ("minus", "turned"))
    return canonical.step(a, b, lengths, register, exact_quotients(register, a), minus ^ turned)


def _limbs(numbers: pa.Array) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
    """Limbs, uint32 [limbs, n], of decimal texts, and their lengths, int32 [n]."""
    characters, offsets = string_buffers(numbers)
    digits, lengths = characters - np.uint8(ord("0")), np.diff(offsets)
    longest = int(lengths.max())
    limbs = np.zeros((limb_count(longest), len(lengths)), np.uint32)
    for place in reversed(range(longest)):
        digit = digits.take(offsets[1:] - 1 - place, mode="clip")
        digit *= lengths > place
        limb = limbs[place // LIMB_DIGITS]
        limb *= np.uint32(10)
        limb += digit
    return limbs, lengths


def _expression_hashes(problems: pa.Array, canonical: Canonical) -> UInt64s:
    """Hashes of a block of expressions: each bracket is reduced to one item, innermost brackets first."""
    text = _Text.of(problems)
    digit = text.characters - np.uint8(ord("0")) <= 9
    opening, closing = text.are("("), text.are(")")
    number = digit & ~text.before(digit)
    depth = _checked_depths(text, digit, number, opening, closing)
    leaves = canonical.leaf(_numbers(text, digit, number, canonical))
    if not opening.any():
        return canonical.root(_reduced(_Items.of(text, number, opening), leaves, canonical))
    begin = number | opening
    items, begins = _Items.of(text, begin, opening), np.flatnonzero(begin)
    bracket = opening.take(begins)
    level = depth.take(begins) - bracket
    terms = Terms(*(np.zeros(len(begins), array.dtype) for array in vars(leaves).values()))
    terms.put(np.flatnonzero(~bracket), leaves)
    for deep in range(int(level.max()), 0, -1):
        inside = np.flatnonzero(level == deep)
        values = _reduced(items.take(inside), terms.take(inside), canonical)
        terms.put(np.flatnonzero(bracket & (level == deep - 1)), values)
    inside = np.flatnonzero(level == 0)
    return canonical.root(_reduced(items.take(inside), terms.take(inside), canonical))


def _checked_depths(text: _Text, digit: Flags, number: Flags, opening: Flags, closing: Flags) -> NDArray[np.int16]:
    """Number of open brackets after each character, int16 [total]; raises `RunFailure` for an invalid problem."""
    minus, other = text.are("-"), text.are("+") | text.are("*")
    operand = digit | closing
    after_operand = text.before(operand)
    # An operand follows an operator or a beginning. Everything else except a minus follows an operand.
    bad = ~(operand | opening | minus | other)
    bad |= after_operand & opening | ~after_operand & (closing | other) | digit & text.before(closing)
    # Python rejects numbers with leading zeros.
    bad |= number & text.are("0") & text.after(digit)
    text.refuse(bad)
    text.refuse_rows(~operand.take(text.ends - 1))
    if not (opening.any() or closing.any()):
        return np.zeros(0, np.int16)
    depth = np.cumsum(opening.view(np.int8) - closing.view(np.int8), dtype=np.int16)
    text.refuse(depth < 0)
    text.refuse_rows(depth.take(text.ends - 1) != 0)
    return depth


def _numbers(text: _Text, digit: Flags, number: Flags, canonical: Canonical) -> UInt64s:
    """Hashes of all numbers in reading order; `number` [total] marks their first digits."""
    begins, ends = np.flatnonzero(number), np.flatnonzero(digit & ~text.after(digit))
    lengths = ends - begins + 1
    places = np.repeat(ends, lengths) - np.flatnonzero(digit)
    values = canonical.weights(int(lengths.max())).take(places)
    values *= text.characters.compress(digit) - np.uint8(ord("0"))
    # Differences of wrapped cumulative sums: several times faster than `reduceat` for short numbers.
    totals = np.cumsum(values).take(np.cumsum(lengths) - 1)
    return canonical.finished(np.diff(totals, prepend=np.uint64(0)))


def _reduced(items: _Items, terms: Terms, canonical: Canonical) -> Terms:
    """The sums of the products of `terms` [k], one per item that is `first`."""
    if items.negative.any():
        terms = terms.negated(items.negative)
    if items.joined.any():
        starts = np.flatnonzero(~items.joined)
        products = canonical.as_product(
            np.add.reduceat(terms.factor, starts), np.logical_xor.reduceat(terms.turned, starts)
        )
        items, terms = items.take(starts), _where_several(starts, terms, products)
    starts = np.flatnonzero(items.first)
    sums = canonical.as_sum(np.add.reduceat(terms.plus, starts), np.add.reduceat(terms.minus, starts))
    return _where_several(starts, terms, sums)


def _where_several(starts: Positions, terms: Terms, combined: Terms) -> Terms:
    """For each run of `terms` that begins at `starts`: its combined term, or the term itself if it is the only one."""
    several = np.diff(starts, append=len(terms.plus)) > 1
    if several.all():
        return combined
    single = terms.take(starts)
    single.put(np.flatnonzero(several), combined.take(np.flatnonzero(several)))
    return single


def _step_form(problem: str) -> Form:
    """The canonical form of a Horner step: that of its product if the register is one of its states."""
    match = re.search(_STEP, problem)
    assert match, f"{problem!r} is no step"
    minus, a, turned, b, register = match.groups()
    consumed, rest = divmod(int(register), int(a)) if int(a) else (0, int(register))
    if rest:
        return ("step", 1 if minus == turned else -1, int(a), len(b), int(b), int(register))
    return canonical_form(f"{minus}{a}*{turned}{consumed or ''}{b}")


def _terms(node: ast.AST) -> list[Term]:
    """The addends of an expression."""
    if isinstance(node, ast.UnaryOp):
        return _negated(_terms(node.operand))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        right = _terms(node.right)
        return _terms(node.left) + (_negated(right) if isinstance(node.op, ast.Sub) else right)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        factors = _factors(node)
        forms = sorted((form for _, form in factors), key=repr)
        return [(prod(sign for sign, _ in factors), ("product", *forms))]
    assert isinstance(node, ast.Constant), f"{ast.dump(node)} is no arithmetic"
    return [(1, node.value)]


def _factors(node: ast.AST) -> list[Term]:
    """The factors of an expression; a sum and its negation have the same form."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return _factors(node.left) + _factors(node.right)
    if isinstance(node, ast.UnaryOp):
        (sign, form), *others = _factors(node.operand)
        return [(-sign, form), *others]
    terms = _terms(node)
    if len(terms) == 1:
        return terms
    plus, minus = (sorted(map(repr, side)) for side in (terms, _negated(terms)))
    return [(1, ("sum", *plus))] if plus <= minus else [(-1, ("sum", *minus))]


def _negated(terms: list[Term]) -> list[Term]:
    return [(-sign, form) for sign, form in terms]
