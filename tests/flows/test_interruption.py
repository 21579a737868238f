"""Ctrl-C ends any query soon, with exit code 130 and no partial output, even if it ignores interruptions."""

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

from storage.errors import QueryAbandoned
from storage.sql import database
from storage.sql.database import closing, interruptible
from tests.builders import Built
from tests.flows.test_overview_verbs import ENVIRONMENT
from tests.processes import restore_sigint

# A text of a gigabyte is one value, inside of which DuckDB hears nothing; this takes minutes.
HEEDLESS = "SELECT max(length(repeat('a', 1000000000 + (range % 2)::INT))) AS longest FROM range(10000)"
ENDLESS = "SELECT sum(hash(a.range * b.range)) AS sum FROM range(100000000) a, range(100000000) b"


_SIGNAL_AT_AN_IMPORT = """
import os, sys

class Signal:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), number)

module, number = sys.argv[1], int(sys.argv[2])
sys.argv[1:] = ["solve", "1+1"]
sys.meta_path.insert(0, Signal())
from flows.__main__ import main
main()
"""


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
        preexec_fn=restore_sigint,
    )
    seen, deadline = psutil.Process(process.pid), time.monotonic() + 60
    while (
        process.poll() is None
        and time.monotonic() < deadline
        and seen.memory_info().rss < 800e6
        and seen.cpu_times().user < 5
    ):
        time.sleep(0.01)
    assert time.monotonic() < deadline, "the query is not at work after a minute"
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "error: interrupted: the query was stopped\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("flows.cli.app", "error: interrupted\n"),
        ("numpy", "error: interrupted\n"),
        # A verb imports it: the command is at work.
        ("flows.cli.grammar", "error: interrupted: run the same command again to continue\n"),
    ],
)
def test_signal_during_an_import_is_one_line(module: str, said: str, number: int, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _SIGNAL_AT_AN_IMPORT, module, str(number)],
        env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, check=False, preexec_fn=restore_sigint,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", said)


def test_dropped_interruption_is_raised_again(tmp_path: Path) -> None:
    dropped = """
import os, signal, sys
from flows.cli import interruption

class Deleted:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        sum(range(1000))

def work():
    Deleted()
    while True:
        pass

interruption.end_at_once()
sys.exit(interruption.guarded(work))
"""
    ended = subprocess.run([sys.executable, "-c", dropped], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "error: interrupted: run the same command again to continue\n"


def test_signal_at_the_end_changes_only_the_exit_code() -> None:
    late = """
import atexit, os, signal, sys
from flows.cli import interruption

def stop():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print("stopped", flush=True)

interruption.end_at_once()
atexit.register(stop)
sys.exit(interruption.guarded(lambda: 0))
"""
    ended = subprocess.run([sys.executable, "-c", late], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "stopped\n", "error: interrupted\n")


@pytest.mark.usefixtures("hearing")
def test_query_that_ignores_an_interruption_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_HEED_SECONDS", 0.01)
    goes_on = threading.Event()

    def compute() -> None:
        """Ignore a Ctrl-C."""
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        goes_on.wait()

    with pytest.raises(QueryAbandoned), closing(duckdb.connect()) as connection:
        interruptible(connection, compute)
    goes_on.set()


@pytest.mark.usefixtures("hearing")
def test_interrupted_query_raises_the_interruption() -> None:
    def compute() -> None:
        """Query without end after a Ctrl-C."""
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # type: ignore[arg-type]
        connection.sql(ENDLESS).fetchall()

    with closing(duckdb.connect()) as connection, pytest.raises(KeyboardInterrupt, match="was stopped") as stopped:
        interruptible(connection, compute)
    assert not isinstance(stopped.value, QueryAbandoned)


def test_results_and_failures_are_passed_on() -> None:
    with closing(duckdb.connect()) as connection:
        assert interruptible(connection, connection.sql("SELECT 42").fetchall) == [(42,)]
        with pytest.raises(duckdb.ConversionException):
            interruptible(connection, connection.sql("SELECT 'x'::INT").fetchall)
