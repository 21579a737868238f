import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from storage.errors import RunFailure, UserError
from storage.sql.query import fetched, open_catalog, select, sql_error, stream
from tests.builders import Built


@pytest.fixture(scope="module")
def connection(small: Built) -> Iterator[duckdb.DuckDBPyConnection]:
    """A read-only connection for all queries: opening it takes longer than most queries."""
    with open_catalog(small.workspace) as opened:
        yield opened


def files_of(built: Built) -> dict[Path, int]:
    """Sizes of all files of the workspace, except the catalog, which is rewritten."""
    root = built.workspace.root.path
    kept = (path for path in root.rglob("*") if path.is_file() and path.name not in ("catalog.duckdb", ".lock"))
    return {path: path.stat().st_size for path in kept}


def run(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    for _ in stream(connection, select(connection, query))[1]:
        pass


def refused(connection: duckdb.DuckDBPyConnection, built: Built, query: str) -> str:
    """The one-line error of a refused query; checks that nothing was written."""
    before = files_of(built)
    with pytest.raises((UserError, RunFailure)) as failure:
        run(connection, query.replace("{workspace}", str(built.workspace.root)))
    assert files_of(built) == before
    assert "\n" not in str(failure.value)
    return str(failure.value)


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{workspace}/x.csv'",
        "COPY corpus_small TO '{workspace}/x.parquet'",
        "COPY corpus_small FROM '/etc/passwd'",
        "COPY (SELECT 1) TO '/tmp/x.csv'",
        "ATTACH '/tmp/x.db' AS x",
        "INSTALL httpfs FROM 'http://localhost'",
        "LOAD '/tmp/x.duckdb_extension'",
        "COPY FROM DATABASE catalog TO other",
        "ATTACH '{workspace}/x.db' AS x",
        "DETACH catalog",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "SET enable_external_access = true",
        "SET VARIABLE x = 1",
        "RESET threads",
        "USE memory",
        "PRAGMA version",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "CREATE TABLE x (i INT)",
        "CREATE TEMP TABLE x AS SELECT 1",
        "CREATE MACRO x() AS TABLE SELECT 1",
        "CREATE SECRET (TYPE s3)",
        "INSERT INTO shards VALUES (1)",
        "UPDATE shards SET rows = 0",
        "DELETE FROM shards",
        "MERGE INTO shards USING runs ON true WHEN MATCHED THEN DELETE",
        "DROP VIEW corpus_small",
        "ALTER VIEW corpus_small RENAME TO x",
        "COMMENT ON VIEW corpus_small IS 'x'",
        "EXPORT DATABASE '{workspace}/export'",
        "IMPORT DATABASE '{workspace}/export'",
        "VACUUM",
        "CHECKPOINT",
        "BEGIN",
        "PREPARE x AS SELECT 1",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE WITH x AS (COPY shards TO '{workspace}/x.csv') FROM x",
        "SELECT 1; SELECT 2",
        "SELECT 1; DROP VIEW corpus_small",
        "PIVOT corpus_small ON split",
        "WITH x AS (COPY shards TO '{workspace}/x.csv') SELECT * FROM x",
        "WITH x AS (SELECT 1), y AS (COPY x TO '{workspace}/x.csv') FROM y UNION ALL FROM x",
        "SELECT (WITH x AS (COPY shards TO '{workspace}/x.csv') SELECT count(*) FROM x)",
        "DESCRIBE WITH x AS (COPY shards TO '{workspace}/x.csv') FROM x",
        "WITH x AS (INSERT INTO shards VALUES (1) RETURNING *) FROM x",
        "WITH x AS (DELETE FROM shards RETURNING *) FROM x",
        "",
        ";",
        "-- nothing",
    ],
)
def test_all_but_one_select_is_refused(connection: duckdb.DuckDBPyConnection, small: Built, query: str) -> None:
    assert "exactly one SELECT" in refused(connection, small, query)


@pytest.mark.parametrize(
    ("query", "line"),
    [
        ("", "SQL must be exactly one SELECT, this has no statements"),
        ("SELECT 1; SELECT 2", "SQL must be exactly one SELECT, this has 2 statements"),
        (
            "PIVOT corpus_small ON split",
            "SQL must be exactly one SELECT: PIVOT must list its values, as in ON column IN (1, 2)",
        ),
        ("VACUUM", "SQL must be exactly one SELECT, not VACUUM: SQL is read-only here"),
        (
            "WITH x AS (INSERT INTO shards VALUES (1) RETURNING *) FROM x",
            "SQL must be exactly one SELECT, this contains INSERT: SQL is read-only here",
        ),
        ("FROM query('SELECT 1')", "SQL: table function query is not allowed here: it may do more than read"),
        (
            "FROM read_text('/etc/hostname')",
            'SQL: Permission Error: Cannot access file "/etc/hostname" - file system operations are disabled by '
            "configuration (SQL reads only files of the workspace, and follows no link out of it)",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong(
    connection: duckdb.DuckDBPyConnection, small: Built, query: str, line: str
) -> None:
    assert refused(connection, small, query) == line


def test_only_as_many_rows_as_are_shown_are_computed(connection: duckdb.DuckDBPyConnection) -> None:
    assert fetched(connection, select(connection, "FROM range(3)"), 2) == [(0,), (1,)]
    assert fetched(connection, select(connection, "FROM range(3)"), 5) == [(0,), (1,), (2,)]
    # The error is in a later row.
    late = "SELECT CASE WHEN range < 900000 THEN range ELSE error('boom') END FROM range(1000000)"
    assert fetched(connection, select(connection, late), 1) == [(0,)]
    with pytest.raises(UserError, match=r"^SQL: Invalid Input Error: boom$"):
        fetched(connection, select(connection, late), 1_000_000)


def test_a_select_of_no_rows_has_a_schema(connection: duckdb.DuckDBPyConnection) -> None:
    schema, batches = stream(connection, select(connection, "SELECT 1 AS a, 'x' AS b WHERE false"))
    assert schema.names == ["a", "b"]
    assert sum(batch.num_rows for batch in batches) == 0


def test_a_failure_of_an_object_store_is_its_last_line() -> None:
    store = "IO Error: Python exception\nTraceback (most recent call last):\n  File x\nOSError: s3://b/x is gone"
    assert str(sql_error(duckdb.IOException(store))) == "SQL: s3://b/x is gone"


@pytest.mark.parametrize(
    "query",
    [
        "FROM query('COPY shards TO ''{workspace}/x.csv''')",
        "FROM query('SELECT 1')",
        "FROM main.\"Query\"('SELECT 1')",
        "FROM json_execute_serialized_sql(json_serialize_sql("
        "'WITH x AS (COPY shards TO ''{workspace}/x.csv'') SELECT * FROM x'))",
        "SELECT (SELECT count(*) FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1')))",
        "FROM destroy_external_resource('json_execute_serialized_sql', 'x')",
        "FROM register_external_resource_type('x', kind := 'compute', create_function := 'query')",
        "FROM create_external_resource('compute')",
        "FROM enable_logging('QueryLog', storage = 'file', storage_path = '{workspace}/logs')",
        "FROM enable_profiling(save_location = '{workspace}/profile')",
        "FROM truncate_duckdb_logs()",
        "FROM force_checkpoint()",
        "FROM which_secret('s3://x', 's3')",
    ],
)
def test_table_functions_that_may_do_more_than_read_are_refused(
    connection: duckdb.DuckDBPyConnection, small: Built, query: str
) -> None:
    assert "is not allowed" in refused(connection, small, query)


@pytest.mark.parametrize(
    "query",
    [
        "FROM read_csv('/etc/passwd')",
        "FROM '/etc/passwd.csv'",
        "FROM read_text('/etc/hostname')",
        "FROM read_blob('/etc/hostname')",
        "FROM read_text('file:///etc/hostname')",
        "FROM read_text('/proc/self/environ')",
        "FROM read_csv('/dev/stdin')",
        "FROM read_parquet('/tmp/other.parquet')",
        "FROM parquet_metadata('/tmp/other.parquet')",
        "FROM read_json('/tmp/other.json')",
        "FROM read_duckdb('/tmp/other.duckdb', table_name = 'x')",
        "FROM sniff_csv('/etc/passwd')",
        "FROM glob('/etc/*')",
        "FROM glob('{workspace}/../*')",
        "FROM read_text('{workspace}/../x')",
        "FROM read_text('{workspace}/corpora/../../x')",
        "FROM read_text('{workspace}-other/x')",
        "FROM read_text('x')",
        "FROM read_text('http://localhost/x')",
        "FROM read_csv('s3://bucket/x.csv')",
        "FROM duckdb_secrets()",
        "FROM glob('/*')",
        "FROM glob('../*')",
        "FROM glob('~/*')",
        "FROM glob('{workspace}/../../**')",
        "FROM read_text('~/.bashrc')",
        "FROM read_text('FILE:///etc/passwd')",
        "FROM read_text('/proc/self/root/etc/passwd')",
        "FROM read_text('{workspace}//..//..//x')",
        "FROM read_text(chr(47) || 'etc/passwd')",
        "FROM read_blob('/proc/self/mem')",
        "FROM query_table('/etc/passwd.csv')",
        "FROM read_csv(['{workspace}/catalog.duckdb', '/etc/passwd'])",
        "FROM (SELECT (SELECT content FROM read_text('/etc/passwd')))",
        "WITH x AS (FROM read_text('/etc/passwd')) FROM x",
    ],
)
def test_no_file_outside_of_the_workspace_is_read(
    connection: duckdb.DuckDBPyConnection, small: Built, query: str
) -> None:
    assert "Permission Error" in refused(connection, small, query)


def test_links_do_not_lead_out_of_the_workspace(own_small: Built, tmp_path: Path) -> None:
    secret = tmp_path / "outside" / "secret.csv"
    secret.parent.mkdir()
    secret.write_text("x\n1\n")
    root = own_small.workspace.root.path
    (root / "file.csv").symlink_to(secret)
    (root / "folder").symlink_to(secret.parent)
    (root / "chain").symlink_to(root / "folder")
    (root / "root").symlink_to("/")
    with open_catalog(own_small.workspace) as connection:
        for path in ("file.csv", "folder/secret.csv", "folder/*.csv", "chain/secret.csv", "root/etc/passwd"):
            assert "Permission Error" in refused(connection, own_small, f"FROM read_csv('{{workspace}}/{path}')")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("SELECT getenv('HOME')", "getenv does not exist"),
        ("SELECT nextval('x')", "x does not exist"),
        ("SELECT set_config('threads', '1')", "set_config does not exist"),
        ("FROM statements", "statements does not exist"),
        ("FROM connection", "connection does not exist"),
        ("FROM corpus_smal", 'Did you mean "corpus_small"?'),
        ("SELECT lenght(problem) FROM corpus_small", 'Did you mean "length"?'),
        ("SELECT amswer FROM corpus_small", 'Candidate bindings: "answer"'),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT 'x'::INT", "Could not convert string 'x'"),
        ("SELECT CASE WHEN id < 9000 THEN 1 ELSE error('boom') END FROM corpus_small", "boom"),
        ("SELECT ?", "parameters"),
        ("SELECT list(range) FROM range(400000000)", "more than 1GB of memory"),
    ],
)
def test_a_failing_select_is_one_helpful_line(
    connection: duckdb.DuckDBPyConnection, small: Built, query: str, words: str
) -> None:
    line = refused(connection, small, query)
    assert words in line
    assert "LINE" not in line
    assert "^" not in line


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("SELECT 1", [(1,)]),
        ("(SELECT 1)", [(1,)]),
        ("FROM range(2)", [(0,), (1,)]),
        ("VALUES (1), (2)", [(1,), (2,)]),
        ("WITH x AS (SELECT 1) FROM x", [(1,)]),
        (
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 3) FROM t ORDER BY 1",
            [(1,), (2,), (3,)],
        ),
        ("SELECT 1 UNION ALL SELECT 2", [(1,), (2,)]),
        ("PIVOT (SELECT 1 AS s) ON s IN (1) USING count(*)", [(1,)]),
        ("SELECT column_name FROM (DESCRIBE shards) LIMIT 1", [("corpus",)]),
        ("SELECT unnest([1, 2])", [(1,), (2,)]),
        ("FROM query_table('shards') SELECT DISTINCT corpus", [("small",)]),
        ("SELECT count(*) > 0 FROM duckdb_settings()", [(True,)]),
        ("-- what is it?\nSELECT 1; -- it is one; or so", [(1,)]),
        ("SELECT '; -- ' /* ; */;;", [("; -- ",)]),
    ],
)
def test_read_only_queries_are_allowed(connection: duckdb.DuckDBPyConnection, query: str, rows: list[object]) -> None:
    assert select(connection, query).limit(10).fetchall() == rows


def test_describe_show_and_summarize_are_allowed(connection: duckdb.DuckDBPyConnection) -> None:
    assert ("corpus_small",) in select(connection, "SHOW TABLES").fetchall()
    assert len(select(connection, "DESCRIBE corpus_small").fetchall()) == 16
    assert len(select(connection, "SUMMARIZE corpus_small").fetchall()) == 16


def test_a_file_of_the_workspace_is_readable_by_its_path(small: Built, connection: duckdb.DuckDBPyConnection) -> None:
    shard = small.corpus.location / small.corpus.shards[0].path
    assert select(connection, f"SELECT count(*) FROM '{shard}'").fetchall() == [(small.corpus.shards[0].rows,)]


def test_a_damaged_shard_fails_in_one_line_that_names_it(own_small: Built) -> None:
    shard = own_small.corpus.location / own_small.corpus.shards[-1].path
    shard.path.write_bytes(shard.read()[:-20])
    with open_catalog(own_small.workspace) as connection, pytest.raises(RunFailure, match=shard.name) as failure:
        list(stream(connection, select(connection, "SELECT sum(a) FROM corpus_small"))[1])
    assert "damaged" in str(failure.value)


def test_a_query_larger_than_memory_spills_into_the_workspace_and_leaves_nothing(
    own_small: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.sql.query.MEMORY", "100MB")
    spill = own_small.workspace.root / ".spill"
    with open_catalog(own_small.workspace) as connection:
        _, batches = stream(
            connection, select(connection, "SELECT range, hash(range) FROM range(8_000_000) ORDER BY ALL DESC")
        )
        spilled = sum(path.stat().st_size for path in spill.path.rglob("*") if path.is_file())
        assert spilled > 10_000_000
        assert sum(batch.num_rows for batch in batches) == 8_000_000
    assert spill.children() == []


def test_the_next_query_deletes_the_spill_folder_of_a_killed_one(own_small: Built) -> None:
    spill = own_small.workspace.root / ".spill"
    killed = (
        "import os, sys\n"
        "from storage.workspace import Workspace\n"
        "from storage.sql.query import open_catalog\n"
        "with open_catalog(Workspace.open(sys.argv[1])):\n"
        "    os._exit(9)\n"
    )
    subprocess.run(
        [sys.executable, "-c", killed, str(own_small.workspace.root)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        timeout=60,
    )
    assert len(spill.children()) == 1
    held = "0" * 32
    with (spill / held).exclusive("it"), open_catalog(own_small.workspace):
        left = spill.children()
        assert len(left) == 2
        assert held in left
    assert spill.children() == [held]


def test_a_query_deletes_only_spill_folders(own_small: Built, tmp_path: Path) -> None:
    outside, spill = tmp_path / "outside", own_small.workspace.root.path / ".spill"
    for folder in (outside, spill):
        for name in ("photos", "1" * 32):
            (folder / name).mkdir(parents=True)
            (folder / name / "x").write_text("precious")
    (spill / ("2" * 32)).symlink_to(outside)
    with open_catalog(own_small.workspace):
        pass
    assert sorted(path.name for path in spill.iterdir()) == [".lock", "2" * 32, "photos"]
    spill.rename(tmp_path / "moved")
    spill.symlink_to(outside)
    with pytest.raises(RunFailure, match=r"\.spill is a symbolic link"), open_catalog(own_small.workspace):
        pass
    assert sorted(path.name for path in outside.rglob("*")) == ["1" * 32, "photos", "x", "x"]
