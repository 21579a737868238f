"""The start of Prefect's server: its port, the reason if it fails, and the copy of its empty tables."""

import socket
import sqlite3
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest

from flows.server.app import PrefectServer, listening_socket
from flows.server.new_records import begin_records, keep_empty_tables
from storage.errors import RunFailure, UserError


def test_port_in_use_is_a_one_line_error() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 cannot be used .*: choose another with --port"):
            listening_socket(port=holder.getsockname()[1])
    with pytest.raises(UserError, match=r"port 65536 of 127.0.0.1 cannot be used \(ports are 0 to 65535\)"):
        listening_socket(port=65_536)
    with pytest.raises(UserError, match=r"port 0 of nowhere.invalid cannot be used \(.+\): choose another"):
        listening_socket("nowhere.invalid")


def test_port_is_kept_while_the_server_starts() -> None:
    with listening_socket() as free:
        requested = free.getsockname()[1]
    for port in (0, requested):
        with listening_socket(port=port) as listener:
            kept = listener.getsockname()[1]
            with pytest.raises(UserError, match=f"port {kept} of 127.0.0.1 cannot be used"):
                listening_socket(port=kept)


def test_server_that_ends_says_why(tmp_path: Path) -> None:
    (tmp_path / "prefect.db").write_bytes(b"no database" * 1000)
    with pytest.raises(RunFailure, match=r"did not start \(.*file is not a database.*\): see .*server.log"):
        PrefectServer(tmp_path)


def test_new_records_begin_with_a_copy_of_the_empty_tables(
    server: PrefectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tables = tmp_path / "cache" / "numerate" / f"prefect-{version('prefect')}.db"
    one, other = tmp_path / "one", tmp_path / "other"
    for home in (one, other):
        home.mkdir()
    assert begin_records(one)
    assert [*one.iterdir()] == []
    keep_empty_tables(server.home)
    assert tables.stat().st_mode & 0o777 == 0o600
    assert [begin_records(one), begin_records(one)] == [True, False]
    schemas = []
    for home in (one, server.home):
        with closing(sqlite3.connect(home / "prefect.db")) as records:
            schemas.append(records.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall())
    assert schemas[0] == schemas[1] != []
    # One that is damaged is not used; Prefect then creates its tables.
    data = bytearray(tables.read_bytes())
    for damaged in (b"no database" * 1_000, data[: len(data) // 2], data[:4_096] + bytes(len(data) - 4_096)):
        tables.write_bytes(damaged)
        assert begin_records(other)
        assert [*other.iterdir()] == []


def test_ports_of_ipv4_and_ipv6_are_checked() -> None:
    for host in ("::1", "::", "localhost", "127.0.0.1"):
        with listening_socket(host) as bound:
            assert bound.getsockname()[1] > 0
    with socket.socket(socket.AF_INET6) as holder:
        holder.bind(("::1", 0))
        holder.listen()
        with pytest.raises(UserError, match=r"port \d+ of ::1 cannot be used"):
            listening_socket("::1", holder.getsockname()[1])
