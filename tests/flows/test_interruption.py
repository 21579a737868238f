"""Ctrl-C ends any query soon, with exit code 130 and nothing half-written, also one that heeds no interruption."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psutil
import pytest

from storage import database
from storage.database import closing, interruptible
from storage.errors import QueryAbandoned
from tests.builders import Built
from tests.flows.test_overview_verbs import ENVIRONMENT
from tests.interrupts import hear_interrupts

# A text of a gigabyte is one value, inside of which DuckDB hears nothing; this takes minutes.
HEEDLESS = "SELECT max(length(repeat('a', 1000000000 + (range % 2)::INT))) AS longest FROM range(10000)"
ENDLESS = "SELECT sum(hash(a.range * b.range)) AS sum FROM range(100000000) a, range(100000000) b"


@pytest.fixture
def hearing() -> Iterator[None]:
    """The same for this process."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("query", "form"), [(HEEDLESS, "table"), (ENDLESS, "parquet")])
def test_ctrl_c_ends_a_query_with_exit_code_130(small: Built, tmp_path: Path, query: str, form: str) -> None:
    options = ("--output", str(tmp_path / "out"), "--workspace", str(small.workspace.root))
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "sql", query, "--format", form, *options],
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    seen = psutil.Process(process.pid)
    while process.poll() is None and seen.memory_info().rss < 800e6 and seen.cpu_times().user < 5:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "error: interrupted: the query was stopped\n")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_before_the_command_is_there_is_one_line() -> None:
    interrupted = """
import sys

class Interruption:
    def find_spec(self, name, path=None, target=None):
        if name == "flows.command":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interruption())
from flows.__main__ import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", interrupted], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "error: interrupted\n")


@pytest.mark.usefixtures("hearing")
def test_what_heeds_no_interruption_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_HEED_SECONDS", 0.01)
    goes_on = threading.Event()

    def compute() -> None:
        """Heed nothing, behind a Ctrl-C."""
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        goes_on.wait()

    with pytest.raises(QueryAbandoned), closing(duckdb.connect()) as connection:
        interruptible(connection, compute)
    goes_on.set()


@pytest.mark.usefixtures("hearing")
def test_what_heeds_an_interruption_ends_as_one() -> None:
    def compute() -> None:
        """Ask without end, behind a Ctrl-C."""
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        connection.sql(ENDLESS).fetchall()

    with closing(duckdb.connect()) as connection, pytest.raises(KeyboardInterrupt, match="was stopped") as stopped:
        interruptible(connection, compute)
    assert not isinstance(stopped.value, QueryAbandoned)


def test_results_and_failures_come_as_they_are() -> None:
    with closing(duckdb.connect()) as connection:
        assert interruptible(connection, connection.sql("SELECT 42").fetchall) == [(42,)]
        with pytest.raises(duckdb.ConversionException):
            interruptible(connection, connection.sql("SELECT 'x'::INT").fetchall)
