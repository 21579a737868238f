"""Assigns rows to global batches and ranks, over 64 lanes, as pure arithmetic.

The shards, in an order keyed by (seed, epoch), form one long sequence. It is cut into 64 equal lanes, and each batch
takes the same number of rows from every lane. A rank reads whole lanes. The rows of batch t are therefore the same for
1, 2 or 64 ranks and after any resume, and all ranks take equally many steps. A plan costs O(shards), whatever the
number of rows.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from storage.errors import UserError
from storage.order import Permutation, UInt64s, derive_key

LANES = 64

# At this size, a lane's part of a window is one row group of the notebook's tokens; smaller windows read groups twice.
_WINDOW_BYTES = 1 << 26


@dataclass(frozen=True)
class Segment:
    """Rows [first, first + rows) of one shard."""

    shard: int
    first: int
    rows: int


@dataclass(frozen=True)
class LanePlan:
    """The order of all batches of one split.

    `counts` are the rows of each shard. Raises `UserError` if `batch_size` is not a multiple of the number of lanes, or
    if the split has less than one batch.
    """

    counts: tuple[int, ...]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < LANES or self.batch_size % LANES:
            raise UserError(f"batch_size {self.batch_size} is not a multiple of {LANES}: use {LANES}, {2 * LANES}, …")
        if self.steps_per_epoch < 1:
            raise UserError(
                f"the split has {sum(self.counts):,} rows, less than one batch of {self.batch_size:,}: "
                "lower batch_size or use a larger corpus"
            )

    @property
    def rows_per_lane(self) -> int:
        """Rows that each lane contributes to a batch."""
        return self.batch_size // LANES

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the split; fewer than `batch_size` rows are left out, other rows in each epoch."""
        return sum(self.counts) // LANES // self.rows_per_lane

    def window_rows(self, row_bytes: int) -> int:
        """Rows of a lane that are read and shuffled together: whole batches, the same for any number of ranks."""
        batches = max(1, _WINDOW_BYTES // LANES // row_bytes // self.rows_per_lane)
        return min(batches, self.steps_per_epoch) * self.rows_per_lane

    def segments(self, epoch: int, lane: int, first: int, rows: int) -> list[Segment]:
        """The shard segments that contain rows [first, first + rows) of a lane."""
        order, starts = _epoch_order(self.counts, self.seed, epoch)
        begin = lane * (self._total // LANES) + first
        end = begin + rows
        index = int(np.searchsorted(starts, begin, side="right")) - 1
        segments = []
        while begin < end:
            stop = min(end, int(starts[index + 1]))
            if stop > begin:
                segments.append(Segment(int(order[index]), begin - int(starts[index]), stop - begin))
            begin, index = max(begin, stop), index + 1
        return segments

    def shuffle(self, epoch: int, lane: int, window: int, rows: int) -> NDArray[np.int64]:
        """The order of the rows in one window, int64 [rows]."""
        permutation = Permutation(rows, derive_key(self.seed, "window", epoch, lane, window))
        return permutation(np.arange(rows, dtype=np.uint64)).view(np.int64)

    @cached_property
    def _total(self) -> int:
        return sum(self.counts)


@lru_cache(maxsize=4)
def _epoch_order(counts: tuple[int, ...], seed: int, epoch: int) -> tuple[UInt64s, NDArray[np.int64]]:
    order = Permutation(len(counts), derive_key(seed, "shards", epoch))(np.arange(len(counts), dtype=np.uint64))
    starts = np.concatenate([[0], np.cumsum(np.array(counts, np.int64)[order])])
    return order, starts


@dataclass(frozen=True)
class BucketOrder:
    """Assigns each batch to one of several plans, evenly mixed and in proportion to their sizes.

    `sizes` is the number of batches of each bucket per epoch.
    """

    sizes: tuple[int, ...]

    @property
    def steps_per_epoch(self) -> int:
        """Batches of all buckets in one epoch."""
        return sum(self.sizes)

    def counts(self, step: int) -> tuple[int, ...]:
        """How many of the first `step` batches come from each bucket; after one epoch these are `sizes`."""
        taken, left, rest = [], self.steps_per_epoch, step
        for size in self.sizes:
            # The bucket's share of the remaining batches, spread evenly.
            count = rest * size // left if left else 0
            taken.append(count)
            rest, left = rest - count, left - size
        return tuple(taken)

    def bucket(self, step: int) -> int:
        """The bucket of batch `step`."""
        before, after = self.counts(step), self.counts(step + 1)
        return next(number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1])


def lanes_of(rank: int, ranks: int) -> range:
    """The lanes that a rank reads; raises `UserError` if there are more ranks than lanes."""
    if ranks > LANES:
        raise UserError(f"{ranks} workers are more than the {LANES} lanes of a batch: use at most {LANES}")
    return range(rank * LANES // ranks, (rank + 1) * LANES // ranks)
