"""What grows with the number of shards: the driver, the manifest, its notes, and the way to the first batch.

Of the manifest processor seconds are counted; `python -m tests.benchmarks.scale` runs it alone.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from flows.common.engines import ray_session
from model.training.batches import Batches
from pipelines.generation.fanout import Notes, each_result, make_shards
from storage.datasets.manifest import ShardRecord, commit, lists, load
from storage.places.disk import LocalLocation
from storage.reading.lanes import LanePlan
from tests.benchmarks.measure import Figure, core_seconds, seconds
from tests.builders import build_small

_SHARDS = 1_000_000
_NOTES = 5_000
_TASKS = 4_000
# Tasks in flight, as on a cluster of so many cores.
_MANY = 500
_ROWS = 1_000_000
# Hard links to one file; file systems allow some ten thousand.
_LINKS = 30_000
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class _Nothing:
    """A task that makes no shard."""

    number: int
    rows: int = 1

    @property
    def paths(self) -> list[str]:
        """None."""
        return []


def scale(folder: Path) -> Iterator[Figure]:
    """At a million shards of a million rows each, 10¹² rows."""
    yield from _driver(LocalLocation(folder / "driver"))
    yield from _notes(LocalLocation(folder / "notes"))
    yield from _manifest(LocalLocation(folder / "corpus"))
    yield from _first_batch(folder / "training")


def _driver(folder: LocalLocation) -> Iterator[Figure]:
    tasks = [_Nothing(number) for number in range(_TASKS)]

    def run() -> None:
        """All tasks, two at once, each with its note."""
        make_shards(_idle, tasks, Notes(folder, "scale"), in_flight=cpus, progress=lambda rows: None)

    with ray_session(cpus=2) as cpus:
        make_shards(_idle, tasks[:100], Notes(folder / "warm", "scale"), in_flight=cpus, progress=lambda rows: None)
        taken = seconds(run)
        began = time.process_time()
        calls = sum(1 for _ in each_result(_idle, tasks, in_flight=_MANY))
        each = (time.process_time() - began) / calls
    yield Figure("tasks that two workers do, each with its note", _TASKS / taken, "tasks/s", detail="no work in them")
    yield Figure(
        "the driver's own time a batch of up to 16 tasks, 500 workers",
        each * 1e3,
        "ms",
        detail=f"processor time; {1 / each:,.0f} calls/s",
    )


def _idle(task: _Nothing) -> list[ShardRecord]:
    return []


def _notes(folder: LocalLocation) -> Iterator[Figure]:
    notes = Notes(folder, "scale")

    def write() -> None:
        """A note each, with what stands in a real one."""
        for number in range(_NOTES):
            notes.write(number, [_record(number)])

    def read() -> None:
        """All of them, as at a resume."""
        for number in range(_NOTES):
            notes.read(number)

    yield Figure("a note written", seconds(write) / _NOTES * 1e6, "µs", detail="by the workers, side by side")
    yield Figure("a note read at a resume", seconds(read) / _NOTES * 1e6, "µs", detail="by the driver")


def _manifest(folder: LocalLocation) -> Iterator[Figure]:
    yield Figure("commit of 10⁶ shards", _committed(folder), "s")
    (listed,) = lists(folder)
    yield Figure("list of 10⁶ shards", (folder / listed).size() / 1e6, "MB")
    before = _resident()
    dataset, taken = _timed(lambda: load(folder, "the corpus"))
    yield Figure("load of 10⁶ shards", taken, "s", detail=f"{(_resident() - before) / 1e6:,.0f} MB")
    train, taken = _timed(lambda: dataset.of_split("train"))
    yield Figure("the shards of a split", taken, "s")
    plan, taken = _timed(lambda: LanePlan(tuple(shard.rows for shard in train), 8_192, 0))
    first = core_seconds(lambda: [plan.segments(0, lane, 0, 128) for lane in range(64)])
    yield Figure("plan, and all lanes' first rows", taken + first, "s")


def _first_batch(folder: Path) -> Iterator[Figure]:
    """Every shard is the same small file, by hard links: what is timed is their number."""
    built = build_small(folder)
    shard = built.tokens.of_split("train")[0]
    content, target = (built.tokens.location / shard.path).read(), LocalLocation(folder / "tokens")
    (folder / "tokens" / "data").mkdir(parents=True)
    shards = []
    for number in range(_SHARDS):
        record = shard._replace(path=f"data/{number:06d}.parquet")
        if number % _LINKS == 0:
            file = folder / f"{number:06d}"
            file.write_bytes(content)
        os.link(file, folder / "tokens" / record.path)
        shards.append(record)
    made = built.tokens.manifest
    commit(
        target, kind="tokens", name=made.name, generator_version=made.generator_version, spec=made.spec, shards=shards
    )
    first = seconds(lambda: next(Batches.of(load(target, "the tokens"), "train", 8_192, 0).reader.batches(0)))
    yield Figure("time to a training's first batch at 10⁶ shards", first, "s", detail="opened, checked, planned, read")


def _committed(folder: LocalLocation) -> float:
    records = [_record(number) for number in range(_SHARDS)]
    return core_seconds(
        lambda: commit(folder, kind="corpus", name="scale", generator_version=1, spec={}, shards=records)
    )


def _record(number: int) -> ShardRecord:
    digest = f"{number * 0x9E3779B97F4A7C15F39CC0605CEDC8341082276BF3A27251F86C6A11D0C18E95 % 2**256:064x}"
    return ShardRecord(
        path=f"data/split=train/family=grid/width=16/{number:06d}.parquet",
        split="train",
        stratum="grid-16",
        rows=_ROWS,
        bytes=11_000_000 + number % 9_973,
        sha256=digest,
        content=digest[::-1],
        problem_length=11,
        answer_digits=3,
    )


def _timed(work: Callable[[], _Made]) -> tuple[_Made, float]:
    made: list[_Made] = []
    taken = core_seconds(lambda: made.append(work()))
    return made[0], taken


def _resident() -> int:
    """Largest memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _show() -> None:
    with tempfile.TemporaryDirectory(prefix="numerate-bench-") as folder:
        for figure in scale(Path(folder)):
            print(f"{figure.what}: {figure.value:.4g} {figure.unit} {figure.verdict} {figure.detail}", flush=True)


if __name__ == "__main__":
    sys.exit(_show())
