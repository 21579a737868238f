"""Random numbers of a training step: masked slots, position offsets and loops.

They are keyed by (seed, step, row), so they do not depend on ranks. A share of the rows masks the whole answer; each
other row masks one to all slots, at random positions. `rows` are the indices of a rank's rows in the global batch,
int64 [n]; random numbers per row are computed on their device.
"""

import math

import numpy as np
import torch
from torch import Tensor

from storage.order import derive_key, uniforms


def slot_masks(seed: int, step: int, rows: Tensor, slots: int, full_share: float) -> Tensor:
    """Masks of rows of a global batch, bool [n, slots], True for masked slots; every row has at least one."""
    drawn = draws(derive_key(seed, "mask", step), rows, slots + 2)
    full = drawn[:, 0] < full_share
    return full[:, None] | some_of(torch.ones_like(drawn[:, 2:], dtype=torch.bool), drawn[:, 1], drawn[:, 2:])


def place_offsets(seed: int, step: int, rows: Tensor) -> Tensor:
    """Shift of the place values of each row, as a share of the largest possible shift, float64 [n] in [0, 1)."""
    return draws(derive_key(seed, "offset", step), rows, 1)[:, 0]


def loops_of(seed: int, step: int, least: int, most: int) -> int:
    """Number of runs of the block in a step, `least` to `most`; always `most` if `least` is 0."""
    if not least:
        return most
    drawn = uniforms(derive_key(seed, "loops", step), np.zeros(1, np.uint64))
    return least + int(drawn[0] * (most - least + 1))


def warm_loops_of(seed: int, step: int, most: int) -> int:
    """Number of earlier runs of the block without gradient: 0 in half of the steps, otherwise 1 to `most`."""
    drawn = uniforms(derive_key(seed, "warm loops", step), np.zeros(1, np.uint64))
    return max(0, 1 + math.floor((2 * drawn[0] - 1) * most)) if most else 0


def some_of(candidates: Tensor, share: Tensor, urgency: Tensor) -> Tensor:
    """Selects one to all of each row's candidates, bool [n, k]; returns bool [n, k].

    `share` [n] in [0, 1) determines how many. The candidates with the smallest `urgency` [n, k] in [0, 1) are selected.
    """
    number = 1 + (share * candidates.sum(1)).long()
    rank = torch.where(candidates, urgency, 2.0).argsort(1).argsort(1)
    return candidates & (rank < number[:, None])


def draws(key: int, rows: Tensor, columns: int) -> Tensor:
    """Numbers in [0, 1), float64 [n, columns]: `storage.order.uniforms` of row · columns + column, on the device."""
    counters = rows[:, None] * columns + torch.arange(columns, device=rows.device)
    # The same 64 bits as numpy's unsigned integers: products wrap around, and right shifts are made logical.
    first = _mix64(counters * _signed(0x9E3779B97F4A7C15) + _signed(key))
    return _shifted(_mix64(first ^ (key >> 1)), 11).double() * 2.0**-53


def _mix64(values: Tensor) -> Tensor:
    mixed = (values ^ _shifted(values, 30)) * _signed(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ _shifted(mixed, 27)) * _signed(0x94D049BB133111EB)
    return mixed ^ _shifted(mixed, 31)


def _shifted(values: Tensor, bits: int) -> Tensor:
    return (values >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
