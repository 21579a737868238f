import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.places.opening import open_location
from storage.workspace import Workspace


def test_a_file_uri_and_a_path_name_the_same_location(tmp_path: Path) -> None:
    assert open_location(f"file://{tmp_path}") == open_location(str(tmp_path))


@pytest.mark.parametrize("uri", ["http://bucket/x", "ftp://host/x"])
def test_an_unknown_scheme_is_refused_by_name(uri: str) -> None:
    with pytest.raises(UserError, match=f"scheme '{uri.split(':')[0]}' is not supported"):
        open_location(uri)


def test_a_workspace_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"can't be written .* --workspace"):
        Workspace.create(str(tmp_path / "file" / "workspace"))


def test_a_missing_file_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(RunFailure, match=r"can't be read .No such file"):
        LocalLocation(tmp_path / "nothing").read()


def _hold(folder: Path, ready: "multiprocessing.synchronize.Event") -> None:
    with LocalLocation(folder).exclusive("it"):
        ready.set()
        signal.pause()


def test_one_process_at_a_time_locks_a_folder_and_a_killed_process_releases_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, ready))
    holder.start()
    try:
        assert ready.wait(30)
        with (
            pytest.raises(UserError, match="it is being written by another process"),
            LocalLocation(tmp_path).exclusive("it"),
        ):
            pass
    finally:
        assert holder.pid
        os.kill(holder.pid, signal.SIGKILL)
        holder.join()
    with LocalLocation(tmp_path).exclusive("it"):
        pass


def test_a_sweep_deletes_only_files_of_killed_writers(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / ".x.parquet.0123.partial").write_bytes(b"half")
    (tmp_path / "deep" / "x.parquet").write_bytes(b"whole")
    LocalLocation(tmp_path).sweep()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["x.parquet"]


def test_a_sweep_skips_locked_folders_below(tmp_path: Path) -> None:
    folder = LocalLocation(tmp_path)
    for place in ("data", "tokens/one"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / ".x.parquet.0123.partial").write_bytes(b"half")
    with (folder / "tokens" / "one").exclusive("the tokens"), folder.exclusive("the corpus"):
        folder.sweep()
    assert [path.parent.name for path in tmp_path.rglob("*.partial")] == ["one"]


def test_writing_the_same_bytes_does_not_replace_the_file(tmp_path: Path) -> None:
    place = LocalLocation(tmp_path) / "x"
    place.write(b"same")
    before = place.path.stat()
    place.write(b"same")
    assert (place.path.stat().st_mtime_ns, place.path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    place.write(b"Same")
    assert place.read() == b"Same"
    assert place.path.stat().st_ino != before.st_ino


def test_two_folders_are_swapped(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (LocalLocation(tmp_path) / name / name).write(b"")
    (LocalLocation(tmp_path) / "one").exchange(LocalLocation(tmp_path) / "two")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*/*")) == ["one/two", "two/one"]
    with pytest.raises(RunFailure, match=r"can't be swapped in one step \(No such file or directory\)"):
        (LocalLocation(tmp_path) / "one").exchange(LocalLocation(tmp_path) / "three")
