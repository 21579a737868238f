import hashlib
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.datasets.shard import ContentHash, Layout, open_shard
from storage.places.disk import LocalLocation

LAYOUT = Layout(
    pa.schema([("id", pa.int64()), ("problem", pa.string()), ("tokens", pa.binary(3))]),
    encodings={"id": "DELTA_BINARY_PACKED"},
)


def table(rows: int) -> pa.Table:
    tokens = pa.array([bytes([n % 256] * 3) for n in range(rows)], pa.binary(3))
    return pa.table([pa.array(range(rows)), pa.array([f"{n}+{n}" for n in range(rows)]), tokens], schema=LAYOUT.schema)


def content(tables: list[pa.Table]) -> str:
    total = ContentHash(LAYOUT.schema)
    for part in tables:
        total.update(part)
    return total.hexdigest()


def test_a_shard_and_its_record_match_the_written_rows(tmp_path: Path) -> None:
    rows = table(1_000)
    with open_shard(LocalLocation(tmp_path), "a/x.parquet", split="train", stratum="s", layout=LAYOUT) as shard:
        shard.write(rows.slice(0, 600))
        shard.write(rows.slice(600))
    path = tmp_path / "a" / "x.parquet"
    assert pq.read_table(path).equals(rows)
    record = shard.record
    assert (record.rows, record.bytes) == (1_000, path.stat().st_size)
    assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record.content == content([pq.read_table(path)])


def test_the_content_hash_is_independent_of_how_the_rows_are_divided(tmp_path: Path) -> None:
    rows = table(1_000)
    cuts = [0, 1, 17, 500, 1_000]
    parts = [rows.slice(a, b - a) for a, b in pairwise(cuts)]
    assert content([rows]) == content(parts) == content([pa.concat_tables(parts)])


@pytest.mark.parametrize("column", [0, 1, 2])
def test_the_content_hash_covers_every_column(column: int) -> None:
    rows = table(100)
    values = rows.column(column).to_pylist()
    values[50] = {0: 10**6, 1: "50+51", 2: b"abc"}[column]
    changed = rows.set_column(column, rows.schema.field(column), pa.array(values, rows.schema.field(column).type))
    assert content([rows]) != content([changed])


def test_the_content_hash_depends_on_where_a_string_ends() -> None:
    schema = pa.schema([("problem", pa.string())])
    one, other = ContentHash(schema), ContentHash(schema)
    one.update(pa.table({"problem": ["1+1", "2"]}))
    other.update(pa.table({"problem": ["1+", "12"]}))
    assert one.hexdigest() != other.hexdigest()


def test_a_failed_writer_leaves_no_file(tmp_path: Path) -> None:
    def write_half() -> None:
        with open_shard(LocalLocation(tmp_path), "x.parquet", split="train", stratum="s", layout=LAYOUT) as shard:
            shard.write(table(10))
            raise RuntimeError("in mid-shard")

    with pytest.raises(RuntimeError, match="in mid-shard"):
        write_half()
    assert list(tmp_path.iterdir()) == []


def test_null_and_zero_have_different_content_hashes() -> None:
    def hash_of(values: list[int | None]) -> str:
        digest = ContentHash(pa.schema([("id", pa.int64())]))
        digest.update(pa.table({"id": pa.array(values, pa.int64())}))
        return digest.hexdigest()

    assert len({hash_of([1, 0]), hash_of([1, None]), hash_of([None, 1])}) == 3


NULLS = pa.schema([("id", pa.int64()), ("carries", pa.int32()), ("problem", pa.string()), ("negative", pa.bool_())])


@given(
    carries=st.lists(st.none() | st.integers(0, 9), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=8),
    calls=st.lists(st.integers(0, 40), max_size=4),
)
def test_the_content_hash_is_independent_of_how_a_column_with_nulls_is_divided(
    carries: list[int | None], cuts: list[int], calls: list[int]
) -> None:
    """`cuts` divide the column into chunks, and `calls` into tables."""
    rows = len(carries)
    columns = [range(rows), carries, [str(row) for row in range(rows)], [row % 3 == 0 for row in range(rows)]]
    whole = pa.table([pa.array(*pair) for pair in zip(columns, NULLS.types, strict=True)], schema=NULLS)

    def parts(places: list[int]) -> list[pa.Table]:
        ends = [0, *sorted(min(place, rows) for place in places), rows]
        return [whole.slice(first, last - first) for first, last in pairwise(ends)]

    def hashed(tables: list[pa.Table]) -> str:
        digest = ContentHash(NULLS)
        for table in tables:
            digest.update(table)
        return digest.hexdigest()

    chunked = pa.concat_tables(parts(cuts))
    ends = [0, *sorted(min(place, rows) for place in calls), rows]
    assert hashed([whole]) == hashed(parts(cuts)) == hashed([chunked])
    assert hashed([whole]) == hashed([chunked.slice(first, last - first) for first, last in pairwise(ends)])


def test_the_former_content_hash_is_that_of_schema_version_2() -> None:
    """As commit 7d43f43 computes it: for a column with nulls it depends on the chunks."""
    draw = random.Random(0)
    carries = [draw.choice([0, 1, 2, None]) for _ in range(64)] + [3] * 8
    table = pa.table([pa.array(range(72)), pa.array(carries, pa.int32())], names=["id", "carries"])
    found, whole = [], "7f8091acf8f761b123070aa7580eaa4e"
    for tables in ([table], [table.slice(0, 64), table.slice(64)]):
        former, present = ContentHash(table.schema, former=True), ContentHash(table.schema)
        for part in tables:
            former.update(part)
            present.update(part)
        found.append((former.hexdigest(), present.hexdigest()))
    assert found == [("7f8091acf8f761b123070aa7580eaa4e", whole), ("3f360833ba45e2e50a8e24483c69cd89", whole)]


def test_slices_hash_like_copies() -> None:
    rows = table(50)
    copied = pa.Table.from_pylist(rows.slice(13, 20).to_pylist(), schema=LAYOUT.schema)
    assert content([rows.slice(13, 20)]) == content([copied])
    assert np.array_equal(rows.slice(13, 20).column(0).to_numpy(), copied.column(0).to_numpy())
