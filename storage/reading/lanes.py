"""Who reads what: the rows of every global batch, laid over 64 lanes, as pure arithmetic.

The shards, in an order keyed by (seed, epoch), form one long sequence; it is cut into 64
equal lanes, and each batch takes the same number of rows from every lane. A rank reads whole
lanes, so the rows of batch t are the same for 1, 2 or 64 ranks and after any resume, and all
ranks take equally many steps. A plan costs O(shards), whatever the number of rows.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from storage.errors import UserError
from storage.order import Permutation, UInt64s, derive_key

LANES = 64

# A lane's part of a window is then as long as a row group of the notebook's tokens: shorter ones are read twice.
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

    `counts` are the rows of each shard. Raises `UserError` if a batch can't be laid over the
    lanes or the split holds less than one batch.
    """

    counts: tuple[int, ...]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.batch_size < LANES or self.batch_size % LANES:
            raise UserError(f"batch_size {self.batch_size} is not a multiple of {LANES}: take {LANES}, {2 * LANES}, …")
        if self.steps_per_epoch < 1:
            raise UserError(
                f"the split holds {sum(self.counts):,} rows, less than one batch of {self.batch_size:,}: "
                "lower batch_size or take a larger corpus"
            )

    @property
    def rows_per_lane(self) -> int:
        """Rows that a lane gives to each batch."""
        return self.batch_size // LANES

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the split; at most `batch_size` + 63 rows are left over, others every epoch."""
        return sum(self.counts) // LANES // self.rows_per_lane

    def window_rows(self, row_bytes: int) -> int:
        """Rows of a lane that are read and shuffled together; whole batches, the same for any number of ranks."""
        batches = max(1, _WINDOW_BYTES // LANES // row_bytes // self.rows_per_lane)
        return min(batches, self.steps_per_epoch) * self.rows_per_lane

    def segments(self, epoch: int, lane: int, first: int, rows: int) -> list[Segment]:
        """Where rows [first, first + rows) of a lane lie."""
        order, starts = self._epoch(epoch)
        begin = lane * (self._total // LANES) + first
        end = begin + rows
        place = int(np.searchsorted(starts, begin, side="right")) - 1
        found = []
        while begin < end:
            stop = min(end, int(starts[place + 1]))
            if stop > begin:
                found.append(Segment(int(order[place]), begin - int(starts[place]), stop - begin))
            begin, place = max(begin, stop), place + 1
        return found

    def shuffle(self, epoch: int, lane: int, window: int, rows: int) -> NDArray[np.int64]:
        """Order in which the rows of one window are taken, int64 [rows]."""
        permutation = Permutation(rows, derive_key(self.seed, "window", epoch, lane, window))
        return permutation(np.arange(rows, dtype=np.uint64)).view(np.int64)

    @cached_property
    def _total(self) -> int:
        return sum(self.counts)

    def _epoch(self, epoch: int) -> tuple[UInt64s, NDArray[np.int64]]:
        return _epoch_order(self.counts, self.seed, epoch)


@lru_cache(maxsize=4)
def _epoch_order(counts: tuple[int, ...], seed: int, epoch: int) -> tuple[UInt64s, NDArray[np.int64]]:
    order = Permutation(len(counts), derive_key(seed, "shards", epoch))(np.arange(len(counts), dtype=np.uint64))
    starts = np.concatenate([[0], np.cumsum(np.array(counts, np.int64)[order])])
    return order, starts


@dataclass(frozen=True)
class BucketOrder:
    """Which of several plans gives each batch: evenly mixed, each as often as it has batches.

    `sizes` are the batches that each bucket has in an epoch.
    """

    sizes: tuple[int, ...]

    @property
    def steps_per_epoch(self) -> int:
        """Batches of all buckets in one epoch."""
        return sum(self.sizes)

    def counts(self, step: int) -> tuple[int, ...]:
        """How many of the first `step` batches each bucket gives; whole epochs add up to `sizes`."""
        taken, left, rest = [], self.steps_per_epoch, step
        for size in self.sizes:
            # The bucket's share of what the ones before it left, spread evenly.
            count = rest * size // left if left else 0
            taken.append(count)
            rest, left = rest - count, left - size
        return tuple(taken)

    def bucket(self, step: int) -> int:
        """The bucket that gives batch `step`."""
        before, behind = self.counts(step), self.counts(step + 1)
        return next(number for number, pair in enumerate(zip(before, behind, strict=True)) if pair[0] != pair[1])


def lanes_of(rank: int, ranks: int) -> range:
    """The lanes that a rank reads; raises `UserError` for more ranks than lanes."""
    if ranks > LANES:
        raise UserError(f"{ranks} workers are more than the {LANES} lanes of a batch: take {LANES} at most")
    return range(rank * LANES // ranks, (rank + 1) * LANES // ranks)
