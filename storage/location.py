"""Where a workspace's files lie, and the only place that writes them: whole, synced, or not at all.

Every other module names files by `Location`; a file appears under its final name in one
rename, after its bytes have reached the disk.
"""

import ctypes
import errno
import fcntl
import filecmp
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from storage.errors import RunFailure, UserError

_LOCK = ".lock"
_GLANCE_SECONDS = 0.1
# Of Linux's renameat2: paths as they are, and two names that change places.
_HERE, _RENAME_EXCHANGE = -100, 2
_LONGEST_SHOWN = 60
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def checked_name(name: str, what: str) -> str:
    """Return `name` if it can name a folder and a SQL view; raises `UserError` otherwise."""
    if not _NAME.fullmatch(name):
        shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
        raise UserError(
            f"{what} name {shown!r} is not usable: take lower-case letters, digits, '-' and '_', "
            "64 at most, beginning with a letter or a digit"
        )
    return name


@dataclass(frozen=True)
class Location:
    """One file or folder of a workspace."""

    path: Path

    @classmethod
    def parse(cls, uri: str, what: str = "workspace") -> "Location":
        """Read a path or a `file://` URI; raises `UserError` for any other scheme."""
        scheme, separator, rest = uri.partition("://")
        if separator and scheme != "file":
            raise UserError(f"{what} {uri!r}: the scheme {scheme!r} is not supported, use a local path or file://")
        if not (rest if separator else uri).strip():
            raise UserError(f"{what} '': the path is empty, name a folder")
        return cls(Path(rest if separator else uri).expanduser().absolute())

    def __truediv__(self, part: str) -> "Location":
        return Location(self.path / part)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    def exists(self) -> bool:
        """Whether a file or folder lies here."""
        return self.path.exists()

    def size(self) -> int:
        """Bytes of the file; -1 where there is none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return -1

    def read(self) -> bytes:
        """The whole file; raises `RunFailure` where there is none."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise RunFailure(f"{self} can't be read ({error.strerror}): run what made it again") from error

    def write(self, data: bytes) -> None:
        """Replace the file by `data` in one step."""
        with self.staged() as path:
            path.write_bytes(data)

    def remove(self) -> None:
        """Delete the file or folder, if it is there."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def exchange(self, other: "Location") -> None:
        """Swap two folders in one step, so that each name holds a whole one at any moment; Linux alone can.

        Raises `RunFailure` where the system or the disk can't.
        """
        swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if not swap or swap(_HERE, bytes(self.path), _HERE, bytes(other.path), _RENAME_EXCHANGE):
            why = os.strerror(ctypes.get_errno()) if swap else "not on this system"
            raise RunFailure(
                f"{self} and {other} can't be swapped in one step ({why}): move both to a local Linux disk"
            )
        _sync(self.path.parent)

    def children(self) -> list[str]:
        """Names of what lies in this folder, sorted; empty where there is no folder."""
        try:
            return sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Yield a path beside this one; on success its bytes are synced and take this name, else they go.

        A file that holds the same bytes already stays as it is.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.parent / f".{self.path.name}.{uuid.uuid4().hex}.partial"
        try:
            yield beside
            if not (self.path.is_file() and filecmp.cmp(beside, self.path, shallow=False)):
                _sync(beside)
                os.replace(beside, self.path)
                _sync(self.path.parent)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise RunFailure(
                    f"the disk is full while writing {self}: free some space and run the same command again"
                ) from error
            raise
        finally:
            beside.unlink(missing_ok=True)

    @contextmanager
    def exclusive(self, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold this folder alone; the hold ends with the process, however that ends.

        Raises `UserError` if another process still holds it after `wait_seconds`.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        # Who only asks whether it is held has it for microseconds.
        until = time.monotonic() + max(wait_seconds, _GLANCE_SECONDS)
        with open(self.path / _LOCK, "w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= until:
                        raise UserError(
                            f"{what} is being written by another process: wait for it to end, or choose another name"
                        ) from None
                    time.sleep(_GLANCE_SECONDS / 2)
            yield

    def is_held(self) -> bool:
        """Whether a process holds this folder alone now; the lock file that one left says nothing."""
        try:
            handle = os.open(self.path / _LOCK, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def sweep(self) -> None:
        """Delete what writers that were killed left beside their files; only while holding the folder."""
        for place in self.partials():
            place.remove()

    def partials(self) -> Iterator["Location"]:
        """What writers at work, or that were killed, have beside their files.

        A folder below that was ever held by itself is left to its holder.
        """
        for folder, below, names in os.walk(self.path):
            below[:] = [name for name in below if not Path(folder, name, _LOCK).exists()]
            for name in names:
                if name.startswith(".") and name.endswith(".partial"):
                    yield Location(Path(folder, name))

    def total_bytes(self) -> int:
        """Bytes of the file, or of all files in the folder."""
        if not self.path.is_dir():
            return max(0, self.size())
        return sum(
            max(0, Location(Path(folder, name)).size()) for folder, _, names in os.walk(self.path) for name in names
        )

    def changed(self) -> float:
        """When the file or folder was last written, as seconds since 1970; 0 where there is none."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def free_bytes(self) -> int:
        """Free bytes on the disk that holds, or would hold, this location."""
        path = self.path
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


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
        """Folder of a corpus of any workspace: a path or a `file://` URI, if there is a slash in it, else a name."""
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
    def catalog(self) -> Location:
        """The DuckDB file with views over the workspace."""
        return self.root / "catalog.duckdb"
