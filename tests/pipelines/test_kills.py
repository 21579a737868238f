"""Killed workers and drivers: a generation ends with the same files as an undisturbed one."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipelines.generation.build import build_corpus
from pipelines.generation.verify import check_bytes, examine
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import load
from storage.places.disk import LocalLocation
from tests.processes import wait_for

_POLL_SECONDS = 0.02
_DRIVER = """
import sys
from pathlib import Path
from flows.common.engines import ray_session
from pipelines.generation.build import build_corpus
from pipelines.spec.corpus import CorpusSpec
from storage.places.disk import LocalLocation

spec = CorpusSpec.model_validate_json(sys.argv[1])
with ray_session(cpus=2) as cpus:
    build_corpus(spec, LocalLocation(Path(sys.argv[2])), in_flight=cpus)
"""


def corpus_of(ranges: int, rows: int) -> CorpusSpec:
    """A corpus of so many ranges; 150,000 rows take about half a second."""
    return CorpusSpec(
        name="killed",
        family="expression",
        operators=("+", "-", "*"),
        terms=8,
        digits=4,
        depth=3,
        rows=ranges * rows,
        rows_per_shard=rows,
    )


@dataclass
class Killer:
    """Generates a corpus at `folder` in processes of its own, and kills its workers and its driver in between."""

    spec: CorpusSpec
    folder: Path
    workers: int
    drivers: int
    share: float
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    killed: Counter[str] = field(default_factory=Counter)
    seen: dict[tuple[int, str], bool] = field(default_factory=dict)
    starts: int = 0

    def run(self, seconds: float) -> None:
        """Start the generation until it ends by itself; the drivers' deaths are spread over those of the workers."""
        until = time.monotonic() + seconds
        ended = -signal.SIGKILL
        while ended == -signal.SIGKILL:
            self.starts += 1
            driver = subprocess.Popen(
                [sys.executable, "-c", _DRIVER, self.spec.model_dump_json(exclude_unset=True), str(self.folder)],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                start_new_session=True,
            )
            try:
                while driver.poll() is None:
                    assert time.monotonic() < until, f"too slow: {self.killed} killed in {self.starts} starts"
                    time.sleep(_POLL_SECONDS)
                    self._strike(driver)
            finally:
                driver.kill()
            ended = driver.wait()
        assert ended == 0

    def _strike(self, driver: subprocess.Popen[bytes]) -> None:
        """Kill a share of the workers that are seen at a range, or the driver when it is its turn."""
        for pid, name in writing(self.folder):
            # The file of a range's shard is named after it: .000012.parquet.<random>.partial
            chosen = self.seen.setdefault((pid, name.split(".")[1]), self.chance.random() < self.share)
            turn = self.killed["driver"] < self.drivers * self.killed["worker"] // max(1, self.workers)
            if chosen and turn:
                self.killed["driver"] += kill_while_writing(pid, driver.pid, self.folder)
                return
            if chosen and self.killed["worker"] < self.workers:
                self.killed["worker"] += kill_while_writing(pid, pid, self.folder)


def writing(folder: Path) -> list[tuple[int, str]]:
    """Ray's workers that write a partial file below `folder`, each with the file's name."""
    try:
        if not any(folder.rglob(".*.partial")):
            return []
    except FileNotFoundError:  # The folder of notes is deleted at the end.
        return []
    held = ((pid, half_written(pid, folder)) for pid in map(int, filter(str.isdigit, os.listdir("/proc"))))
    return [(pid, name) for pid, name in held if name]


def half_written(pid: int, folder: Path) -> str:
    """Name of the partial file below `folder` that a worker of Ray has open; empty if there is none."""
    try:
        if not Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::"):
            return ""
        for link in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(link)
            if target.startswith(f"{folder}/") and target.endswith(".partial"):
                return Path(target).name
    except OSError:
        pass
    return ""


def kill_while_writing(writer: int, victim: int, folder: Path) -> bool:
    """Kills `victim` if `writer` is writing a shard; `writer` is stopped during the check."""
    try:
        os.kill(writer, signal.SIGSTOP)
        wait_for(lambda: re.search(r"\) [TtZX]", Path(f"/proc/{writer}/stat").read_text()), 60, poll=_POLL_SECONDS)
        certain = bool(half_written(writer, folder))
        if certain:
            os.kill(victim, signal.SIGKILL)
        os.kill(writer, signal.SIGCONT)
    except OSError:
        return False
    return certain


def files(folder: Path) -> dict[str, bytes]:
    """All files of a corpus but its lock, with their bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    ("workers", "drivers", "share", "ranges", "rows", "seconds"),
    [(1, 1, 1.0, 3, 150_000, 300), pytest.param(88, 12, 0.5, 150, 150_000, 900, marks=pytest.mark.slow)],
)
def test_killed_generation_ends_with_the_same_files(
    tmp_path: Path,
    ray_instance: int,
    workers: int,
    drivers: int,
    share: float,
    ranges: int,
    rows: int,
    seconds: float,
) -> None:
    spec = corpus_of(ranges, rows)
    killer = Killer(spec, tmp_path / "killed", workers, drivers, share)
    began = time.monotonic()
    killer.run(seconds)
    took = time.monotonic() - began
    print(f"{dict(killer.killed)} killed while they wrote, {killer.starts} starts, {took:.0f} s")
    assert killer.killed == {"worker": workers, "driver": drivers}
    assert killer.starts == drivers + 1
    whole, _ = build_corpus(spec, LocalLocation(tmp_path / "whole"), in_flight=ray_instance)
    killed = load(LocalLocation(tmp_path / "killed"), "corpus")
    assert killed.manifest == whole.manifest
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    found = examine(killed.location)
    check_bytes(found, in_flight=ray_instance, progress=lambda rows: None)
    assert not found.faults
