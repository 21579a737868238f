from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.batches import Batches
from storage.datasets.arrow_buffers import fixed_width_values
from storage.errors import RunFailure
from storage.order import Permutation, derive_key
from storage.reading.lanes import LANES, LanePlan
from storage.reading.reader import BucketReader, ElasticReader
from tests.builders import Built


@pytest.fixture(scope="module", autouse=True, params=["streamed", "held"])
def _rows(request: pytest.FixtureRequest) -> Iterator[None]:
    """Rows of these small corpora are read window by window, like those of large ones, or stay in memory."""
    with pytest.MonkeyPatch.context() as patched:
        if request.param == "streamed":
            patched.setattr("storage.reading.reader._HELD_BYTES", 0)
        yield


def reader_of(built: Built, batch: int = 128, seed: int = 4) -> ElasticReader:
    counts = tuple(shard.rows for shard in built.tokens.of_split("train"))
    return ElasticReader(tuple(built.tokens.paths("train")), LanePlan(counts, batch, seed), built.layout.width)


def batches(reader: ElasticReader, first: int, count: int, ranks: int) -> list[np.ndarray]:
    """Complete batches, concatenated from the rows of all ranks."""
    parts = [list(islice(reader.batches(first, rank=rank, ranks=ranks), count)) for rank in range(ranks)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]


@pytest.fixture(scope="module")
def undisturbed(small: Built) -> list[np.ndarray]:
    """An epoch and seven steps of one rank."""
    reader = reader_of(small)
    return batches(reader, 0, reader.plan.steps_per_epoch + 7, 1)


def test_rows_that_stay_in_memory_are_those_that_are_read_again(small: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(small)
    steps = 2 * reader.plan.steps_per_epoch + 3
    reads: list[int] = []
    stream = ElasticReader._stream

    def counted(*arguments: Any) -> None:
        reads.append(1)
        stream(*arguments)

    monkeypatch.setattr(ElasticReader, "_stream", counted)
    found = []
    for size in (0, 1 << 22):
        monkeypatch.setattr("storage.reading.reader._HELD_BYTES", size)
        reads.clear()
        found.append((batches(reader_of(small), 0, steps, 1), len(reads)))
    (again, many), (held, once) = found
    assert all(np.array_equal(one, other) for one, other in zip(again, held, strict=True))
    assert (once, many > 10 * once) == (len(reader.paths), True)


@pytest.mark.parametrize("ranks", [2, 3, 5, 64])
def test_the_rows_of_every_batch_are_the_same_for_any_number_of_ranks(
    undisturbed: list[np.ndarray], small: Built, ranks: int
) -> None:
    read = batches(reader_of(small), 0, 4, ranks)
    assert all(np.array_equal(one, other) for one, other in zip(undisturbed[:4], read, strict=True))


def test_a_resume_at_any_step_reads_rows_of_an_uninterrupted_run(undisturbed: list[np.ndarray], small: Built) -> None:
    reader, steps = reader_of(small), len(undisturbed)
    for first in (1, 13, reader.plan.steps_per_epoch - 1, reader.plan.steps_per_epoch, steps - 1):
        resumed = batches(reader, first, steps - first, 2)
        assert all(np.array_equal(a, b) for a, b in zip(undisturbed[first:], resumed, strict=True))


@pytest.fixture(scope="module")
def readers(longer: Built) -> BucketReader:
    """Reads rows of two widths."""
    return Batches.of(longer.tokens, "train", 128, 4).reader


@pytest.fixture(scope="module")
def alone(readers: BucketReader) -> list[tuple[int, np.ndarray]]:
    """An epoch and three steps of one rank: number of the reader, and the batch."""
    return list(islice(readers.batches(0), readers.order.steps_per_epoch + 3))


@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_resumes_after_kills_at_any_step_with_any_ranks_read_exactly_the_remaining_rows(
    readers: BucketReader, alone: list[tuple[int, np.ndarray]], data: st.DataObject
) -> None:
    steps, step, read = len(alone), 0, list[np.ndarray]()
    while step < steps:
        ranks = data.draw(st.integers(1, 4))
        # Steps up to the last checkpoint, and later steps that are lost.
        kept, lost = data.draw(st.integers((steps - step + 1) // 2, steps - step)), data.draw(st.integers(0, 5))
        parts = [
            [rows for _, rows in islice(readers.batches(step, rank=rank, ranks=ranks), kept + lost)]
            for rank in range(ranks)
        ]
        read += [np.concatenate(rows) for rows in zip(*parts, strict=True)][:kept]
        step += kept
    assert all(np.array_equal(one, other) for (_, one), other in zip(alone, read, strict=True))


def test_an_epoch_has_every_row_at_most_once_in_the_order_of_the_plan(small: Built) -> None:
    reader = reader_of(small)
    tables = [pq.read_table(path, columns=["tokens"]).column(0).combine_chunks() for path in reader.paths]
    shards = [fixed_width_values(table).reshape(-1, reader.width) for table in tables]
    rows = reader.plan.steps_per_epoch * reader.plan.rows_per_lane
    window = reader.plan.window_rows(reader.width)
    expected = np.empty((reader.plan.steps_per_epoch, LANES, reader.plan.rows_per_lane, reader.width), np.uint8)
    for lane in range(LANES):
        pieces = [shards[s.shard][s.first : s.first + s.rows] for s in reader.plan.segments(0, lane, 0, rows)]
        lane_rows = np.concatenate(pieces)
        for number, first in enumerate(range(0, rows, window)):
            part = lane_rows[first : first + window]
            order = Permutation(len(part), derive_key(reader.plan.seed, "window", 0, lane, number))
            lane_rows[first : first + window] = part[order(np.arange(len(part), dtype=np.uint64))]
        expected[:, lane] = lane_rows.reshape(reader.plan.steps_per_epoch, -1, reader.width)
    read = batches(reader, 0, reader.plan.steps_per_epoch, 1)
    assert np.array_equal(np.stack(read), expected.reshape(len(read), -1, reader.width))
    assert len({row.tobytes() for batch in read for row in batch}) == len(read) * reader.plan.batch_size


def test_batches_of_several_widths_are_the_same_after_a_resume_and_for_any_number_of_ranks(
    readers: BucketReader, alone: list[tuple[int, np.ndarray]]
) -> None:
    def read(first: int, count: int, ranks: int) -> list[tuple[int, np.ndarray]]:
        """Number of the reader and complete batch of each step, concatenated from the rows of all ranks."""
        parts = [list(islice(readers.batches(first, rank=rank, ranks=ranks), count)) for rank in range(ranks)]
        assert all(len({bucket for bucket, _ in step}) == 1 for step in zip(*parts, strict=True))
        return [(step[0][0], np.concatenate([rows for _, rows in step])) for step in zip(*parts, strict=True)]

    steps = readers.order.steps_per_epoch
    assert {rows.shape[1] for _, rows in alone} == {reader.width for reader in readers.readers}
    assert len(readers.readers) == 2
    for first, ranks in ((0, 5), (1, 2), (7, 1), (steps - 1, 5), (steps, 2)):
        for (bucket, rows), (other, same) in zip(alone[first:], read(first, steps + 3 - first, ranks), strict=True):
            assert bucket == other
            assert np.array_equal(rows, same)
    for number in range(2):
        rows = [row.tobytes() for bucket, batch in alone[:steps] if bucket == number for row in batch]
        assert len(set(rows)) > 0.99 * len(rows)


def test_a_shard_that_is_truncated_during_reading_is_a_one_line_error(own_small: Built) -> None:
    reader = reader_of(own_small)
    with open(reader.paths[0], "r+b") as file:
        file.truncate(100)
    with pytest.raises(
        RunFailure, match=r"can't be read .*: delete it and run the same 'numerate encode' command again"
    ):
        batches(reader, 0, 2, 1)
