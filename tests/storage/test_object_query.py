from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import storage.places.lease
from pipelines.generation.build import build_corpus
from storage.errors import UserError
from storage.places.opening import open_location
from storage.sql.catalog import refresh_catalog
from storage.sql.query import open_catalog, select, stream
from storage.workspace import Workspace
from tests.builders import SMALL, Built
from tests.object_store import FaultyProxy, ObjectServer, environment, objects_below, upload


@pytest.fixture(scope="module")
def asked(object_store: ObjectServer, small: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with a corpus, next to files that SQL must not read."""
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in environment(object_store.url, tmp_path_factory.mktemp("cache")).items():
            patch.setenv(variable, value)
        for name in ("asked", "other"):
            object_store.make_bucket(name)
        for secret in ("s3://asked/w2/secret.csv", "s3://asked/secret.csv", "s3://other/w/secret.csv"):
            open_location(secret).write(b"a,b\n1,2\n")
        workspace = Workspace(upload(small.workspace.root, "s3://asked/w"))
        (workspace.root / "own.csv").write(b"a,b\n1,2\n")
        yield workspace


@pytest.fixture(scope="module")
def connection(asked: Workspace) -> Iterator[duckdb.DuckDBPyConnection]:
    with open_catalog(asked) as opened:
        yield opened


@pytest.mark.parametrize(
    "query",
    [
        "FROM 's3://asked/w2/secret.csv'",
        "FROM 's3://asked/secret.csv'",
        "FROM read_csv('s3://asked/w/../secret.csv')",
        "FROM read_csv('s3://asked/w/corpora/../../secret.csv')",
        "FROM read_csv('s3://asked/w/../w2/*.csv')",
        "FROM read_text('s3://other/w/secret.csv')",
        "FROM read_blob('s3://asked/w//../../other/w/secret.csv')",
        "FROM glob('s3://asked/*')",
        "FROM glob('s3://asked/w/../*')",
        "FROM glob('s3://asked/w*/*')",
        "FROM read_csv('/etc/passwd')",
        "FROM read_text('/proc/self/environ')",
        "FROM read_text('file:///etc/hostname')",
        "FROM read_text('gs://asked/w/own.csv')",
        "FROM read_text('http://127.0.0.1/x')",
        "COPY (SELECT 1) TO 's3://asked/w/x.csv'",
        "COPY (SELECT 1) TO '/tmp/numerate-x.csv'",
        "ATTACH 's3://asked/w/x.db' AS x",
        "WITH x AS (COPY shards TO 's3://asked/w/x.csv') SELECT * FROM x",
    ],
)
def test_sql_reads_nothing_outside_of_an_object_store_s_workspace_and_writes_nothing(
    asked: Workspace, connection: duckdb.DuckDBPyConnection, query: str
) -> None:
    before = objects_below(asked.root)
    with pytest.raises(UserError, match=r"Permission Error|exactly one SELECT") as no:
        for _ in stream(select(connection, query))[1]:
            pass
    assert "\n" not in str(no.value)
    assert "Traceback" not in str(no.value)
    assert objects_below(asked.root) == before
    assert not Path("/tmp/numerate-x.csv").exists()


def test_the_file_system_reads_only_its_folder_and_writes_nothing(asked: Workspace) -> None:
    """Without DuckDB's own restrictions."""
    with duckdb.connect() as connection:
        storage.sql.database.let_read(connection, asked.root)
        assert connection.sql("FROM 's3://asked/w/own.csv'").fetchall() == [(1, 2)]
        for query in (
            "FROM 's3://asked/secret.csv'",
            "FROM glob('s3://asked/*')",
            "FROM 's3://other/w/secret.csv'",
            "COPY (SELECT 1) TO 's3://asked/w/x.csv'",
        ):
            with pytest.raises(duckdb.Error, match=r"is outside the readable folder|is read-only"):
                connection.sql(query).fetchall()


def test_sql_reads_the_workspace_s_own_files(connection: duckdb.DuckDBPyConnection) -> None:
    assert select(connection, "FROM 's3://asked/w/own.csv'").fetchall() == [(1, 2)]
    assert select(connection, "SELECT count(*) FROM corpus_small").fetchall() == [(10_000,)]
    assert select(connection, "SELECT sum(rows) FROM shards").fetchall() == [(10_000,)]
    (found,) = select(connection, "SELECT count(*) FROM glob('s3://asked/w/corpora/**/*.parquet')").fetchall()
    assert found[0] > 3


def test_sql_reads_ranges_and_not_whole_files(bucket: str, proxy: FaultyProxy) -> None:
    workspace = Workspace.create(bucket)
    spec = SMALL.model_copy(update={"terms": 3, "high": 99, "rows_per_shard": 1_000_000})
    corpus, _ = build_corpus(spec, workspace.corpus("small"), in_flight=0)
    refresh_catalog(workspace)
    shard = max(corpus.shards, key=lambda shard: shard.bytes)
    begun = len(proxy.requests)
    with open_catalog(workspace) as connection:
        assert select(connection, "SELECT sum(sum) > 0 FROM corpus_small WHERE split = 'train'").fetchall() == [(True,)]
    read = [request for request in proxy.requests[begun:] if request.method == "GET" and shard.path in request.path]
    assert read
    assert all(request.span for request in read)
    assert sum(request.received for request in read) < shard.bytes / 2
