"""The interface of every storage location, implemented for local disks (`disk`) and object stores (`bucket`).

All other modules name files by `Location`. On both backends a file appears under its name completely or not at all.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import RunFailure, UserError

if TYPE_CHECKING:
    import pyarrow as pa

Version = Any
"""Identifies the version of a file; None if the file does not exist."""


def checked_part(part: str) -> str:
    """Returns `part` if it stays below its folder; raises `UserError` otherwise."""
    if not part or part.startswith("/") or ".." in part.split("/"):
        raise UserError(f"path {part!r} leads out of its folder: name one below it")
    return part


class Location(ABC):
    """One file or folder of a workspace, on a disk or in an object store.

    Locations can be pickled and compared. `str` returns the path or URI, which DuckDB can read too.
    """

    remote: bool
    """Whether the location is in an object store."""

    @abstractmethod
    def __truediv__(self, part: str) -> "Location":
        """Returns a path below this folder; raises `UserError` for a part that leads out of it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the path."""

    @property
    @abstractmethod
    def parent(self) -> "Location":
        """The folder that contains this location."""

    def below(self, folder: "Location") -> str:
        """Returns the path relative to `folder`, which must be a parent."""
        return str(self).removeprefix(f"{folder}/")

    @abstractmethod
    def exists(self) -> bool:
        """Whether a file or folder exists here."""

    @abstractmethod
    def size(self) -> int:
        """Size in bytes; -1 if the file does not exist."""

    def read(self) -> bytes:
        """Reads the whole file; raises `RunFailure` if it cannot be read."""
        try:
            return self.content()
        except OSError as error:
            raise RunFailure(
                f"{self} can't be read ({error.strerror}): run the command that created it again"
            ) from error

    @abstractmethod
    def content(self) -> bytes:
        """Reads the whole file; raises `OSError` if it cannot be read."""

    @abstractmethod
    def opened(self, *, whole: bool = False) -> "pa.NativeFile":
        """Opens the file for random access; `whole` announces that all of it will be read.

        Raises `OSError` if the file does not exist.
        """

    def write(self, data: bytes) -> None:
        """Replaces the file by `data` atomically."""
        with self.staged() as path:
            path.write_bytes(data)

    @abstractmethod
    def version(self) -> Version:
        """Returns the current version of the file; None if it does not exist."""

    @abstractmethod
    def write_if_unchanged(self, data: bytes, version: Version) -> None:
        """Replaces the file by `data` atomically if its version is still `version` or it already contains `data`.

        Raises `RunFailure` if another process has written the file. On a disk, the caller must hold the folder.
        """

    @abstractmethod
    def remove(self) -> None:
        """Deletes the file or folder if it exists."""

    def exchange(self, other: "Location") -> None:
        """Swaps two folders atomically, so that both names always refer to a complete folder.

        Raises `RunFailure` if the storage does not support this.
        """
        raise RunFailure(f"{self} and {other} can't be swapped in one step in an object store: use a local disk")

    @abstractmethod
    def children(self) -> list[str]:
        """Sorted names of the folder's entries without hidden ones; empty if the folder does not exist."""

    @abstractmethod
    def sizes(self) -> dict[str, int]:
        """Sizes in bytes of all files below this folder, by relative path."""

    def files(self, suffix: str) -> list[str]:
        """Sorted relative paths of all files below this folder whose names end with `suffix`."""
        return sorted(path for path in self.sizes() if path.endswith(suffix))

    @abstractmethod
    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether files with these relative paths and sizes exist below this folder."""

    @abstractmethod
    def staged(self) -> AbstractContextManager[Path]:
        """Yields a temporary path on a local disk; on success its content becomes this file, otherwise it is discarded.

        A file with the same bytes is not rewritten.
        """

    @abstractmethod
    def exclusive(self, what: str, *, wait_seconds: float = 0.0) -> AbstractContextManager[None]:
        """Locks this folder for the block; the lock ends with the process, even after a crash.

        Raises `UserError` if another process still holds the folder after `wait_seconds`.
        """

    @abstractmethod
    def is_locked(self) -> bool:
        """Whether a running process holds this folder; the lock file of an ended process does not count."""

    def sweep(self) -> None:
        """Deletes files that killed writers left; call it only while holding the folder."""
        for file in self.partials():
            file.remove()

    def partials(self) -> Iterator["Location"]:
        """Yields the temporary files of running or killed writers; object stores have none.

        Sub-folders that have a lock of their own are skipped.
        """
        yield from ()

    def total_bytes(self) -> int:
        """Size of the file, or of all files in the folder, in bytes."""
        return max(0, self.size()) + sum(self.sizes().values())

    @abstractmethod
    def changed(self) -> float:
        """Time of the last write in seconds since 1970; 0 if the location does not exist."""

    def free_bytes(self) -> int | None:
        """Free bytes on this location's storage; None if the storage has no limit."""
        return None

    def can_be_written(self) -> bool:
        """Whether the folder seems writable, as far as this is known without a write."""
        return True
