"""Problems that are always test, in every corpus: edge cases of each length, and AdderBoard's public suite."""

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.reading import text_hashes
from pipelines.split import Canonical
from storage.order import UInt64s

_LONGEST = 200
_BITS = 20

# The suite's own edge cases and draws (anadim/AdderBoard: ten cases and Python's Random(2025)).
_ADDERBOARD_EDGES = (
    (0, 0),
    (0, 1),
    (9_999_999_999, 0),
    (9_999_999_999, 1),
    (9_999_999_999, 9_999_999_999),
    (5_000_000_000, 5_000_000_000),
    (1_111_111_111, 8_888_888_889),
    (1_234_567_890, 9_876_543_210),
    (9_999_999_999, 9_999_999_999),
    (1, 9_999_999_999),
)
_ADDERBOARD_ROWS = 10_000


def edge_cases() -> list[str]:
    """Sums, differences and products with the longest chains of carries and borrows, of 1 to 200 digits."""
    found = []
    for digits in range(1, _LONGEST + 1):
        nines, power = "9" * digits, "1" + "0" * (digits - 1)
        found += [f"{nines}+1", f"{nines}+{nines}", f"{power}-1", f"{power}-{nines}", f"{nines}*{nines}", f"{nines}*1"]
    return found


def adderboard() -> list[str]:
    """The 10,010 sums of AdderBoard's public test."""
    draw = random.Random(2025)
    pairs = [(draw.randint(0, 9_999_999_999), draw.randint(0, 9_999_999_999)) for _ in range(_ADDERBOARD_ROWS)]
    return [f"{a}+{b}" for a, b in (*_ADDERBOARD_EDGES, *pairs)]


@dataclass(frozen=True)
class Reserved:
    """The reserved problems' canonical hashes, sorted, and a table of their first bits that rules most others out."""

    hashes: UInt64s
    table: NDArray[np.bool_]

    @staticmethod
    def of(split_key: str) -> "Reserved":
        """The reserved problems under one split key; made once a process."""
        return _reserved(split_key)

    def rows(self, canonical: UInt64s) -> NDArray[np.intp]:
        """Which of `canonical` [n] are reserved."""
        candidates = np.flatnonzero(self.table.take(canonical >> np.uint64(64 - _BITS)))
        values = canonical.take(candidates)
        places = np.searchsorted(self.hashes, values)
        found = self.hashes.take(places, mode="clip") == values
        return candidates.compress(found)


@lru_cache(maxsize=4)
def _reserved(split_key: str) -> Reserved:
    canonical = Canonical(split_key)
    hashes = np.unique(
        np.concatenate([text_hashes(pa.array(suite()), canonical) for suite in (edge_cases, adderboard)])
    )
    table = np.zeros(1 << _BITS, np.bool_)
    table[hashes >> np.uint64(64 - _BITS)] = True
    return Reserved(hashes, table)
