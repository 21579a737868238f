"""Assigns a problem to a split by a keyed hash of its canonical form, so that no problem is in two splits.

The canonical form flattens sums and products, reads `a-b` as `a+(-b)` and moves signs out of products. The hashes of
the parts are added, so their order has no effect. `3+5` and `5+3` are in the same split in every family and in every
corpus with the same key.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.problems.arithmetic import LIMB_DIGITS, Limbs, digit_columns, digit_counts
from storage.order import UInt64s, derive_key, mix64

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Terms:
    """Canonical hashes of n subexpressions, each uint64 [n], for every way in which a larger expression can use them.

    `plus` and `minus` are the hashes as an addend and as its negation; for a sum they are wrapped totals over its
    terms. `factor` is the hash as a factor; `turned` marks factors whose sign was moved out.
    """

    plus: UInt64s
    minus: UInt64s
    factor: UInt64s
    turned: Flags
    is_sum: Flags

    def negated(self, where: Flags) -> "Terms":
        """The same subexpressions, negated at the rows that `where` marks."""
        return Terms(
            np.where(where, self.minus, self.plus),
            np.where(where, self.plus, self.minus),
            self.factor,
            self.turned ^ where,
            self.is_sum,
        )

    def take(self, rows: NDArray[np.integer]) -> "Terms":
        return Terms(*(getattr(self, name).take(rows) for name in self.__dataclass_fields__))

    def put(self, rows: NDArray[np.integer], terms: "Terms") -> None:
        for name in self.__dataclass_fields__:
            getattr(self, name)[rows] = getattr(terms, name)

    @staticmethod
    def concatenate(terms: Sequence["Terms"]) -> "Terms":
        return Terms(*(np.concatenate([getattr(t, name) for t in terms]) for name in Terms.__dataclass_fields__))


class Canonical:
    """Hashes of canonical forms under one split key; all arrays are uint64 [n]."""

    def __init__(self, split_key: str) -> None:
        self._number, self._sum, self._product, self._minus = (
            np.uint64(derive_key(split_key, part)) for part in ("number", "sum", "product", "minus")
        )
        self._step = np.uint64(derive_key(split_key, "step"))
        # Odd, so that multiplication by it is a bijection.
        self.limb_weight = np.uint64(derive_key(split_key, "limb") | 1)

    def number(self, limbs: Limbs) -> UInt64s:
        """Hashes of non-negative integers given as limbs of eight decimal digits, lowest first."""
        return self.finished(self._total(limbs))

    def finished(self, totals: UInt64s) -> UInt64s:
        """Hashes of numbers from the sums of their limbs times powers of `limb_weight`."""
        return mix64(totals ^ self._number)

    def weights(self, digits: int) -> UInt64s:
        """The weight of a digit in `finished` at each place value, units first, [digits]."""
        weights, limb = [], 1
        for place in range(digits):
            if place and place % LIMB_DIGITS == 0:
                limb = limb * int(self.limb_weight) % (1 << 64)
            weights.append(limb * 10 ** (place % LIMB_DIGITS) % (1 << 64))
        return np.array(weights, np.uint64)

    def leaf(self, hashes: UInt64s) -> Terms:
        """The terms of single numbers with these hashes, from which `sum` and `product` build larger expressions."""
        none = np.zeros(len(hashes), np.bool_)
        return Terms(hashes, self.minus(hashes), hashes, none, none)

    def minus(self, hashes: UInt64s) -> UInt64s:
        """Hashes of the negated terms."""
        return mix64(hashes ^ self._minus)

    def sum(self, total: UInt64s) -> UInt64s:
        """Hashes of sums of two or more terms, from the wrapped totals of the terms' hashes."""
        return mix64(total ^ self._sum)

    def product(self, total: UInt64s) -> UInt64s:
        """Hashes of products of two or more factors, from the wrapped totals of the factors' hashes."""
        return mix64(total ^ self._product)

    def root(self, terms: Terms) -> UInt64s:
        """Hashes of whole problems."""
        return np.where(terms.is_sum, self.sum(terms.plus), terms.plus)

    def added(self, left: Terms, right: Terms) -> Terms:
        """Pairwise sums; operands that are sums are flattened."""
        return self.as_sum(left.plus + right.plus, left.minus + right.minus)

    def as_sum(self, plus: UInt64s, minus: UInt64s) -> Terms:
        """Sums as subexpressions, from the wrapped totals of their terms' hashes and of the negated terms' hashes."""
        positive, negative = self.sum(plus), self.sum(minus)
        # As a factor, a sum and its negation share the smaller hash; the sign is kept separately.
        return Terms(plus, minus, np.minimum(positive, negative), negative < positive, np.ones(len(plus), np.bool_))

    def multiplied(self, left: Terms, right: Terms) -> Terms:
        """Pairwise products; operands that are products are flattened."""
        return self.as_product(left.factor + right.factor, left.turned ^ right.turned)

    def as_product(self, factor: UInt64s, turned: Flags) -> Terms:
        """Products as subexpressions, from the wrapped totals of their factors' hashes; `turned` ones are negative."""
        term = self.product(factor)
        opposite = self.minus(term)
        none = np.zeros(len(factor), np.bool_)
        return Terms(np.where(turned, opposite, term), np.where(turned, term, opposite), factor, turned, none)

    def step(
        self, a: Limbs, b: Limbs, lengths: NDArray[np.integer], register: Limbs, consumed: Limbs, turned: Flags
    ) -> UInt64s:
        """Hashes of Horner steps of products, from magnitudes; `turned` [n] marks negative products.

        `b` has `lengths` [n] digits, which are not consumed yet. If the register is |a| times the `consumed` digits,
        or zero, the step is a state of the product of a and of the consumed digits followed by b, and has its hash.
        `consumed` is zero otherwise, and the hash is that of the step itself, where the order of a and b matters.
        """
        first, second = self.number(a), self._total(b)
        further = np.flatnonzero(_any(consumed))
        if further.size:
            second[further] += self._shifted([limb.take(further) for limb in consumed], lengths.take(further))
        second = self.finished(second)
        own = mix64(first ^ self._step)
        for part in (second, lengths.astype(np.uint64), self.number(register)):
            own = mix64(own + part)
        step = np.where(_any(register) & ~_any(consumed), own, self.product(first + second))
        return np.where(turned, self.minus(step), step)

    def fixed(self, hashes: Sequence[UInt64s], gaps: str) -> UInt64s:
        """Hashes of problems without brackets that all have the same operators, one character per gap."""
        total, terms = np.zeros(len(hashes[0]), np.uint64), 0
        operands = iter(hashes)
        for sign, more in _terms_of(gaps):
            term = next(operands)
            if more:
                term = self.product(sum((next(operands) for _ in range(more)), start=term))
            total += self.minus(term) if sign == "-" else term
            terms += 1
        return self.sum(total) if terms > 1 else total

    def flat(self, hashes: Sequence[UInt64s], times: Sequence[Flags | bool], minus: Sequence[Flags | bool]) -> UInt64s:
        """Hashes of problems without brackets, from the `hashes` of k operands and the operators in the k − 1 gaps.

        `times[g]` and `minus[g]` [n] mark products and differences; a plain bool applies to every row.
        """
        size = len(hashes[0])
        if not any(np.any(gap) for gap in times):
            total = hashes[0].copy()
            for part, gap in zip(hashes[1:], minus, strict=True):
                total += part if gap is False else np.where(gap, self.minus(part), part)
            return self.sum(total)
        total, terms = np.zeros(size, np.uint64), np.zeros(size, np.uint8)
        product, factors = hashes[0], np.ones(size, np.uint8)
        negative: Flags = np.zeros(size, np.bool_)

        def close(where: Flags) -> None:
            """Adds the term that ends at the rows in `where` to the sum."""
            rows = np.flatnonzero(where)
            term = product.take(rows)
            many = factors.take(rows) > 1
            term = np.where(many, self.product(term), term)
            total[rows] += np.where(negative.take(rows), self.minus(term), term)
            terms[rows] += 1

        for part, is_times, is_minus in zip(hashes[1:], times, minus, strict=True):
            joined = np.broadcast_to(is_times, size)
            close(~joined)
            product = np.where(joined, product + part, part)
            factors = np.where(joined, factors + 1, 1).astype(np.uint8)
            negative = np.where(joined, negative, np.broadcast_to(is_minus, size))
        close(np.ones(size, np.bool_))
        return np.where(terms > 1, self.sum(total), total)

    def _total(self, limbs: Limbs) -> UInt64s:
        """Sums of limbs times powers of `limb_weight`, for `finished`."""
        total = limbs[-1].astype(np.uint64)
        for limb in reversed(limbs[:-1]):
            total *= self.limb_weight
            total += limb
        return total

    def _shifted(self, limbs: Limbs, places: NDArray[np.integer]) -> UInt64s:
        """`_total` of numbers times 10 to the power `places` [n]."""
        digits = digit_columns(limbs, int(digit_counts(limbs).max()))
        weights = self.weights(len(digits) + int(places.max()))
        total = np.zeros(len(places), np.uint64)
        for place, digit in enumerate(digits):
            total += weights.take(places + place) * digit
        return total


def _any(limbs: Limbs) -> Flags:
    """Whether numbers are not zero."""
    found: Flags = limbs[0] != 0
    for limb in limbs[1:]:
        found = found | (limb != 0)
    return found


def _terms_of(gaps: str) -> Iterator[tuple[str, int]]:
    """Yields the terms of a problem without brackets: each sign, and the number of factors after its first."""
    for term in re.findall(r"[+-]\**", "+" + gaps):
        yield term[0], len(term) - 1


def split_numbers(canonical: UInt64s, validation: float, test: float) -> NDArray[np.uint8]:
    """Returns 0 for train, 1 for validation, 2 for test, uint8 [n]; the shares refer to canonical classes."""
    top = canonical >> np.uint64(11)
    scale = float(1 << 53)
    test_below = np.uint64(round(test * scale))
    validation_below = np.uint64(round((test + validation) * scale))
    splits = (top < validation_below).astype(np.uint8)
    splits += top < test_below
    return splits
