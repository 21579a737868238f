"""Which answer slots are hidden in a step, keyed by (seed, step, row) and never by rank.

A share of the rows hides the whole answer; each other row hides a random number of slots,
one to all of them, at random places.
"""

import numpy as np
from numpy.typing import NDArray

from storage.order import derive_key, uniforms


def slot_masks(seed: int, step: int, rows: int, slots: int, full_share: float) -> NDArray[np.bool_]:
    """Masks of a whole global batch, bool [rows, slots], True where a slot is hidden; no row without one."""
    counters = np.arange(rows * (slots + 2), dtype=np.uint64).reshape(rows, slots + 2)
    drawn = uniforms(derive_key(seed, "mask", step), counters)
    full = drawn[:, 0] < full_share
    hidden = 1 + (drawn[:, 1] * slots).astype(np.intp)
    rank = drawn[:, 2:].argsort(1).argsort(1)
    return full[:, None] | (rank < hidden[:, None])
