"""Problems that are always test, in every corpus: edge cases of each length, and AdderBoard's public suite."""

import random
from functools import lru_cache

import numpy as np
import pyarrow as pa

from pipelines.hashes import HashSet
from pipelines.reading import text_hashes
from pipelines.split import Canonical

_LONGEST = 200

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


@lru_cache(maxsize=4)
def reserved(split_key: str) -> HashSet:
    """Canonical hashes of the reserved problems under one split key; made once a process."""
    canonical = Canonical(split_key)
    hashes = [text_hashes(pa.array(suite()), canonical) for suite in (edge_cases, adderboard)]
    return HashSet.of(np.unique(np.concatenate(hashes)))
