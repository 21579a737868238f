"""Many tasks over Ray, a bounded number in flight; the one file here that knows Ray.

Each finished task leaves a small note beside the shards, so that a killed run goes on with
what is missing. Ray has to be initialised by the caller.
"""

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from storage.datasets.manifest import ShardRecord
from storage.errors import TransientFailure
from storage.places.place import Location

_POLL_SECONDS = 0.02
_CANCEL_SECONDS = 5.0
# Tasks that Ray holds for each that can run: a tenth more rows a second than one.
_AHEAD = 2
# Tasks of one call, at most, and calls that have to be left for each worker where it is of several.
_LARGEST_BATCH = 16
_BATCHES_LEFT = 64
# Notes that are read at once: in an object store each costs a request or two.
_READERS = 16
_READ_AHEAD = 10_000
# Of one task, after its worker was killed; what a worker raises is never tried again.
_RETRIES = 10


class Task(Protocol):
    """A unit of work: its number, unique in the fan-out, its size in rows, and the shards that it may write."""

    @property
    def number(self) -> int:
        """Number of the task in its fan-out."""
        ...

    @property
    def rows(self) -> int:
        """Rows that it adds."""
        ...

    @property
    def paths(self) -> list[str]:
        """Paths, below the dataset's folder, of the shards that it may write."""
        ...


Item = TypeVar("Item")
Result = TypeVar("Result")
AnyTask = TypeVar("AnyTask", bound=Task)
Worker = Callable[[AnyTask], list[ShardRecord]]
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Notes:
    """Which tasks of a dataset are done, one small file each; valid for one fingerprint only."""

    folder: Location
    fingerprint: str

    def _place(self, number: int) -> Location:
        return self.folder / ".progress" / f"{number:06d}.json"

    def write(self, number: int, shards: list[ShardRecord]) -> None:
        """Note that a task is done."""
        value = {"fingerprint": self.fingerprint, "shards": [shard._asdict() for shard in shards]}
        self._place(number).write(json.dumps(value).encode())

    def numbers(self) -> set[int]:
        """Numbers of the tasks that were noted, for whatever fingerprint."""
        names = (self.folder / ".progress").children()
        return {int(name.removesuffix(".json")) for name in names if name.endswith(".json")}

    def read(self, number: int) -> list[ShardRecord] | None:
        """The shards of a noted task, if it was done for this fingerprint and they still lie there, else None."""
        place = self._place(number)
        try:
            value = json.loads(place.read()) if place.exists() else None
            if value is None or value["fingerprint"] != self.fingerprint:
                return None
            shards = [ShardRecord(**shard) for shard in value["shards"]]
        except (ValueError, RecursionError, LookupError, TypeError):
            # Damaged: its task is done again.
            return None
        return shards if self.folder.holds({shard.path: shard.bytes for shard in shards}) else None

    def read_all(self, numbers: set[int]) -> dict[int, list[ShardRecord]]:
        """Of these tasks the ones that are done, with their shards."""
        noted, found = sorted(numbers & self.numbers()), dict[int, list[ShardRecord]]()
        with ThreadPoolExecutor(_READERS) as readers:
            for first in range(0, len(noted), _READ_AHEAD):
                some = noted[first : first + _READ_AHEAD]
                for number, shards in zip(some, readers.map(self.read, some), strict=True):
                    if shards is not None:
                        found[number] = shards
        return found

    def adopt(self, shards: Sequence[ShardRecord], tasks: Sequence[Task]) -> None:
        """Note the tasks whose shards a manifest names, so that only those that lie there no more are made again."""
        by_path = {shard.path: shard for shard in shards}
        for task in tasks if by_path else ():
            if written := [by_path[path] for path in task.paths if path in by_path]:
                self.write(task.number, written)

    def clear(self) -> None:
        """Forget everything; done after the manifest is committed."""
        (self.folder / ".progress").remove()


def make_shards(
    worker: Worker[AnyTask],
    tasks: Sequence[AnyTask],
    notes: Notes,
    *,
    in_flight: int,
    progress: Progress,
    found: Progress | None = None,
) -> list[ShardRecord]:
    """Run `worker` on all tasks that aren't noted as done; shards in the tasks' order.

    `progress` is called with the rows that a task added, `found` (by default the same) with those that were done
    before. Raises what `each_result` raises.
    """
    done = notes.read_all({task.number for task in tasks})
    if done:
        (found or progress)(sum(task.rows for task in tasks if task.number in done))
    missing = [task for task in tasks if task.number not in done]

    def work(batch: Sequence[AnyTask]) -> list[list[ShardRecord]]:
        """What a worker does: each task's shards, and then the note that they are there."""
        made = []
        for task in batch:
            # Noted already where another worker was lost over the rest of the batch.
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
    """The tasks in order, several at once as long as many are left for each worker, and one by one towards the end.

    A driver sends and takes back only so many batches a second, whatever lies in them.
    """
    first = 0
    while first < len(tasks):
        each = (len(tasks) - first) // (_BATCHES_LEFT * max(1, in_flight))
        size = max(1, min(_LARGEST_BATCH, each))
        yield tasks[first : first + size]
        first += size


def alone(work: Callable[[], Result], *, gpu: bool = False) -> Result:
    """What one piece of work gives that is done on whichever node has room, with a `gpu` if the cluster has any.

    Raises what `each_result` raises.
    """
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
    """Every item with what `worker` makes of it, as they are done; at most `in_flight` at once.

    As many again wait in Ray, lest a worker idles until this process looks. `shared` are further arguments of
    every call; their arrays lie in memory once for all workers, read-only. Each call has `gpus`. Close it to cancel
    the others, as an exception does. With none `in_flight` all is done here, without Ray. Raises what a worker
    raised, and `TransientFailure` where one was lost too often.
    """
    if not in_flight:
        yield from ((item, worker(item, *shared)) for item in items)
        return

    def call(item: Item, *arguments: Any) -> Result:
        """A plain function, which Ray asks for, where the worker may be a partial one."""
        return worker(item, *arguments)

    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_RETRIES)(call)
    arguments = [ray.put(value) for value in shared]
    running: dict[ray.ObjectRef, Item] = {}
    queue = iter(items)
    try:
        while True:
            for item in islice(queue, _AHEAD * in_flight - len(running)):
                running[remote.remote(item, *arguments)] = item
            if not running:
                break
            # Asleep most of the time: a signal that lands inside Ray's own code becomes a SystemError.
            time.sleep(_POLL_SECONDS)
            ready, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            for reference in ready:
                item = running.pop(reference)
                yield item, _result(reference)
    except SystemError as error:
        raise error.__cause__ or error.__context__ or error from None
    finally:
        _cancel(list(running))


def _cancel(references: list[ray.ObjectRef]) -> None:
    """Stop what still runs: workers are interrupted, and those that don't end by that are killed.

    What waits behind them goes first, lest a worker that ends takes it up. Not killed at once: a worker that dies
    while its task is cancelled can take the driver with it (a race in Ray's task manager, seen once with 2.60,
    between cancelling a task and trying it again).
    """
    for force in (False, True):
        for reference in reversed(references):
            ray.cancel(reference, force=force)
        if references:
            _, references = ray.wait(references, num_returns=len(references), timeout=_CANCEL_SECONDS)


def _result(reference: ray.ObjectRef) -> Any:
    try:
        return ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise TransientFailure(
            f"a worker was lost and retries failed ({type(error).__name__}): run the command again"
        ) from error
