"""Streams a rank's rows of every batch from Parquet shards through DuckDB, starting at any step."""

from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import count

import duckdb
import numpy as np
from numpy.typing import NDArray

from storage.datasets.arrow_buffers import string_buffers
from storage.errors import RunFailure
from storage.places.place import Location
from storage.reading.lanes import BucketOrder, LanePlan, lanes_of
from storage.reading.subset import KeptRows
from storage.sql.database import connect, parquet_source, reason

_STREAM_ROWS = 1 << 16
# A split or a set of rare rows of at most so many bytes is read once: an epoch of it can be as short as one batch.
_HELD_BYTES = 1 << 22
_BYTE = np.dtype(np.uint8)


@dataclass(frozen=True)
class ElasticReader:
    """Reads the fixed-size binary column `column`, `width` bytes per row, in the plan's order.

    Rows are returned as numbers of type `kind`. With `kept`, one entry per path, it reads only rows that match a
    predicate, and the plan counts only these.
    """

    paths: tuple[str, ...]
    plan: LanePlan
    width: int
    column: str = "tokens"
    kept: tuple[KeptRows, ...] = ()
    kind: np.dtype = _BYTE
    below: Location | None = None
    """The folder of the paths, if it is in an object store."""
    _held: dict[int, NDArray[np.uint8]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """The rows of shards that stay in memory, by shard."""

    def batches(self, first_step: int, *, rank: int = 0, ranks: int = 1) -> Generator[NDArray[np.integer]]:
        """Yields this rank's part of batch `first_step` and all later ones, without end: [rows, numbers per row].

        The row at index i has position `lanes_of(rank, ranks)[0] * plan.rows_per_lane + i` in the batch. The next
        window is read while the current one is used.
        """
        lanes = lanes_of(rank, ranks)
        step, take = first_step, self.plan.rows_per_lane
        connection = connect(self.below)
        # Every window reads the files of all lanes: the cache avoids parsing their footers again.
        connection.execute("SET parquet_metadata_cache = true")
        with ThreadPoolExecutor(1) as pool:
            coming = pool.submit(self._window, connection, step, lanes)
            while True:
                rows, offset = coming.result()
                upcoming = step + (rows.shape[1] - offset) // take
                coming = pool.submit(self._window, connection, upcoming, lanes)
                while step < upcoming:
                    yield rows[:, offset : offset + take].reshape(-1, self.width).view(self.kind)
                    step, offset = step + 1, offset + take

    def _window(self, connection: duckdb.DuckDBPyConnection, step: int, lanes: range) -> tuple[NDArray[np.uint8], int]:
        """The window that contains batch `step`, uint8 [lanes, rows, width], and the batch's offset in it."""
        epoch, inside = divmod(step, self.plan.steps_per_epoch)
        epoch_rows = self.plan.steps_per_epoch * self.plan.rows_per_lane
        number, offset = divmod(inside * self.plan.rows_per_lane, self.plan.window_rows(self.width))
        first = number * self.plan.window_rows(self.width)
        rows = min(self.plan.window_rows(self.width), epoch_rows - first)
        window = np.empty((len(lanes), rows, self.width), np.uint8)
        for index, lane in enumerate(lanes):
            filled = 0
            read = np.empty((rows, self.width), np.uint8)
            for segment in self.plan.segments(epoch, lane, first, rows):
                self._read(connection, segment.shard, segment.first, read[filled : filled + segment.rows])
                filled += segment.rows
            window[index] = read[self.plan.shuffle(epoch, lane, number, rows)]
        return window, offset

    def _read(self, connection: duckdb.DuckDBPyConnection, shard: int, first: int, target: NDArray[np.uint8]) -> None:
        if sum(self.plan.counts) * self.width > _HELD_BYTES:
            self._stream(connection, shard, first, target)
            return
        if shard not in self._held:
            rows = np.empty((self.plan.counts[shard], self.width), np.uint8)
            self._stream(connection, shard, 0, rows)
            self._held[shard] = rows
        target[:] = self._held[shard][first : first + len(target)]

    def _stream(self, connection: duckdb.DuckDBPyConnection, shard: int, first: int, target: NDArray[np.uint8]) -> None:
        if self.kept:
            query = self.kept[shard].query(self.column, first, len(target))
        else:
            source = parquet_source([self.paths[shard]], options=", file_row_number=true")
            query = (
                f"SELECT {self.column} FROM {source} "
                f"WHERE file_row_number >= {first} AND file_row_number < {first + len(target)}"
            )
        filled = 0
        try:
            for batch in connection.sql(query).to_arrow_reader(_STREAM_ROWS):
                data, _ = string_buffers(batch.column(0))
                rows = data.reshape(-1, self.width)
                target[filled : filled + len(rows)] = rows
                filled += len(rows)
            if filled != len(target):
                raise ValueError("it has too few rows")
        except (duckdb.Error, ValueError) as error:
            raise RunFailure(
                f"shard {self.paths[shard]} can't be read ({reason(error)}): delete it and run the same "
                "'numerate encode' command again"
            ) from error


@dataclass(frozen=True)
class StratifiedReader:
    """Batches in which each lane takes a fixed number of rows from `main` and from the more often repeated `rare`.

    The share of rare problems is therefore the same in every batch, for any number of ranks.
    """

    main: ElasticReader
    rare: ElasticReader

    @property
    def plan(self) -> LanePlan:
        """The plan of the main rows, which determines the length of an epoch."""
        return self.main.plan

    def batches(self, first_step: int, *, rank: int = 0, ranks: int = 1) -> Generator[NDArray[np.integer]]:
        """Yields this rank's part of batch `first_step` and all later ones, lane by lane: [rows, numbers per row]."""
        lanes = len(lanes_of(rank, ranks))
        with ExitStack() as stack:
            parts = [
                stack.enter_context(closing(reader.batches(first_step, rank=rank, ranks=ranks)))
                for reader in (self.main, self.rare)
            ]
            for rows in zip(*parts, strict=True):
                laned = [part.reshape(lanes, -1, part.shape[1]) for part in rows]
                yield np.concatenate(laned, 1).reshape(-1, rows[0].shape[1])


@dataclass(frozen=True)
class BucketReader:
    """Batches of several widths, each from one reader, evenly mixed."""

    readers: tuple[ElasticReader | StratifiedReader, ...]

    @property
    def order(self) -> BucketOrder:
        """The order in which the readers give batches."""
        return BucketOrder(tuple(reader.plan.steps_per_epoch for reader in self.readers))

    def batches(self, first_step: int, *, rank: int = 0, ranks: int = 1) -> Generator[tuple[int, NDArray[np.integer]]]:
        """Yields the reader's number and this rank's rows [rows, width] for batch `first_step` and all later ones."""
        order, opened = self.order, dict[int, Iterator[NDArray[np.integer]]]()
        first = order.counts(first_step)
        with ExitStack() as stack:
            for step in count(first_step):
                bucket = order.bucket(step)
                if bucket not in opened:
                    rows = self.readers[bucket].batches(first[bucket], rank=rank, ranks=ranks)
                    opened[bucket] = stack.enter_context(closing(rows))
                yield bucket, next(opened[bucket])
