"""Which split a problem belongs to: a keyed hash of its canonical form, so that leakage can't happen.

Canonical: sums and products are flattened, `a-b` is read as `a+(-b)`, and the parts' hashes
are added, which forgets their order. `3+5` and `5+3` fall together in every corpus of one key.
"""

import numpy as np
from numpy.typing import NDArray

from storage.order import UInt64s, derive_key, mix64

_LIMB = np.uint64(10**9)


class Canonical:
    """Hashes of canonical forms under one split key; all arrays are uint64 [n]."""

    def __init__(self, split_key: str) -> None:
        self._number, self._sum, self._product, self._minus = (
            np.uint64(derive_key(split_key, part)) for part in ("number", "sum", "product", "minus")
        )

    def number(self, values: UInt64s) -> UInt64s:
        """Hashes of non-negative integers, taken over limbs of nine digits so that any length can follow."""
        low = values % _LIMB
        high = values // _LIMB
        hashes = mix64(low ^ self._number)
        while high.any():
            rows = high > 0
            hashes = np.where(rows, mix64(hashes + high % _LIMB + np.uint64(1)), hashes)
            high = high // _LIMB
        return hashes

    def minus(self, hashes: UInt64s, where: NDArray[np.bool_]) -> UInt64s:
        """Hashes of the negated terms, where asked."""
        return np.where(where, mix64(hashes ^ self._minus), hashes)

    def sum(self, total: UInt64s) -> UInt64s:
        """Hash of a sum of two or more terms from the wrapped total of their hashes."""
        return mix64(total ^ self._sum)

    def product(self, total: UInt64s) -> UInt64s:
        """Hash of a product of two or more factors from the wrapped total of their hashes."""
        return mix64(total ^ self._product)


def split_numbers(canonical: UInt64s, validation: float, test: float) -> NDArray[np.uint8]:
    """0 for train, 1 for validation, 2 for test, uint8 [n]; the shares hold over canonical classes."""
    top = canonical >> np.uint64(11)
    scale = float(1 << 53)
    test_below = np.uint64(round(test * scale))
    validation_below = np.uint64(round((test + validation) * scale))
    splits = (top < validation_below).astype(np.uint8)
    splits += top < test_below
    return splits
