"""The real command on a disk that fills up, and two commands that generate the same corpus."""

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
from tests.builders import data_files
from tests.processes import result_of, start_command, wait_for

# Set in a process with a mount namespace of its own.
_NAMESPACE_VARIABLE = "NUMERATE_TEST_OWN_MOUNTS"
_ROWS = {"rows": 4_000_000, "rows_per_shard": 100_000}


def generate(workspace: Path, name: str, **values: int) -> "subprocess.Popen[str]":
    """Start the command that generates a corpus of sums of four numbers."""
    parameters = {"name": name, **values, "workspace": workspace}
    options = [text for field, value in parameters.items() for text in (f"--{field.replace('_', '-')}", str(value))]
    return start_command("corpus", "generate", *options)


def wait_for_ranges(process: "subprocess.Popen[str]", folder: Path, count: int) -> None:
    """Wait until a number of ranges of a corpus are complete, while the process runs."""
    wait_for(lambda: len(list(folder.glob(".progress/*.json"))) >= count, process=process, poll=0.002)


@dataclass(frozen=True)
class Disk:
    """A file system of a few megabytes in memory."""

    path: Path

    def fill(self) -> None:
        """Write until the disk is full."""
        with open(self.path / "fill", "wb") as file, contextlib.suppress(OSError):
            while True:
                os.write(file.fileno(), bytes(4096))

    def resize(self, megabytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={megabytes}m", str(self.path)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A real small disk."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=10m", "tmpfs", str(path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here, not even in a user namespace")
    yield Disk(path)
    subprocess.run(["umount", str(path)], check=True)


def _can_mount() -> bool:
    """Whether this process is root, or root in a mount namespace of its own."""
    return bool(os.environ.get(_NAMESPACE_VARIABLE)) or not os.geteuid()


@pytest.mark.slow
@pytest.mark.skipif(_can_mount(), reason="mounts without a namespace of its own")
def test_full_disk_in_a_mount_namespace() -> None:
    """Runs the next test as a user who can mount disks."""
    name = f"{__file__}::test_full_disk_stops_generation_with_one_line_and_it_resumes_with_more_space"
    command = ["unshare", "-rm", sys.executable, "-m", "pytest", "-q", name]
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("user namespaces are not allowed here")
    result = subprocess.run(command, env={**os.environ, _NAMESPACE_VARIABLE: "1"}, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.slow
@pytest.mark.skipif(not _can_mount(), reason="only root can mount a small disk")
def test_full_disk_stops_generation_with_one_line_and_it_resumes_with_more_space(
    disk: Disk, tmp_path: Path, ray_instance: int
) -> None:
    folder = disk.path / "w/corpora/full"
    code, _, errors = result_of(generate(disk.path / "w", "full", **_ROWS))
    assert code == 1
    assert errors.startswith("error: corpus 'full' needs 4")
    assert "MB are free: free some space or name another --workspace" in errors
    assert len(errors.splitlines()) == 1
    assert not list(folder.rglob("*.parquet"))

    disk.resize(90)
    process = generate(disk.path / "w", "full", **_ROWS)
    wait_for_ranges(process, folder, 3)
    stop = threading.Event()
    filler = threading.Thread(target=keep_full, args=(disk.path / "filler", stop))
    filler.start()
    try:
        code, _, errors = result_of(process)
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
    code, _, errors = result_of(generate(disk.path / "w", "full", **_ROWS))
    assert (code, "4,000,000 rows" in errors) == (0, True), errors
    assert all(path.stat().st_mtime_ns == modified for path, modified in kept.items())
    build_corpus(CorpusSpec(name="full", **_ROWS), LocalLocation(tmp_path / "expected"), in_flight=ray_instance)
    assert data_files(folder) == data_files(tmp_path / "expected")


def keep_full(path: Path, stop: threading.Event) -> None:
    """Simulate another program that takes every free byte until `stop` is set."""
    with open(path, "wb", buffering=0) as file:
        while not stop.is_set():
            try:
                file.write(bytes(1 << 20))
            except OSError:
                time.sleep(0.01)


def test_second_of_two_concurrent_generations_of_a_corpus_fails_with_one_line(tmp_path: Path) -> None:
    folder, spec = tmp_path / "w/corpora/both", {**_ROWS, "rows": 1_000_000}
    first = generate(tmp_path / "w", "both", **spec)
    # It is written after the folder is locked, and before the first range.
    wait_for((folder / ".progress/spec.yaml").exists, process=first, poll=0.01)
    # The first command is paused, so that it is still running however long the second takes to start.
    first.send_signal(signal.SIGSTOP)
    try:
        code, _, errors = result_of(generate(tmp_path / "w", "both", **spec))
    finally:
        first.send_signal(signal.SIGCONT)
    assert (code, errors) == (
        2,
        "error: corpus 'both' is being written by another process: wait for it to end, or choose another name\n",
    )
    code, _, errors = result_of(first)
    assert (code, "1,000,000 rows" in errors) == (0, True), errors
    corpus = load(LocalLocation(folder), "corpus")
    assert corpus.is_complete()
    assert all(corpus.verified(shard) for shard in corpus.shards)


@pytest.mark.skipif(not _can_mount(), reason="only root can mount a small disk")
def test_catalog_on_a_full_disk_fails_with_one_line_and_stays_unchanged(disk: Disk) -> None:
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


@pytest.mark.skipif(not _can_mount(), reason="only root can mount a small disk")
def test_server_on_a_full_disk_fails_with_one_line(disk: Disk) -> None:
    disk.fill()
    with pytest.raises(RunFailure, match="is full: free some space and run the same command again") as failure:
        PrefectServer(disk.path / "home")
    assert "\n" not in str(failure.value)
    assert not (disk.path / "home").exists()
