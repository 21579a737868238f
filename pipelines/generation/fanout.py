"""Runs many tasks over Ray with a limited number in flight. This is the only file of the folder that uses Ray.

Each finished task writes a small note next to the shards, so that a killed run continues with the missing tasks. The
caller must initialise Ray. Work in this process needs no Ray, so its functions import it.
"""

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from storage.datasets.manifest import ShardRecord
from storage.errors import TransientFailure
from storage.places.place import Location

if TYPE_CHECKING:
    from ray import ObjectRef

_POLL_SECONDS = 0.02
_CANCEL_SECONDS = 5.0
# Tasks submitted to Ray per task that can run; 2 gives 10 % more rows per second than 1.
_AHEAD = 2
# Maximum tasks per call, and how many calls must remain per worker for a call to have more than one task.
_LARGEST_BATCH = 16
_BATCHES_LEFT = 64
# Notes that are read concurrently: in an object store, each needs a request or two.
_READERS = 16
_READ_AHEAD = 10_000
# Retries of a task whose worker was killed; exceptions of a worker are not retried.
_RETRIES = 10


class Task(Protocol):
    """A unit of work: its unique number, its rows, and the relative paths of the shards that it can write."""

    @property
    def number(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def paths(self) -> list[str]: ...


Item = TypeVar("Item")
Result = TypeVar("Result")
AnyTask = TypeVar("AnyTask", bound=Task)
Worker = Callable[[AnyTask], list[ShardRecord]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Notes:
    """Records which tasks of a dataset are done, in one small file each; valid only for one fingerprint."""

    folder: Location
    fingerprint: str

    def _file(self, number: int) -> Location:
        return self.folder / ".progress" / f"{number:06d}.json"

    def write(self, number: int, shards: list[ShardRecord]) -> None:
        value = {"fingerprint": self.fingerprint, "shards": [shard._asdict() for shard in shards]}
        self._file(number).write(json.dumps(value).encode())

    def numbers(self) -> set[int]:
        """Numbers of all recorded tasks, for any fingerprint."""
        names = (self.folder / ".progress").children()
        return {int(name.removesuffix(".json")) for name in names if name.endswith(".json")}

    def read(self, number: int) -> list[ShardRecord] | None:
        """The shards of a recorded task, if it matches the fingerprint and they still exist; otherwise None."""
        file = self._file(number)
        try:
            value = json.loads(file.read()) if file.exists() else None
            if value is None or value["fingerprint"] != self.fingerprint:
                return None
            shards = [ShardRecord(**shard) for shard in value["shards"]]
        except (ValueError, RecursionError, LookupError, TypeError):
            # A damaged note: its task runs again.
            return None
        return shards if self.folder.holds({shard.path: shard.bytes for shard in shards}) else None

    def read_all(self, numbers: set[int]) -> dict[int, list[ShardRecord]]:
        """The shards of those of these tasks that are done."""
        noted, done = sorted(numbers & self.numbers()), dict[int, list[ShardRecord]]()
        with ThreadPoolExecutor(_READERS) as readers:
            for first in range(0, len(noted), _READ_AHEAD):
                some = noted[first : first + _READ_AHEAD]
                for number, shards in zip(some, readers.map(self.read, some), strict=True):
                    if shards is not None:
                        done[number] = shards
        return done

    def adopt(self, shards: Sequence[ShardRecord], tasks: Sequence[Task]) -> None:
        """Records the tasks whose shards are in a manifest, so that only missing shards are rebuilt."""
        by_path = {shard.path: shard for shard in shards}
        for task in tasks if by_path else ():
            if written := [by_path[path] for path in task.paths if path in by_path]:
                self.write(task.number, written)

    def clear(self) -> None:
        """Deletes all notes, after the manifest is committed."""
        (self.folder / ".progress").remove()


def make_shards(
    worker: Worker[AnyTask],
    tasks: Sequence[AnyTask],
    notes: Notes,
    *,
    in_flight: int,
    progress: Progress,
    finished: Progress | None = None,
) -> list[ShardRecord]:
    """Runs `worker` on all tasks without a valid note; returns all shards in the order of the tasks.

    `progress` is called with the rows of finished tasks, `finished` (by default `progress`) with the rows that were
    already done. Raises the errors of `each_result`.
    """
    done = notes.read_all({task.number for task in tasks})
    if done:
        (finished or progress)(sum(task.rows for task in tasks if task.number in done))
    missing = [task for task in tasks if task.number not in done]

    def work(batch: Sequence[AnyTask]) -> list[list[ShardRecord]]:
        """Runs on a worker: writes each task's shards, and then its note."""
        made = []
        for task in batch:
            # Already done if an earlier worker was lost in the middle of this batch.
            shards = notes.read(task.number) if len(batch) > 1 else None
            if shards is None:
                shards = worker(task)
                notes.write(task.number, shards)
            made.append(shards)
        return made

    with closing(each_result(work, _batches(missing, in_flight), in_flight=in_flight)) as results:
        for batch, made in results:
            done |= {task.number: shards for task, shards in zip(batch, made, strict=True)}
            progress(sum(task.rows for task in batch))
    return [shard for task in tasks for shard in done[task.number]]


def _batches(tasks: Sequence[AnyTask], in_flight: int) -> Iterator[Sequence[AnyTask]]:
    """Yields the tasks in order, several at a time while many are left per worker, and singly towards the end.

    A driver can only send and receive a limited number of batches per second, whatever their size.
    """
    first = 0
    while first < len(tasks):
        each = (len(tasks) - first) // (_BATCHES_LEFT * max(1, in_flight))
        size = max(1, min(_LARGEST_BATCH, each))
        yield tasks[first : first + size]
        first += size


def run_remotely(work: Callable[[], Result], *, gpu: bool = False) -> Result:
    """Returns the result of one piece of work on any node with room, with a `gpu` if the cluster has one.

    Raises the errors of `each_result`.
    """
    import ray

    gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0)) if gpu else 0.0
    with closing(each_result(lambda _: work(), [None], in_flight=1, gpus=gpus)) as results:
        return next(results)[1]


def each_result(
    worker: Callable[..., Result],
    items: Iterable[Item],
    *,
    in_flight: int,
    shared: Sequence[Any] = (),
    gpus: float = 0.0,
) -> Generator[tuple[Item, Result]]:
    """Yields every item with the result of `worker` as they finish; at most `in_flight` run at once.

    The same number waits in Ray, so that workers are not idle between polls. `shared` are further arguments of every
    call; their arrays are in memory once per node, read-only. Each call gets `gpus`. Closing the generator, or an
    exception, cancels the remaining calls. With `in_flight=0`, everything runs in this process, without Ray. Raises the
    exceptions of a worker, and `TransientFailure` if a worker is lost too often.
    """
    if not in_flight:
        yield from ((item, worker(item, *shared)) for item in items)
        return
    import ray

    def call(item: Item, *arguments: Any) -> Result:
        """A plain function, because Ray requires one and `worker` can be a partial."""
        return worker(item, *arguments)

    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(call)
    arguments = [ray.put(value) for value in shared]
    running: dict[ObjectRef, Item] = {}
    queue = iter(items)
    try:
        while True:
            for item in islice(queue, _AHEAD * in_flight - len(running)):
                running[remote.remote(item, *arguments)] = item
            if not running:
                break
            # Sleep between polls: a signal inside Ray's own code becomes a SystemError.
            time.sleep(_POLL_SECONDS)
            ready, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            for reference in ready:
                item = running.pop(reference)
                yield item, _result(reference)
    except SystemError as error:
        raise error.__cause__ or error.__context__ or error from None
    finally:
        _cancel(list(running))


def _cancel(references: "list[ObjectRef]") -> None:
    """Stops running calls: workers are interrupted, and killed if that does not end them.

    Waiting calls are cancelled first, so that no worker starts them. Workers are not killed at once: a worker that dies
    while its task is cancelled can crash the driver (a race in Ray's task manager between cancellation and retry, seen
    once with 2.60).
    """
    import ray

    for force in (False, True):
        for reference in reversed(references):
            ray.cancel(reference, force=force)
        if references:
            _, references = ray.wait(references, num_returns=len(references), timeout=_CANCEL_SECONDS)


def _result(reference: "ObjectRef") -> Any:
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise TransientFailure(
            f"a worker was lost and all retries failed ({type(error).__name__}): run the same command again"
        ) from error
