"""Many tasks over Ray, a bounded number in flight; the one file here that knows Ray.

Each finished task leaves a small note beside the shards, so that a killed run goes on with
what is missing. Ray has to be initialised by the caller.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError

from storage.errors import RunFailure
from storage.location import Location
from storage.manifest import ShardRecord

_POLL_SECONDS = 0.02
_CANCEL_SECONDS = 5.0


class Task(Protocol):
    """A unit of work: its number, unique in the fan-out, its size in rows, and the shards that it may write."""

    @property
    def number(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def paths(self) -> list[str]: ...


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
        value = {"fingerprint": self.fingerprint, "shards": [shard.model_dump() for shard in shards]}
        self._place(number).write(json.dumps(value).encode())

    def read(self, number: int) -> list[ShardRecord] | None:
        """The shards of a task that was done for this fingerprint and still lie there in full, else None."""
        if not self._place(number).exists():
            return None
        try:
            value = json.loads(self._place(number).read())
        except json.JSONDecodeError:
            return None
        if value["fingerprint"] != self.fingerprint:
            return None
        shards = [ShardRecord(**shard) for shard in value["shards"]]
        whole = all((self.folder / shard.path).size() == shard.bytes for shard in shards)
        return shards if whole else None

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
    worker: Worker[AnyTask], tasks: Sequence[AnyTask], notes: Notes, *, in_flight: int, progress: Progress
) -> list[ShardRecord]:
    """Run `worker` on all tasks that aren't noted as done; shards in the tasks' order.

    `progress` is called with the rows that a task added. Raises what a task raised, after the
    others in flight have been cancelled.
    """
    done: dict[int, list[ShardRecord]] = {}
    missing = []
    for task in tasks:
        shards = notes.read(task.number)
        if shards is None:
            missing.append(task)
        else:
            done[task.number] = shards
            progress(task.rows)

    def work(task: AnyTask) -> list[ShardRecord]:
        shards = worker(task)
        notes.write(task.number, shards)
        return shards

    remote = ray.remote(num_cpus=1, max_retries=3)(work)
    running: dict[ray.ObjectRef, AnyTask] = {}
    queue = deque(missing)
    try:
        while True:
            while queue and len(running) < in_flight:
                task = queue.popleft()
                running[remote.remote(task)] = task
            if not running:
                break
            # Asleep most of the time: a signal that lands inside Ray's own code becomes a SystemError.
            time.sleep(_POLL_SECONDS)
            ready, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            for reference in ready:
                ended = running.pop(reference)
                done[ended.number] = _result(reference)
                progress(ended.rows)
    except SystemError as error:
        raise error.__cause__ or error.__context__ or error from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=_CANCEL_SECONDS)
    return [shard for task in tasks for shard in done[task.number]]


def _result(reference: ray.ObjectRef) -> list[ShardRecord]:
    try:
        shards: list[ShardRecord] = ray.get(reference)
    except RayTaskError as error:
        raise error.cause from None
    except RayError as error:
        raise RunFailure(
            f"a worker was lost and retries failed ({type(error).__name__}): run the command again"
        ) from error
    return shards
