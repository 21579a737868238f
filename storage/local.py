"""Files of a disk, here or mounted: a name appears in one rename, after its bytes have reached the disk."""

import ctypes
import errno
import fcntl
import filecmp
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import RunFailure, UserError
from storage.location import Location, Version, checked_part

if TYPE_CHECKING:
    import pyarrow as pa

_LOCK = ".lock"
_GLANCE_SECONDS = 0.1
# Of Linux's renameat2: paths as they are, and two names that change places.
_HERE, _RENAME_EXCHANGE = -100, 2


@dataclass(frozen=True)
class LocalLocation(Location):
    """A file or folder by its path."""

    path: Path

    remote = False

    def __truediv__(self, part: str) -> "LocalLocation":
        return LocalLocation(self.path / checked_part(part))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.name

    @property
    def parent(self) -> "LocalLocation":
        """The folder in which this lies."""
        return LocalLocation(self.path.parent)

    def below(self, folder: Location) -> str:
        """The path from a folder above to here."""
        return self.path.relative_to(str(folder)).as_posix()

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

    def opened(self, *, whole: bool = False) -> "pa.NativeFile":
        """The file for reading, here and there in it; `whole` says that all of it will be needed."""
        import pyarrow as pa

        return pa.OSFile(str(self.path))

    def version(self) -> Version:
        """What tells this file from any later one; None where there is none."""
        return True if self.path.exists() else None

    def write_over(self, data: bytes, seen: Version) -> None:
        """Replace the file by `data` in one step, if it is still that of version `seen` or holds `data` already."""
        self.write(data)

    def remove(self) -> None:
        """Delete the file or folder, if it is there."""
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink(missing_ok=True)

    def exchange(self, other: Location) -> None:
        """Swap two folders in one step, so that each name holds a whole one at any moment."""
        swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        if not swap or swap(_HERE, os.fsencode(self.path), _HERE, os.fsencode(str(other)), _RENAME_EXCHANGE):
            why = os.strerror(ctypes.get_errno()) if swap else "not on this system"
            raise RunFailure(
                f"{self} and {other} can't be swapped in one step ({why}): move both to a local Linux disk"
            )
        _sync(self.path.parent)

    def children(self) -> list[str]:
        """Names of what lies in this folder, sorted, without hidden ones; empty where there is no folder."""
        try:
            return sorted(entry.name for entry in self.path.iterdir() if not entry.name.startswith("."))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, suffix: str) -> list[str]:
        """Paths from here to all files below whose names end so, sorted."""
        return sorted(
            path.relative_to(self.path).as_posix() for path in self.path.rglob(f"*{suffix}") if path.is_file()
        )

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether files of these paths and sizes lie below."""
        folder = str(self.path)
        try:
            return all(os.stat(f"{folder}/{checked_part(path)}").st_size == size for path, size in sizes.items())
        except OSError:
            return False

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
            refuse_full_disk(error, f"the disk is full while writing {self}")
            raise
        finally:
            beside.unlink(missing_ok=True)

    @contextmanager
    def exclusive(self, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold this folder alone; the hold ends with the process, however that ends."""
        self.path.mkdir(parents=True, exist_ok=True)
        # Who only asks whether it is held has it for microseconds.
        until = time.monotonic() + max(wait_seconds, _GLANCE_SECONDS)
        with open(self.path / _LOCK, "w") as file:
            while not try_lock(file.fileno()):
                if time.monotonic() >= until:
                    raise being_written(what)
                time.sleep(_GLANCE_SECONDS / 2)
            yield

    def is_held(self) -> bool:
        """Whether a process holds this folder alone now; what one that ended left says nothing."""
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
        """Delete what writers that were killed left; only while holding the folder."""
        for place in self.partials():
            place.remove()

    def partials(self) -> Iterator[Location]:
        """What writers at work, or that were killed, have beside their files."""
        for folder, below, names in os.walk(self.path):
            below[:] = [name for name in below if not Path(folder, name, _LOCK).exists()]
            for name in names:
                if name.startswith(".") and name.endswith(".partial"):
                    yield LocalLocation(Path(folder, name))

    def total_bytes(self) -> int:
        """Bytes of the file, or of all files in the folder."""
        if not self.path.is_dir():
            return max(0, self.size())
        return sum(
            max(0, LocalLocation(Path(folder, name)).size())
            for folder, _, names in os.walk(self.path)
            for name in names
        )

    def changed(self) -> float:
        """When the file or folder was last written, as seconds since 1970; 0 where there is none."""
        try:
            return self.path.stat().st_mtime
        except OSError:
            return 0.0

    def free_bytes(self) -> int | None:
        """Free bytes where this lies, or would lie; None where there is no such bound."""
        path = self.path
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free

    def for_arrow(self) -> "tuple[pa.fs.FileSystem | None, str]":
        """Arrow's file system of this folder, for reading and writing, and its path in it; None is a disk's."""
        return None, str(self.path)

    def can_be_written(self) -> bool:
        """Whether anything can be made in this folder, as far as that is known without trying."""
        return os.access(self.path, os.W_OK)

    def on_this_machine(self) -> "LocalLocation":
        """A folder of this machine for what can't lie elsewhere: this one, or its own one in the user's cache."""
        if not self.path.exists() or self.can_be_written():
            return self
        return cached(f"file-{self.name}", str(self))


def try_lock(file: int) -> bool:
    """Lock an open file against other processes until it is closed; False where another one has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def being_written(what: str) -> UserError:
    """What is told to the second of two who want to write the same."""
    return UserError(f"{what} is being written by another process: wait for it to end, or choose another name")


def refuse_full_disk(error: OSError, text: str) -> None:
    """Raise `RunFailure` with the remedy if an error says that the disk is full."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise RunFailure(f"{text}: free some space and run the same command again") from error


def cache_folder() -> Path:
    """Where this user's processes keep what can be made anew; raises `UserError` where none can be made."""
    place = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numerate"
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{place} can't be made ({error.strerror}): set XDG_CACHE_HOME to a folder of yours") from error
    return place


def cached(name: str, whole: str) -> LocalLocation:
    """A folder in the user's cache for what lies at a place that is called `name`, and `whole` with all its parts."""
    place = cache_folder() / "workspaces" / f"{name}-{sha256(whole.encode()).hexdigest()[:16]}"
    # Prefect makes its home in it, but no folder above.
    place.mkdir(parents=True, exist_ok=True)
    return LocalLocation(place)


def this_machine() -> str:
    """A name for this machine as it runs now, and for those who share its cache folder."""
    place = LocalLocation(cache_folder()) / "machine"
    if not place.exists():
        place.write(uuid.uuid4().hex.encode())
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{place.read().decode()}-{boot.read_text().strip() if boot.exists() else uuid.getnode()}"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
