"""What every kind of place promises: files of a local disk (`disk`) and those of an object store (`bucket`).

Every other module names files by `Location`. On both a file appears under its name whole, or not at all.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

Version = Any
"""What tells whether a file is still the one that was seen; None where there was none."""


def checked_part(part: str) -> str:
    """Return `part` if it stays below the folder that it is taken in; raises `UserError` otherwise."""
    if not part or part.startswith("/") or ".." in part.split("/"):
        raise UserError(f"path {part!r} leads out of its folder: name one below it")
    return part


class Location(ABC):
    """One file or folder of a workspace, on a disk or in an object store.

    Locations can be pickled and compared; `str` gives the path or URI, by which DuckDB reads it too.
    """

    remote: bool
    """Whether it lies in an object store."""

    @abstractmethod
    def __truediv__(self, part: str) -> "Location":
        """What lies below this folder; raises `UserError` for a part that leads out of it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The last part of the path."""

    @property
    @abstractmethod
    def parent(self) -> "Location":
        """The folder in which this lies."""

    @abstractmethod
    def below(self, folder: "Location") -> str:
        """The path from a folder above to here."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether a file or folder lies here."""

    @abstractmethod
    def size(self) -> int:
        """Bytes of the file; -1 where there is none."""

    @abstractmethod
    def read(self) -> bytes:
        """The whole file; raises `RunFailure` where there is none."""

    @abstractmethod
    def opened(self, *, whole: bool = False) -> "pa.NativeFile":
        """The file for reading, here and there in it; `whole` says that all of it will be needed.

        Raises `OSError` where there is none.
        """

    def write(self, data: bytes) -> None:
        """Replace the file by `data` in one step."""
        with self.staged() as path:
            path.write_bytes(data)

    @abstractmethod
    def version(self) -> Version:
        """What tells this file from any later one; None where there is none."""

    @abstractmethod
    def write_over(self, data: bytes, seen: Version) -> None:
        """Replace the file by `data` in one step, if it is still that of version `seen` or holds `data` already.

        Raises `RunFailure` where another process has written it. On a disk only who holds the folder may call this.
        """

    @abstractmethod
    def remove(self) -> None:
        """Delete the file or folder, if it is there."""

    @abstractmethod
    def exchange(self, other: "Location") -> None:
        """Swap two folders in one step, so that each name holds a whole one at any moment.

        Raises `RunFailure` where that can't be done.
        """

    @abstractmethod
    def children(self) -> list[str]:
        """Names of what lies in this folder, sorted, without hidden ones; empty where there is no folder."""

    @abstractmethod
    def files(self, suffix: str) -> list[str]:
        """Paths from here to all files below whose names end so, sorted."""

    @abstractmethod
    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether files of these paths and sizes lie below."""

    @abstractmethod
    def staged(self) -> AbstractContextManager[Path]:
        """Yield a path on this machine's disk; on success what was written there takes this name, else it goes.

        A file that holds the same bytes already stays as it is.
        """

    @abstractmethod
    def exclusive(self, what: str, *, wait_seconds: float = 0.0) -> AbstractContextManager[None]:
        """Hold this folder alone; the hold ends with the process, however that ends.

        Raises `UserError` if another process still holds it after `wait_seconds`.
        """

    @abstractmethod
    def is_held(self) -> bool:
        """Whether a process holds this folder alone now; what one that ended left says nothing."""

    @abstractmethod
    def sweep(self) -> None:
        """Delete what writers that were killed left; only while holding the folder."""

    @abstractmethod
    def partials(self) -> Iterator["Location"]:
        """What writers at work, or that were killed, have beside their files.

        A folder below that was ever held by itself is left to its holder.
        """

    @abstractmethod
    def total_bytes(self) -> int:
        """Bytes of the file, or of all files in the folder."""

    @abstractmethod
    def changed(self) -> float:
        """When the file or folder was last written, as seconds since 1970; 0 where there is none."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Free bytes where this lies, or would lie; None where there is no such bound."""

    @abstractmethod
    def can_be_written(self) -> bool:
        """Whether anything can be made in this folder, as far as that is known without trying."""
