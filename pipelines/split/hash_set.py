"""A set of 64-bit hashes that is asked for many at once, and mostly says no."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.order import UInt64s

Positions = NDArray[np.intp]

# Bits of the table for each hash: it lets at most one of sixteen others through to the search.
_BITS_PER_HASH = 16


@dataclass(frozen=True)
class HashSet:
    """Hashes, sorted and each once, uint64 [m], and a bit for each beginning that one of them has."""

    hashes: UInt64s
    table: NDArray[np.uint8]

    @staticmethod
    def of(hashes: UInt64s) -> "HashSet":
        """The set of sorted hashes, each there once, [m]."""
        bits = max(10, (len(hashes) * _BITS_PER_HASH - 1).bit_length())
        beginnings = hashes >> np.uint64(64 - bits)
        table = np.zeros(1 << (bits - 3), np.uint8)
        np.bitwise_or.at(table, beginnings >> np.uint64(3), _bit(beginnings))
        return HashSet(hashes, table)

    def find(self, hashes: UInt64s) -> tuple[Positions, Positions]:
        """Which of `hashes` [n] are in the set, and where each of those stands in it."""
        beginnings = hashes >> np.uint64(64 - (len(self.table).bit_length() + 2))
        candidates = np.flatnonzero((self.table.take(beginnings >> np.uint64(3)) & _bit(beginnings)) != 0)
        values = hashes.take(candidates)
        places = np.searchsorted(self.hashes, values)
        found = self.hashes.take(places, mode="clip") == values if len(self.hashes) else np.zeros(0, np.bool_)
        return candidates.compress(found), places.compress(found)


def _bit(beginnings: UInt64s) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), beginnings.astype(np.uint8) & np.uint8(7))
