"""Faults from outside, through the real command: a disk that fills up, and two who make one corpus."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.server.app import PrefectServer
from pipelines.generation.build import build_corpus
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import load
from storage.errors import RunFailure
from storage.places.disk import LocalLocation
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace

_INSIDE = "NUMERATE_TEST_OWN_MOUNTS"
_ROWS = {"rows": 4_000_000, "rows_per_shard": 100_000}


def generate(workspace: Path, name: str, **values: int) -> "subprocess.Popen[str]":
    """The command that generates a corpus of four numbers, started."""
    given = {"name": name, **values, "workspace": workspace}
    options = [text for field, value in given.items() for text in (f"--{field.replace('_', '-')}", str(value))]
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "corpus", "generate", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    """Exit code, and what stands on standard error."""
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


def wait_for(process: "subprocess.Popen[str]", folder: Path, pattern: str, count: int = 1) -> None:
    """Until so many files of a pattern lie in a folder, while the process lives, for five minutes at most."""
    deadline = time.monotonic() + 300
    while process.poll() is None and len(list(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline, f"fewer than {count} of {pattern} in {folder}"
        time.sleep(0.002)
    assert process.poll() is None, process.communicate()


def data_of(folder: Path) -> dict[str, bytes]:
    """The files of a corpus, but its lock, its seconds and its card, which the command writes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "made.json", "README.md")
    }


@dataclass(frozen=True)
class Disk:
    """A disk of a few megabytes, in memory."""

    path: Path

    def fill(self) -> None:
        """Write until nothing is left."""
        with open(self.path / "fill", "wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))

    def resize(self, megabytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A real small disk, unmounted at the end."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk can't be mounted here, and neither can it in a user namespace of its own")
    yield Disk(place)
    subprocess.run(["umount", str(place)], check=True)


def _may_mount() -> bool:
    """Whether this process can mount a disk, or is in a namespace where it should."""
    return bool(os.environ.get(_INSIDE)) or not os.geteuid()


@pytest.mark.slow
@pytest.mark.skipif(_may_mount(), reason="mounts without a namespace of its own")
def test_a_disk_that_fills_up_in_a_namespace_of_its_own() -> None:
    """The test below again, as somebody who may mount."""
    name = f"{__file__}::test_a_disk_that_fills_up_stops_a_generation_in_one_line_and_it_goes_on_with_more_room"
    inside = ["unshare", "-rm", sys.executable, "-m", "pytest", "-q", name]
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    result = subprocess.run(inside, env={**os.environ, _INSIDE: "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not _may_mount(), reason="only root can mount a small disk")
def test_a_disk_that_fills_up_stops_a_generation_in_one_line_and_it_goes_on_with_more_room(
    disk: Disk, tmp_path: Path, ray_instance: int
) -> None:
    folder = disk.path / "w/corpora/full"
    code, errors = ended(generate(disk.path / "w", "full", **_ROWS))
    assert code == 1
    assert errors.startswith("error: corpus 'full' needs 4")
    assert "MB are free: free some space or name another --workspace" in errors
    assert len(errors.splitlines()) == 1
    assert not list(folder.rglob("*.parquet"))

    disk.resize(90)
    process = generate(disk.path / "w", "full", **_ROWS)
    wait_for(process, folder, ".progress/*.json", 3)
    stop = threading.Event()
    filler = threading.Thread(target=fill, args=(disk.path / "filler", stop))
    filler.start()
    try:
        code, errors = ended(process)
    finally:
        stop.set()
        filler.join()
    assert code == 1
    assert errors.startswith(f"error: the disk is full while writing {folder}/")
    assert "free some space and run the same command again" in errors
    assert len(errors.splitlines()) == 1
    assert not list(folder.rglob("*.partial"))
    assert not (folder / "manifest.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert kept

    disk.resize(250)
    code, errors = ended(generate(disk.path / "w", "full", **_ROWS))
    assert (code, "4,000,000 rows" in errors) == (0, True), errors
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    build_corpus(CorpusSpec(name="full", **_ROWS), LocalLocation(tmp_path / "whole"), in_flight=ray_instance)
    assert data_of(folder) == data_of(tmp_path / "whole")


def fill(place: Path, stop: threading.Event) -> None:
    """Another program's file that takes every free byte, and keeps taking."""
    with open(place, "wb", buffering=0) as file:
        while not stop.is_set():
            try:
                file.write(bytes(1 << 20))
            except OSError:
                time.sleep(0.01)


@pytest.mark.slow
def test_of_two_who_generate_one_corpus_at_once_one_wins_and_the_other_ends_in_one_line(
    tmp_path: Path, ray_instance: int
) -> None:
    folder = tmp_path / "w/corpora/both"
    first = generate(tmp_path / "w", "both", **_ROWS)
    wait_for(first, folder, ".progress/*.json")
    # Stopped, so that it is in the midst of its work however long the second takes to start.
    first.send_signal(signal.SIGSTOP)
    try:
        code, errors = ended(generate(tmp_path / "w", "both", **_ROWS))
    finally:
        first.send_signal(signal.SIGCONT)
    assert (code, errors) == (
        2,
        "error: corpus 'both' is being written by another process: wait for it to end, or choose another name\n",
    )
    code, errors = ended(first)
    assert (code, "4,000,000 rows" in errors) == (0, True), errors
    assert load(LocalLocation(folder), "corpus").whole()
    build_corpus(CorpusSpec(name="both", **_ROWS), LocalLocation(tmp_path / "whole"), in_flight=ray_instance)
    assert data_of(folder) == data_of(tmp_path / "whole")


@pytest.mark.skipif(not _may_mount(), reason="only root can mount a small disk")
def test_a_catalog_that_finds_no_room_is_one_line(disk: Disk) -> None:
    workspace = Workspace.create(str(disk.path / "w"))
    refresh_catalog(workspace)
    before = Path(str(workspace.catalog)).read_bytes()
    disk.fill()
    with pytest.raises(
        RunFailure, match=r"catalog.duckdb can't be written: free some space .+No space left"
    ) as failure:
        refresh_catalog(workspace)
    assert "\n" not in str(failure.value)
    assert Path(str(workspace.catalog)).read_bytes() == before


@pytest.mark.skipif(not _may_mount(), reason="only root can mount a small disk")
def test_a_server_that_finds_no_room_for_its_records_is_one_line(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(RunFailure, match="is full: free some space and run the same command again") as failure:
        PrefectServer(disk.path / "home")
    assert "\n" not in str(failure.value)
    assert not (disk.path / "home").exists()
