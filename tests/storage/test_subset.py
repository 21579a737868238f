from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.training.batches import Batches
from storage.errors import UserError
from storage.places.disk import LocalLocation
from storage.reading.subset import BLOCK_ROWS, KeptRows, check_predicate, kept_rows, predicate_columns
from storage.sql.database import connect, parquet_source
from tests.builders import Built

PREDICATES = [
    "digits <= 5",
    "operators = '-' AND negative",
    "carries > 3 OR digits = 1",
    "width = 16",
    "true",
    "id % 7 = 3",
]


def direct(built: Built, path: str, predicate: str) -> list[bytes]:
    """Tokens of the matching rows of one shard, from a direct query."""
    source = parquet_source([str(built.tokens.location / path)], options=", hive_partitioning = true")
    with connect() as connection:
        return [row for (row,) in connection.sql(f"SELECT tokens FROM {source} WHERE ({predicate}\n)").fetchall()]


@pytest.mark.parametrize("predicate", PREDICATES)
def test_any_slice_of_the_kept_rows_equals_a_direct_query(longer: Built, tmp_path: Path, predicate: str) -> None:
    shards = longer.tokens.of_split("train")
    random = np.random.default_rng(0)
    for path, kept in kept_rows(longer.tokens, shards, predicate, LocalLocation(tmp_path)).items():
        expected = direct(longer, path, predicate)
        assert kept.rows == len(expected)
        for _ in range(5 if expected else 0):
            first, last = sorted(random.integers(0, len(expected) + 1, 2).tolist())
            with connect() as connection:
                query = kept.query("tokens", first, last - first)
                found = [row for (row,) in connection.sql(query).fetchall()] if last > first else []
            assert found == expected[first:last]


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=8).filter(any), data=st.data())
@settings(deadline=None)
def test_a_slice_reads_only_the_blocks_that_contain_it(counts: list[int], data: st.DataObject) -> None:
    rows = sum(counts)
    first = data.draw(st.integers(0, rows - 1))
    size = data.draw(st.integers(1, rows - first))
    query = KeptRows("t", "true", np.array(counts)).query("x", first, size)
    block_of_row = np.repeat(np.arange(len(counts)), counts)
    begin, end = block_of_row[first], block_of_row[first + size - 1]
    assert f">= {begin * BLOCK_ROWS} AND file_row_number < {(end + 1) * BLOCK_ROWS} " in query
    assert query.endswith(f"LIMIT {size} OFFSET {first - sum(counts[:begin])}")


def test_matching_rows_are_counted_once(longer: Built, tmp_path: Path) -> None:
    shards = longer.tokens.of_split("train")
    one = kept_rows(longer.tokens, shards, "digits > 3", LocalLocation(tmp_path))
    (file,) = tmp_path.iterdir()
    before = file.stat().st_mtime_ns
    again = kept_rows(longer.tokens, shards, "digits > 3", LocalLocation(tmp_path))
    assert file.stat().st_mtime_ns == before
    assert {path: kept.rows for path, kept in one.items()} == {path: kept.rows for path, kept in again.items()}


@pytest.mark.parametrize("cut", [0, 100, None])
def test_damaged_counts_are_computed_again(longer: Built, tmp_path: Path, cut: int | None) -> None:
    shards = longer.tokens.of_split("train")
    one = kept_rows(longer.tokens, shards, "digits > 3", LocalLocation(tmp_path))
    (file,) = tmp_path.iterdir()
    if cut is None:
        pq.write_table(pa.table({"path": [shard.path for shard in shards], "rows": [[1] * 99 for _ in shards]}), file)
    else:
        file.write_bytes(file.read_bytes()[:cut])
    again = kept_rows(longer.tokens, shards, "digits > 3", LocalLocation(tmp_path))
    assert {path: kept.rows for path, kept in one.items()} == {path: kept.rows for path, kept in again.items()}


@pytest.mark.parametrize(
    "predicate",
    [
        "digits <=",
        "digits <= 5) OR (true",
        "true; DROP TABLE rows",
        "true GROUP BY 1",
        "nothing = 3",
        "operators > (SELECT content FROM read_text('/etc/passwd'))",
        "EXISTS (SELECT 1 FROM '/etc/passwd')",
        "random() < 0.5",
        '"random"() < 0.5',
        "now() > '2026-01-01'",
        "current_timestamp > '2026-01-01'",
        "digits IN (SELECT digits FROM rows)",
        "digits",
        "digits + 1",
        "operators",
        "'x'",
        "NULL",
        "",
        "true, false",
        "columns(*) IS NOT NULL",
        "rowid < 5",
    ],
)
def test_an_invalid_predicate_is_refused_in_one_line(longer: Built, predicate: str) -> None:
    with pytest.raises(UserError, match="where") as failure:
        check_predicate(predicate, predicate_columns(longer.tokens, longer.tokens.of_split("train")))
    assert "\n" not in str(failure.value)


def test_a_predicate_that_fails_for_a_row_leaves_no_file(longer: Built, tmp_path: Path) -> None:
    shards = longer.tokens.of_split("train")
    with pytest.raises(UserError, match="can't be evaluated: Conversion Error"):
        kept_rows(longer.tokens, shards, "operators::BOOLEAN", LocalLocation(tmp_path))
    assert not list(tmp_path.iterdir())


def test_batches_of_a_subset_contain_only_its_rows_for_any_number_of_ranks(longer: Built) -> None:
    predicate = "operators = '-' AND digits > 2"
    batches = Batches.of(longer.tokens, "train", 128, 7, predicate)
    rows = [row for shard in longer.tokens.of_split("train") for row in direct(longer, shard.path, predicate)]
    allowed = set(rows)
    assert sum(map(sum, (reader.plan.counts for reader in batches.reader.readers))) == len(rows)
    steps = batches.steps_per_epoch
    parts = [islice(batches.reader.batches(3, rank=rank, ranks=3), steps) for rank in range(3)]
    alone = islice(batches.reader.batches(3), steps)
    for (_, whole), *shares in zip(alone, *parts, strict=True):
        assert np.array_equal(whole, np.concatenate([rows for _, rows in shares]))
        assert {row.tobytes() for row in whole} <= allowed
