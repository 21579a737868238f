"""Where a workspace's files lie: what every kind of place promises, and the names below a workspace.

Every other module names files by `Location`. Files of a local disk are in `storage.local`, those of an
object store in `storage.objects`; on both a file appears under its name whole, or not at all.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

    from storage.local import LocalLocation

OBJECT_STORES = ("s3", "gs", "az")

_LONGEST_SHOWN = 60
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")

Version = Any
"""What tells whether a file is still the one that was seen; None where there was none."""


def is_name(text: str) -> bool:
    """Whether a text can name a folder of a workspace and a SQL view."""
    return bool(_NAME.fullmatch(text))


def checked_name(name: str, what: str) -> str:
    """Return `name` if it can name a folder and a SQL view; raises `UserError` otherwise."""
    if not is_name(name):
        shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
        raise UserError(
            f"{what} name {shown!r} is not usable: take lower-case letters, digits, '-' and '_', "
            "64 at most, beginning with a letter or a digit"
        )
    return name


def checked_part(part: str) -> str:
    """Return `part` if it stays below the folder that it is taken in; raises `UserError` otherwise."""
    if not part or part.startswith("/") or ".." in part.split("/"):
        raise UserError(f"path {part!r} leads out of its folder: name one below it")
    return part


def local_path(text: str, what: str) -> Path:
    """The absolute path that a person wrote, where `~` is a home; `what` names it in an error.

    Raises `UserError` for one that no file can have, and where the working directory was deleted.
    """
    try:
        possible = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise UserError(f"{what} {text!r} holds a character that no path can have: name another")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(f"{what} {text!r}: {Path(text).parts[0]} is no user's home here: write the path out") from error
    except FileNotFoundError as error:
        raise UserError(f"{what} {text!r}: the working directory was deleted: go to another one first") from error


class Location(ABC):
    """One file or folder of a workspace, on a disk or in an object store.

    Locations can be pickled and compared; `str` gives the path or URI, by which DuckDB reads it too.
    """

    remote: bool
    """Whether it lies in an object store."""

    @staticmethod
    def parse(uri: str, what: str = "workspace") -> "Location":
        """Read a folder's path or URI.

        Raises `UserError` for a scheme that isn't known, for credentials in a URI, and for a path of a file.
        """
        scheme, separator, rest = uri.partition("://")
        if separator and scheme in OBJECT_STORES:
            from storage.objects import ObjectLocation

            return ObjectLocation.of(scheme, rest, what)
        if separator and scheme != "file":
            # Not the whole URI, in which there may be a password.
            raise UserError(
                f"{what} {scheme}://…: the scheme {scheme!r} is not supported, use a local path, file://, "
                f"{', '.join(f'{name}://' for name in OBJECT_STORES)}"
            )
        if not (rest if separator else uri).strip():
            raise UserError(f"{what} '': the path is empty, name a folder")
        from storage.local import LocalLocation

        path = local_path(rest if separator else uri, what)
        if path.is_file():
            raise UserError(f"{what} {path} is a file: name a folder")
        return LocalLocation(path)

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
    def for_arrow(self) -> "tuple[pa.fs.FileSystem | None, str]":
        """Arrow's file system of this folder, for reading and writing, and its path in it; None is a disk's."""

    @abstractmethod
    def can_be_written(self) -> bool:
        """Whether anything can be made in this folder, as far as that is known without trying."""

    @abstractmethod
    def on_this_machine(self) -> "LocalLocation":
        """A folder of this machine for what can't lie elsewhere: this one, or its own one in the user's cache."""


@dataclass(frozen=True)
class Workspace:
    """The folder that holds everything: corpora, tokenizers, runs and the SQL catalog."""

    root: Location

    @classmethod
    def open(cls, uri: str = "./workspace") -> "Workspace":
        """Name a workspace without touching it."""
        return cls(Location.parse(uri))

    @classmethod
    def create(cls, uri: str = "./workspace") -> "Workspace":
        """Name a workspace and make sure that it can be written; raises `UserError` otherwise."""
        workspace = cls.open(uri)
        try:
            (workspace.root / ".writable").write(b"")
        except OSError as error:
            raise UserError(
                f"workspace {workspace.root} can't be written ({error.strerror}): name another with --workspace"
            ) from error
        (workspace.root / ".writable").remove()
        return workspace

    def corpus(self, name: str) -> Location:
        """Folder of a corpus."""
        return self.root / "corpora" / checked_name(name, "corpus")

    def corpus_at(self, name: str) -> Location:
        """Folder of a corpus of any workspace: a path or a URI, if there is a slash in it, else a name."""
        return Location.parse(name, "corpus") if "/" in name else self.corpus(name)

    def tokenizer(self, name: str) -> Location:
        """Folder of a tokenizer."""
        return self.root / "tokenizers" / checked_name(name, "tokenizer")

    def tokens(self, corpus: str, tokenizer: str) -> Location:
        """Folder of a corpus's token rows."""
        return self.corpus(corpus) / "tokens" / checked_name(tokenizer, "tokenizer")

    def run(self, name: str) -> Location:
        """Folder of a training run."""
        return self.root / "runs" / checked_name(name, "run")

    def comparison(self, name: str) -> Location:
        """Folder of what several runs are compared by."""
        return self.root / "comparisons" / checked_name(name, "comparison")

    @property
    def catalog(self) -> "LocalLocation":
        """The DuckDB file with views over the workspace; DuckDB opens such a file on a disk only."""
        return self.root.on_this_machine() / "catalog.duckdb"
