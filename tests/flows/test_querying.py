"""The formats of `numerate sql`, in this process, or in a separate process if pipes or terminals matter."""

import csv
import io
import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli import app as command
from flows.cli.verbs.sql import Format, answer
from storage.errors import UserError
from storage.sql import memory
from storage.sql.memory import bounded_memory
from tests.builders import Built

_ROOT = Path(__file__).parents[2]
_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(_ROOT)}

Sql = Callable[..., "subprocess.CompletedProcess[bytes]"]


def words_of(small: Built, *arguments: str) -> list[str]:
    return ["sql", "--workspace", str(small.workspace.root), *arguments]


def command_of(small: Built, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows", *words_of(small, *arguments)]


def sql_in_a_process(small: Built, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command_of(small, *arguments), input=b"", capture_output=True, timeout=120, cwd=_ROOT, env=_ENVIRONMENT
    )


@pytest.fixture
def sql(small: Built, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Sql:
    """The command in this process: the same without two seconds of imports."""

    def run(*arguments: str, stdin: bytes = b"") -> "subprocess.CompletedProcess[bytes]":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = command.run(words_of(small, *arguments))
        return subprocess.CompletedProcess(arguments, code, *capfdbinary.readouterr())

    return run


@pytest.fixture
def piped(sql: Sql, monkeypatch: pytest.MonkeyPatch) -> Sql:
    """The same with a pipe as standard output, of which its reader takes everything, or `most` bytes."""

    def run(*arguments: str, most: int = -1) -> "subprocess.CompletedProcess[bytes]":
        ours, theirs = os.pipe()

        def read() -> bytes:
            """Take so much, and close the pipe."""
            with open(ours, "rb") as reader:
                return reader.read(most)

        with ThreadPoolExecutor(1) as reading:
            taken = reading.submit(read)
            with open(theirs, "w") as pipe, monkeypatch.context() as patched:
                patched.setattr(sys, "stdout", pipe)
                result = sql(*arguments)
            result.stdout = taken.result()
        return result

    return run


def assert_refused(result: subprocess.CompletedProcess[bytes], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.decode().strip().splitlines()
    assert line.startswith("error: ")
    assert all(word in line for word in words), line
    assert result.stdout == b""


def assert_done(result: subprocess.CompletedProcess[bytes]) -> bytes:
    assert (result.returncode, result.stderr) == (0, b"")
    return result.stdout


def expected_sums(small: Built) -> list[tuple[str, int]]:
    return [(f"{a}+{b}", a + b) for a in range(100) for b in range(100)]


_SUMS = "SELECT problem, sum FROM corpus_small ORDER BY a, b"


def test_csv_contains_every_row(small: Built) -> None:
    text = assert_done(sql_in_a_process(small, _SUMS, "--format", "csv")).decode()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [(row["problem"], int(row["sum"])) for row in rows] == expected_sums(small)


def test_json_is_one_array_of_objects_with_every_row(sql: Sql) -> None:
    query = "SELECT * FROM range(10001) AS t(n), (SELECT 'a \"b\"' AS text)"
    rows = json.loads(assert_done(sql(query, "--json")))
    assert rows == [{"n": n, "text": 'a "b"'} for n in range(10_001)]
    assert json.loads(assert_done(sql("SELECT 1 AS n WHERE false", "--format", "json"))) == []


def test_json_is_valid_for_any_values(sql: Sql) -> None:
    query = (
        "SELECT 'nan'::DOUBLE AS nan, ['-inf'::FLOAT, 1.5] AS list, 'NaN' AS text, NULL AS none, 2::HUGEINT ** 100 > 0 "
        "AS large, 170141183460469231731687303715884105727 AS huge, DATE '2026-11-24' AS day, 1 AS a, 2 AS a"
    )

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    (row,) = json.loads(assert_done(sql(query, "--json")), parse_constant=no_constant)
    assert row == {
        "nan": None,
        "list": [None, 1.5],
        "text": "NaN",
        "none": None,
        "large": True,
        "huge": 2**127 - 1,
        "day": "2026-11-24",
        "a": 1,
        "a_1": 2,
    }


def test_parquet_is_written_to_a_file_or_a_pipe(small: Built, sql: Sql, piped: Sql, tmp_path: Path) -> None:
    target = tmp_path / "sums.parquet"
    assert assert_done(sql(_SUMS, "--format", "parquet", "--output", str(target))) == b""
    taken = assert_done(piped(_SUMS, "--format", "parquet"))
    for table in (pq.read_table(target), pq.read_table(io.BytesIO(taken))):
        assert table.schema.names == ["problem", "sum"]
        assert table.schema.field("sum").type == pa.int32()
        assert list(zip(*table.to_pydict().values(), strict=True)) == expected_sums(small)


@pytest.mark.parametrize("form", ["table", "csv", "json", "parquet"])
def test_output_file_is_replaced_atomically(sql: Sql, tmp_path: Path, form: str) -> None:
    target = tmp_path / "out"
    target.write_text("before")
    fails_late = "SELECT CASE WHEN range < 900000 THEN 1 ELSE error('boom') END FROM range(1000000)"
    assert_refused(sql(fails_late + " ORDER BY 1", "--format", form, "--output", str(target)), "boom")
    if form != "table":
        failed = sql(fails_late, "--format", form, "--output", str(target))
        assert_refused(failed, "boom")
    assert target.read_text() == "before"
    assert_done(sql("SELECT 1 AS one", "--format", form, "--output", str(target)))
    assert b"one" in target.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_table_is_cut_after_ten_thousand_rows_with_a_note(sql: Sql) -> None:
    result = sql("SELECT * FROM range(10001)")
    assert result.returncode == 0
    assert len(result.stdout.decode().strip().splitlines()) == 2 + 10_000
    assert b"the first 10,000 rows" in result.stderr
    assert b"9999" in assert_done(sql("SELECT * FROM range(10000)"))


def test_table_shows_values_literally(sql: Sql) -> None:
    assert b"[red]x :smile: [/red]" in assert_done(sql("SELECT '[red]x :smile: [/red]' AS text"))


def test_sql_is_read_from_standard_input(sql: Sql) -> None:
    text = b"-- how many?\nSELECT count(*) AS n\nFROM corpus_small; -- all\n"
    assert json.loads(assert_done(sql("--json", stdin=text))) == [{"n": 10_000}]
    assert b"10000" in assert_done(sql(stdin=text))
    assert_refused(sql(), "no SQL was given")
    assert_refused(sql(stdin=b"SELECT '\xff'"), "UTF-8")


def test_terminal_input_and_parquet_output_are_rejected(small: Built) -> None:
    for arguments, words in (([], "no SQL was given"), (["SELECT 1", "--format", "parquet"], "--output")):
        ours, theirs = os.openpty()
        process = subprocess.Popen(
            command_of(small, *arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            cwd=_ROOT,
            env=_ENVIRONMENT,
        )
        os.close(theirs)
        _, error = process.communicate(timeout=120)
        os.close(ours)
        assert process.returncode == 2
        assert words in error.decode()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["SELECT 1", "--format", "xml"], ["xml", "parquet"]),
        (["SELECT 1", "--format", "csv", "--json"], ["--json", "csv"]),
        (["SELECT 1", "--output", "/nowhere/x"], ["/nowhere/x", "is missing, create it"]),
        (["SELECT 1", "--output", "/tmp"], ["/tmp", "folder"]),
        (["SELECT 1", "--output", "/proc/x"], ["/proc/x", "cannot be written"]),
        (["SELECT [1] AS x", "--format", "csv"], ["'x'", "INTEGER[]", "CSV", "x::VARCHAR"]),
        (["SELECT {'y': 1} AS x", "--format", "csv"], ["STRUCT", "CSV"]),
        (["SELECT '1'::BLOB AS x", "--format", "csv"], ["BLOB", "CSV"]),
        (["SELECT to_years(1) AS x", "--format", "csv"], ["INTERVAL", "CSV"]),
        (["SELECT [to_years(1)] AS x", "--format", "parquet"], ["INTERVAL[]", "Parquet"]),
        (["SELECT union_value(k := 1) AS x", "--format", "parquet"], ["UNION", "Parquet"]),
        (["COPY corpus_small TO 'x.csv'", "--format", "csv"], ["exactly one SELECT"]),
        (["SELECT nothing FROM corpus_small", "--format", "json"], ["nothing", "Candidate"]),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(sql: Sql, arguments: list[str], words: list[str]) -> None:
    assert_refused(sql(*arguments), *words)


def test_device_is_written_and_not_replaced(small: Built, sql: Sql) -> None:
    written = sql_in_a_process(small, "SELECT 1 AS n", "--format", "csv", "--output", "/dev/stdout")
    assert assert_done(written) == b'"n"\n1\n'
    assert_done(sql("SELECT 1", "--output", "/dev/null"))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_symbolic_link_to_a_file_is_kept(sql: Sql, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert_done(sql("SELECT 1 AS n", "--json", "--output", str(tmp_path / "link")))
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "file").read_text()) == [{"n": 1}]


_LONG = "SELECT range, hash(range) FROM range(5000000)"


def test_closed_pipe_ends_the_command_quietly(small: Built) -> None:
    process = subprocess.Popen(
        command_of(small, _LONG, "--format", "csv"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=_ROOT,
        env=_ENVIRONMENT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(120) == 1


@pytest.mark.parametrize("form", ["json", "parquet"])
def test_closed_pipe_is_no_error_in_other_formats(piped: Sql, form: str) -> None:
    result = piped(_LONG, "--format", form, most=10)
    assert (result.returncode, result.stderr, len(result.stdout)) == (1, b"", 10)


@pytest.mark.parametrize("place", ["corpora/small/data/x.parquet", "runs/x.csv", "catalog.duckdb"])
def test_output_inside_the_workspaces_data_is_rejected(small: Built, sql: Sql, place: str) -> None:
    target = small.workspace.root / place
    before = target.size()
    assert_refused(sql("SELECT 1", "--output", str(target), "--format", "csv"), "the workspace's own data")
    assert target.size() == before


@pytest.mark.parametrize(
    ("query", "form"),
    [
        # Each of them one value, of which DuckDB's own limit takes no notice.
        ("SELECT list_sum(range(600000000))", "table"),
        ("SELECT length(repeat('x', 4000000000))", "csv"),
        ("SELECT count(*) FROM (SELECT unnest(range(600000000)))", "json"),
    ],
)
def test_value_of_gigabytes_is_rejected_before_memory_runs_out(small: Built, query: str, form: Format) -> None:
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(UserError, match="more than 1GB of memory") as failure:
        answer(small.workspace, query, form)
    assert "\n" not in str(failure.value)
    # What this process does later isn't bounded.
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits


@pytest.mark.parametrize(("free", "more"), [(100 << 30, 3 << 30), (2_000_000_000, 1_600_000_000), (0, 512 << 20)])
def test_memory_of_a_query_depends_on_what_is_free(monkeypatch: pytest.MonkeyPatch, free: int, more: int) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    with bounded_memory():
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    assert limit - data == pytest.approx(more, abs=32 << 20)


def test_query_for_gigabytes_ends_in_one_line(small: Built) -> None:
    result = sql_in_a_process(small, "SELECT list_sum(range(2000000000))")
    assert_refused(result, "more than 1GB of memory")


def test_python_out_of_memory_is_a_one_line_error() -> None:
    with pytest.raises(UserError, match="more than 1GB of memory"), bounded_memory():
        bytearray(4 << 30)
