"""What is drawn at random in a step, keyed by (seed, step, row) and never by rank: hidden slots, offsets, loops.

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


def place_offsets(seed: int, step: int, rows: int) -> NDArray[np.float64]:
    """How far the places of each row of a global batch are shifted, as a share of the room, [rows] in [0, 1)."""
    return uniforms(derive_key(seed, "offset", step), np.arange(rows, dtype=np.uint64))


def loops_of(seed: int, step: int, least: int, most: int) -> int:
    """How often the block is run in a step, `least` to `most`; `most` where `least` is 0."""
    if not least:
        return most
    drawn = uniforms(derive_key(seed, "loops", step), np.zeros(1, np.uint64))
    return least + int(drawn[0] * (most - least + 1))
