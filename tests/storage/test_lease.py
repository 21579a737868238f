import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import obstore
import pytest

import storage.places.lease
from pipelines.generation.build import corpus_identity, protected
from pipelines.generation.verify import check_bytes, examine
from storage.datasets.manifest import Revision, commit, load
from storage.errors import RunFailure, UserError
from storage.places.bucket import ObjectLocation
from storage.places.lease import Lease
from storage.places.opening import open_location
from tests.builders import SMALL, Built
from tests.object_store import FaultyProxy, upload


def test_the_second_of_two_writers_of_one_version_fails(bucket: str) -> None:
    place = open_location(bucket) / "index.json"
    place.write_if_unchanged(b"one", None)
    with pytest.raises(RunFailure, match="was written by another process in the meantime"):
        place.write_if_unchanged(b"two", None)
    seen = place.version()
    place.write_if_unchanged(b"two", seen)
    with pytest.raises(RunFailure, match="was written by another process in the meantime"):
        place.write_if_unchanged(b"three", seen)
    # Writing the existing content is no conflict.
    place.write_if_unchanged(b"two", seen)
    assert place.read() == b"two"


def test_one_of_two_concurrent_commits_with_different_specs_is_complete_and_the_other_fails(
    bucket: str, small: Built
) -> None:
    folder = open_location(bucket) / "corpora" / "small"
    gate, ended = threading.Barrier(4), list[object]()

    def make(spec: dict[str, object]) -> None:
        seen = Revision.at(folder)
        gate.wait()
        try:
            commit(
                folder,
                kind="corpus",
                name="small",
                generator_version=5,
                spec=spec,
                shards=list(small.corpus.shards[: len(str(spec))]),
                base=seen,
            )
            ended.append(spec)
        except RunFailure as failure:
            ended.append(failure)

    specs = [{**corpus_identity(SMALL), "seed": seed} for seed in (1, 1, 22, 22)]
    threads = [threading.Thread(target=make, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [end for end in ended if isinstance(end, dict)]
    assert won
    assert all(spec == load(folder, "it").manifest.spec for spec in won)
    assert all("was written by another process" in str(end) for end in ended if isinstance(end, RunFailure))


_HOLD = """
import signal, sys
from storage.places.opening import open_location
with open_location(sys.argv[1]).exclusive("it"):
    print("held", flush=True)
    signal.pause()
"""


def hold(uri: str, cache: Path) -> "subprocess.Popen[str]":
    """A process that locks a folder, on the machine with this cache."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", _HOLD, uri], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("machine", ["same", "other"])
def test_one_process_at_a_time_locks_a_folder_and_a_killed_process_releases_it(
    bucket: str, tmp_path: Path, machine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_location(bucket) / "corpus"
    holder = hold(str(folder), tmp_path / ("cache" if machine == "same" else "other"))
    try:
        with pytest.raises(UserError, match="it is being written by another process"), folder.exclusive("it"):
            pass
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    if machine == "other":
        # Another machine only knows that the holder ended when the lease expires.
        with pytest.raises(UserError, match="it is being written by another process"), folder.exclusive("it"):
            pass
        monkeypatch.setattr(storage.places.lease, "_EXPIRE_SECONDS", 2.0)
    with folder.exclusive("it", wait_seconds=30 * (machine == "other")):
        (folder / "x").write(b"mine")
    with folder.exclusive("it"):
        pass


def test_a_process_that_lost_its_lease_writes_nothing(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.places.lease, "_RENEW_SECONDS", 0.05)
    folder = open_location(bucket) / "corpus"
    assert isinstance(folder, ObjectLocation)
    seen = (folder / "manifest.json").version()
    with folder.exclusive("corpus 'x'"):
        (folder / "x").write(b"mine")
        obstore.put(folder.store, f"{folder.key}/.lock", json.dumps({"owner": "another", "machine": "far"}).encode())
        (lease,) = storage.places.lease._held
        until = time.monotonic() + 10
        while lease.holds():
            assert time.monotonic() < until
        for write in (
            lambda: (folder / "x").write(b"still mine"),
            lambda: (folder / "manifest.json").write_if_unchanged(b"{}", seen),
            lambda: (folder / "x").remove(),
            lambda: folder.remove(),
        ):
            with pytest.raises(RunFailure, match=r"corpus 'x' could not be kept locked .* run the same command again"):
                write()
    assert (folder / "x").read() == b"mine"
    # It does not release the lease of another process.
    assert json.loads((folder / ".lock").read())["owner"] == "another"


def test_a_suspended_process_renews_its_lease_before_it_writes(
    bucket: str, proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.places.stores._PROBE_SECONDS", 1)
    folder = open_location(bucket)
    assert isinstance(folder, ObjectLocation)
    lease = Lease(folder, "it")
    assert lease.take()
    renewed = (folder / ".lock").version()
    assert lease.holds()
    assert (folder / ".lock").version() == renewed
    lease._renewed -= 100
    assert lease.holds()
    assert (folder / ".lock").version() != renewed
    lease._renewed -= 100
    proxy.fault = lambda request: "503"
    assert not lease.holds()
    # No other process took the lease, so it is renewed as soon as the store responds.
    proxy.fault = lambda request: ""
    assert lease.holds()


def test_a_lease_expires_while_the_machine_sleeps(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_location(bucket) / "run"
    assert isinstance(folder, ObjectLocation)
    with folder.exclusive("run 'x'"):
        for step in (1, 2):
            (folder / f"step-{step}").write(b"mine")
        obstore.put(folder.store, f"{folder.key}/.lock", json.dumps({"owner": "another", "machine": "far"}).encode())
        # Only the boot-time clock continues during sleep.
        slept = time.clock_gettime(time.CLOCK_BOOTTIME) + 1_000
        monkeypatch.setattr(
            "storage.places.lease.time.clock_gettime", lambda clock: slept * (clock == time.CLOCK_BOOTTIME)
        )
        with pytest.raises(RunFailure, match="run 'x' could not be kept locked"):
            (folder / "step-1").remove()
        assert sorted(folder.children()) == ["step-1", "step-2"]


def test_a_read_only_bucket_shows_its_locks_and_can_be_verified(bucket: str, proxy: FaultyProxy, small: Built) -> None:
    folder = upload(small.corpus.location, f"{bucket}/corpora/small")
    assert isinstance(folder, ObjectLocation)
    proxy.fault = lambda request: "" if request.method in ("GET", "HEAD") else "403"
    with protected(folder, "corpus 'small'", write=False):
        found = examine(folder)
        check_bytes(found, in_flight=0, progress=lambda rows: None)
    assert (found.faults, proxy.faults) == ([], {})
    with pytest.raises(UserError, match="access is denied"), protected(folder, "corpus 'small'", write=True):
        pass
    proxy.fault = lambda request: ""
    with folder.exclusive("corpus 'small'"):
        asked = len(proxy.requests)
        with (
            pytest.raises(UserError, match="is being written by another process"),
            protected(folder, "corpus 'small'", write=False),
        ):
            pass
        assert {request.method for request in proxy.requests[asked:]} == {"GET"}
