"""Which split a problem belongs to: a keyed hash of its canonical form, so that leakage can't happen.

Canonical: sums and products are flattened, `a-b` is read as `a+(-b)`, signs are pulled out of
products, and the parts' hashes are added, which forgets their order. `3+5` and `5+3` fall
together in every family and every corpus of one key.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.problems.arithmetic import Limbs
from storage.order import UInt64s, derive_key, mix64

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Terms:
    """Canonical hashes of n subexpressions, each uint64 [n], in the ways in which a larger one may take them.

    `plus` and `minus` count as addends, the second with all signs turned; a sum's are wrapped totals
    over its terms. `factor` counts in a product, where `turned` says that its sign was pulled out.
    """

    plus: UInt64s
    minus: UInt64s
    factor: UInt64s
    turned: Flags
    is_sum: Flags

    def negated(self, where: Flags) -> "Terms":
        """The same subexpressions with a minus before those asked for."""
        return Terms(
            np.where(where, self.minus, self.plus),
            np.where(where, self.plus, self.minus),
            self.factor,
            self.turned ^ where,
            self.is_sum,
        )

    def take(self, rows: NDArray[np.integer]) -> "Terms":
        """The subexpressions at `rows`."""
        return Terms(*(getattr(self, name).take(rows) for name in self.__dataclass_fields__))


class Canonical:
    """Hashes of canonical forms under one split key; all arrays are uint64 [n]."""

    def __init__(self, split_key: str) -> None:
        self._number, self._sum, self._product, self._minus = (
            np.uint64(derive_key(split_key, part)) for part in ("number", "sum", "product", "minus")
        )
        # Odd, so that multiplying by it loses nothing.
        self.limb_weight = np.uint64(derive_key(split_key, "limb") | 1)

    def number(self, limbs: Limbs) -> UInt64s:
        """Hashes of non-negative integers given as limbs of eight decimal digits, the lowest first."""
        total = limbs[-1].astype(np.uint64)
        for limb in reversed(limbs[:-1]):
            total *= self.limb_weight
            total += limb
        return self.finished(total)

    def finished(self, totals: UInt64s) -> UInt64s:
        """Hashes of numbers from the sums of their limbs times powers of `limb_weight`."""
        return mix64(totals ^ self._number)

    def leaf(self, hashes: UInt64s) -> Terms:
        """Numbers as subexpressions."""
        none = np.zeros(len(hashes), np.bool_)
        return Terms(hashes, self.minus(hashes), hashes, none, none)

    def minus(self, hashes: UInt64s) -> UInt64s:
        """Hashes of the negated terms."""
        return mix64(hashes ^ self._minus)

    def sum(self, total: UInt64s) -> UInt64s:
        """Hash of a sum of two or more terms from the wrapped total of their hashes."""
        return mix64(total ^ self._sum)

    def product(self, total: UInt64s) -> UInt64s:
        """Hash of a product of two or more factors from the wrapped total of their hashes."""
        return mix64(total ^ self._product)

    def root(self, terms: Terms) -> UInt64s:
        """Hashes of whole problems."""
        return np.where(terms.is_sum, self.sum(terms.plus), terms.plus)

    def added(self, left: Terms, right: Terms) -> Terms:
        """Sums of two subexpressions each; what is a sum already is flattened."""
        return self.as_sum(left.plus + right.plus, left.minus + right.minus)

    def as_sum(self, plus: UInt64s, minus: UInt64s) -> Terms:
        """Sums as subexpressions, from the wrapped totals of their terms' hashes, and of the negated terms'."""
        whole, turned = self.sum(plus), self.sum(minus)
        # Of a sum and its negative the smaller hash stands for both as a factor, with the sign beside it.
        return Terms(plus, minus, np.minimum(whole, turned), turned < whole, np.ones(len(plus), np.bool_))

    def multiplied(self, left: Terms, right: Terms) -> Terms:
        """Products of two subexpressions each; what is a product already is flattened."""
        return self.as_product(left.factor + right.factor, left.turned ^ right.turned)

    def as_product(self, factor: UInt64s, turned: Flags) -> Terms:
        """Products as subexpressions, from the wrapped totals of their factors' hashes; `turned` ones are negative."""
        term = self.product(factor)
        opposite = self.minus(term)
        none = np.zeros(len(factor), np.bool_)
        return Terms(np.where(turned, opposite, term), np.where(turned, term, opposite), factor, turned, none)

    def fixed(self, hashes: Sequence[UInt64s], gaps: str) -> UInt64s:
        """Hashes of problems without brackets that all have the same operators, one character a gap."""
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
        """Hashes of problems without brackets: `hashes` of k operands, and what stands in the k − 1 gaps.

        `times[g]` and `minus[g]` [n] mark products and differences; a plain bool holds for every row.
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
            """Add the term that ends at `where` to the sum."""
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


def _terms_of(gaps: str) -> Iterator[tuple[str, int]]:
    """The terms of a problem without brackets: the sign of each, and how many factors stand behind its first."""
    for term in re.findall(r"[+-]\**", "+" + gaps):
        yield term[0], len(term) - 1


def split_numbers(canonical: UInt64s, validation: float, test: float) -> NDArray[np.uint8]:
    """0 for train, 1 for validation, 2 for test, uint8 [n]; the shares hold over canonical classes."""
    top = canonical >> np.uint64(11)
    scale = float(1 << 53)
    test_below = np.uint64(round(test * scale))
    validation_below = np.uint64(round((test + validation) * scale))
    splits = (top < validation_below).astype(np.uint8)
    splits += top < test_below
    return splits
