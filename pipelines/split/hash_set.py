"""A set of 64-bit hashes for vectorised look-ups of which most miss."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.order import UInt64s

Positions = NDArray[np.intp]

# Table bits per hash: at most one in 16 misses reaches the binary search.
_BITS_PER_HASH = 16


@dataclass(frozen=True)
class HashSet:
    """Sorted unique hashes, uint64 [m], and a bit table of their prefixes."""

    hashes: UInt64s
    table: NDArray[np.uint8]

    @staticmethod
    def of(hashes: UInt64s) -> "HashSet":
        """Creates the set from sorted unique hashes [m]."""
        bits = max(10, (len(hashes) * _BITS_PER_HASH - 1).bit_length())
        prefixes = hashes >> np.uint64(64 - bits)
        table = np.zeros(1 << (bits - 3), np.uint8)
        np.bitwise_or.at(table, prefixes >> np.uint64(3), _bit(prefixes))
        return HashSet(hashes, table)

    def find(self, hashes: UInt64s) -> tuple[Positions, Positions]:
        """Indices of those `hashes` [n] that are in the set, and their positions in the set."""
        prefixes = hashes >> np.uint64(64 - (len(self.table).bit_length() + 2))
        candidates = np.flatnonzero((self.table.take(prefixes >> np.uint64(3)) & _bit(prefixes)) != 0)
        values = hashes.take(candidates)
        positions = np.searchsorted(self.hashes, values)
        equal = self.hashes.take(positions, mode="clip") == values if len(self.hashes) else np.zeros(0, np.bool_)
        return candidates.compress(equal), positions.compress(equal)


def _bit(prefixes: UInt64s) -> NDArray[np.uint8]:
    return np.left_shift(np.uint8(1), prefixes.astype(np.uint8) & np.uint8(7))
