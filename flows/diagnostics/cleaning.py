"""Finds files in a workspace that are no longer needed, and removes them if no process uses them.

The best and the last checkpoint of a run, and folders that another process holds, are never touched.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field

from flows.cli.terminal import printable
from flows.common.progress import counted
from flows.diagnostics.inventory import entries_of
from model.runs.checkpoints import Checkpoints
from model.runs.run_config import load_run
from storage.datasets.manifest import committed, unused_lists
from storage.errors import RunFailure, UserError
from storage.places.disk import being_written
from storage.places.place import Location
from storage.workspace import Workspace

# A running writer writes more often than this.
_KILLED_SECONDS = 600.0

Waste = tuple[Location, str, Callable[[], None]]
"""A file or folder, the reason why it is not needed, and the function that removes it."""


@dataclass(frozen=True)
class Removed:
    """A file or folder that was removed, or would be with a dry run."""

    path: str
    bytes: int
    reason: str


@dataclass
class Cleaning:
    """Result of a cleaning, as `--json` prints it; `left` has one message per folder that was skipped."""

    dry_run: bool
    removed: list[Removed] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.removed)

    def json(self) -> str:
        return json.dumps({**asdict(self), "bytes": self.bytes}, indent=2)


def clean(workspace: Workspace, run: str = "", *, dry_run: bool = False) -> Cleaning:
    """Remove files that are no longer needed from one run, or from the whole workspace.

    Raises `UserError` if the run does not exist or is being trained.
    """
    result = Cleaning(dry_run)
    if run:
        folder = workspace.run(run)
        load_run(folder)
        _clean_folder(workspace.root, folder, f"run {run!r}", _waste_of_run, result)
        return result
    for folder, subject, find in _folders(workspace):
        try:
            _clean_folder(workspace.root, folder, subject, find, result)
        except (UserError, RunFailure) as error:
            result.left.append(str(error))
    _remove(workspace.root, _incomplete_files(workspace.root), result)
    return result


def print_cleaning(result: Cleaning) -> None:
    """Print one line per removed file and a total; skipped folders are printed to standard error."""
    verb = "would remove" if result.dry_run else "removed"
    for file in result.removed:
        print(f"{verb} {printable(str(file.path))}: {file.bytes:,} bytes, {file.reason}")
    for text in result.left:
        print(f"skipped: {printable(text)}", file=sys.stderr)
    print(f"{verb} {counted(len(result.removed), 'item')}, {result.bytes:,} bytes in total")


def _folders(workspace: Workspace) -> Iterator[tuple[Location, str, Callable[[Location], Iterator[Waste]]]]:
    for run in entries_of(workspace.root / "runs"):
        yield run, f"run {run.name!r}", _waste_of_run
    for corpus in entries_of(workspace.root / "corpora"):
        yield corpus, f"corpus {corpus.name!r}", _waste_of_dataset
        for tokens in entries_of(corpus / "tokens"):
            yield tokens, f"the tokens of corpus {corpus.name!r}", _waste_of_dataset


def _clean_folder(
    root: Location, folder: Location, subject: str, find: Callable[[Location], Iterator[Waste]], result: Cleaning
) -> None:
    """Clean one folder while no other process writes to it."""
    # `.launch` is held from before the first worker starts until the last one has ended.
    held = [folder, launch] if (launch := folder / ".launch").exists() else [folder]
    with ExitStack() as locks:
        for path in held:
            if not result.dry_run:
                locks.enter_context(path.exclusive(subject))
            elif path.is_locked():
                raise being_written(subject)
        _remove(root, find(folder), result)


def _remove(root: Location, waste: Iterator[Waste], result: Cleaning) -> None:
    files = list(waste)
    result.removed += [Removed(path.below(root), path.total_bytes(), reason) for path, reason, _ in files]
    for _, _, remove in files:
        if not result.dry_run:
            remove()


def _waste_of_run(folder: Location) -> Iterator[Waste]:
    checkpoints = Checkpoints(folder / "checkpoints")
    for path in checkpoints.prunable():
        yield path, "a checkpoint that is neither best nor last", checkpoints.prune
    if (launch := folder / ".launch").exists():
        yield launch, "left over from a training that was killed", launch.remove
    yield from _incomplete_files(folder)


def _waste_of_dataset(folder: Location) -> Iterator[Waste]:
    if committed(folder):
        committed_at = (folder / "manifest.json").changed()
        if (notes := folder / ".progress").exists():
            yield notes, "progress notes of a dataset that is complete", notes.remove
        for listed in (folder / name for name in sorted(unused_lists(folder))):
            yield listed, "a list of shards that the manifest does not use", listed.remove
        for path in entries_of(folder / ".subsets"):
            if path.changed() < committed_at:
                yield path, "row counts of an older version of the dataset", path.remove
    yield from _incomplete_files(folder)


def _incomplete_files(folder: Location) -> Iterator[Waste]:
    for path in folder.partials():
        if time.time() - path.changed() > _KILLED_SECONDS:
            yield path, "an incomplete file of a process that was killed", path.remove
