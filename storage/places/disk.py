"""Files on a local or mounted disk: a file appears by one rename, after its bytes have reached the disk."""

import ctypes
import errno
import fcntl
import filecmp
import logging
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from storage.errors import RunFailure, UserError
from storage.places.links import LinkError, folder_below, lock_below, open_below, remove_below, stat_below
from storage.places.place import Location, Version, checked_part

if TYPE_CHECKING:
    import pyarrow as pa

_LOG = logging.getLogger(__name__)
_LOCK = ".lock"
_LOCK_TEST_SECONDS = 0.1
# Flag of Linux's renameat2: swap the two names.
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class LocalLocation(Location):
    """A file or folder on a disk; `Location` documents the methods.

    `root` is the folder that the user named, by default this location. No symbolic link below it is followed. A link
    counts as missing, logs a warning, and cannot be read, written or locked.
    """

    path: Path
    root: Path | None = field(default=None, compare=False, repr=False)

    remote = False

    def __truediv__(self, part: str) -> "LocalLocation":
        return LocalLocation(self.path / checked_part(part), self._root)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def parent(self) -> "LocalLocation":
        return LocalLocation(self.path.parent, None if self.path == self._root else self._root)

    def exists(self) -> bool:
        return self._stat() is not None

    def size(self) -> int:
        status = self._stat()
        return status.st_size if status and stat.S_ISREG(status.st_mode) else -1

    def content(self) -> bytes:
        with open(open_below(self._root, self.path), "rb") as file:
            return file.read()

    def opened(self, *, whole: bool = False) -> "pa.NativeFile":
        """Opens the file for random access; raises `OSError` if it does not exist or is a link."""
        import pyarrow as pa

        try:
            handle = open_below(self._root, self.path)
        except LinkError as error:
            raise OSError(errno.ELOOP, "symbolic links are not followed", str(self.path)) from error
        try:
            # Opens the same file again with a descriptor of its own.
            return pa.OSFile(f"/dev/fd/{handle}")
        finally:
            os.close(handle)

    def version(self) -> Version:
        """Returns True if the file exists, otherwise None; a disk does not number versions."""
        return True if self.exists() else None

    def write_if_unchanged(self, data: bytes, version: Version) -> None:
        """Replaces the file by `data` atomically; `version` is not checked, because the caller holds the folder."""
        self.write(data)

    def remove(self) -> None:
        """Deletes the file or folder if it exists; deletes a link, not its target."""
        remove_below(self._root, self.path)

    def exchange(self, other: Location) -> None:
        """Swaps two folders atomically; raises `RunFailure` if the system or disk does not support this."""
        assert isinstance(other, LocalLocation)
        swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        with self.parent._opened_folder() as here, other.parent._opened_folder() as there:
            names = os.fsencode(self.name), os.fsencode(other.name)
            if not swap or swap(here, names[0], there, names[1], _RENAME_EXCHANGE):
                why = os.strerror(ctypes.get_errno()) if swap else "not supported by this system"
                raise RunFailure(
                    f"{self} and {other} can't be swapped in one step ({why}): move both to a local Linux disk"
                )
        _sync(self.path.parent)

    def children(self) -> list[str]:
        status = self._stat()
        if status is None or not stat.S_ISDIR(status.st_mode):
            return []
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_plain(entry))

    def sizes(self) -> dict[str, int]:
        return {path.relative_to(self.path).as_posix(): size for path, size in self._walk().items()}

    def holds(self, sizes: Mapping[str, int]) -> bool:
        sizes_of: dict[str, dict[str, int]] = {}
        for path, size in sizes.items():
            folder, _, name = checked_part(path).rpartition("/")
            sizes_of.setdefault(folder, {})[name] = size
        return all((self / folder if folder else self)._has_files(inside) for folder, inside in sizes_of.items())

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Yields a path in the same folder; on success the file is synced and renamed, otherwise it is deleted.

        A file with the same bytes is not rewritten. The caller writes by path. If somebody replaces the folder by a
        link meanwhile, the temporary file is in the link's target until it is deleted; no other file there changes.
        Raises `RunFailure` if the disk is full.
        """
        beside = self.path.parent / f".{self.path.name}.{uuid.uuid4().hex}.partial"
        try:
            with self.parent._opened_folder(make=True) as folder:
                yield beside
                if not (self.size() >= 0 and filecmp.cmp(beside, self.path, shallow=False)):
                    _sync(beside)
                    os.replace(beside.name, self.name, src_dir_fd=folder, dst_dir_fd=folder)
                    _sync(self.path.parent)
        except OSError as error:
            refuse_full_disk(error, f"the disk is full while writing {self}")
            raise
        finally:
            beside.unlink(missing_ok=True)

    @contextmanager
    def exclusive(self, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
        """Locks this folder for the block; raises `UserError` if it is still locked after `wait_seconds`."""
        # `is_locked` takes the lock for microseconds, so a short retry is always needed.
        until = time.monotonic() + max(wait_seconds, _LOCK_TEST_SECONDS)
        while (handle := self._lock()) is None:
            if time.monotonic() >= until:
                raise being_written(what)
            time.sleep(_LOCK_TEST_SECONDS / 2)
        try:
            yield
        finally:
            os.close(handle)

    def is_locked(self) -> bool:
        try:
            handle = open_below(self._root, self.path / _LOCK)
        except (OSError, LinkError):
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def partials(self) -> Iterator[Location]:
        for path in self._walk(into_locked=False):
            if path.name.startswith(".") and path.name.endswith(".partial"):
                yield LocalLocation(path, self._root)

    def changed(self) -> float:
        status = self._stat()
        return status.st_mtime if status else 0.0

    def free_bytes(self) -> int | None:
        """Free bytes of the disk that contains this location, even if it does not exist yet."""
        path = self.path
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free

    def can_be_written(self) -> bool:
        return os.access(self.path, os.W_OK)

    @property
    def _root(self) -> Path:
        return self.root or self.path

    def _stat(self) -> os.stat_result | None:
        """Status of the file or folder; None if it is missing, reached through a link, or of another kind."""
        try:
            status = stat_below(self._root, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except LinkError as error:
            _warn(str(error))
            return None
        return status if stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode) else None

    def _opened_folder(self, *, make: bool = False) -> AbstractContextManager[int]:
        return folder_below(self._root, self.path, make=make)

    def _lock(self) -> int | None:
        """Returns a descriptor that locks this folder; None if another process holds it."""
        try:
            return lock_below(self._root, self.path / _LOCK)
        except PermissionError as error:
            if not (self.path / _LOCK).exists():
                raise
            raise UserError(
                f"{error.filename} can't be locked ({error.strerror}): its owner must run 'chmod a+r' on it"
            ) from error

    def _has_files(self, sizes: Mapping[str, int]) -> bool:
        """Whether files with these names and sizes exist in this folder."""
        try:
            with self._opened_folder() as folder:
                statuses = {name: os.stat(name, dir_fd=folder, follow_symlinks=False) for name in sizes}
        except (OSError, LinkError):
            return False
        return all(stat.S_ISREG(status.st_mode) and status.st_size == sizes[name] for name, status in statuses.items())

    def _walk(self, *, into_locked: bool = True) -> dict[Path, int]:
        """Sizes of all regular files below; `into_locked=False` skips folders with a lock file."""
        sizes: dict[Path, int] = {}
        for folder, below, names in os.walk(self.path) if self._stat() else ():
            below[:] = [name for name in below if into_locked or not Path(folder, name, _LOCK).exists()]
            for path in (Path(folder, name) for name in names):
                # The file may have been deleted since.
                with suppress(FileNotFoundError):
                    if stat.S_ISREG((status := path.lstat()).st_mode):
                        sizes[path] = status.st_size
        return sizes


def local_path(text: str, what: str) -> Path:
    """Returns the absolute path for the user's text and expands `~`; `what` names it in error messages.

    Raises `UserError` for invalid characters, an unknown home, or a deleted working directory.
    """
    try:
        possible = b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise UserError(f"{what} {text!r} contains a character that is not valid in a path: choose another path")
    try:
        return Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise UserError(
            f"{what} {text!r}: {Path(text).parts[0]} is not a user's home on this machine: write the full path"
        ) from error
    except FileNotFoundError as error:
        raise UserError(f"{what} {text!r}: the working directory was deleted: change to another first") from error


def being_written(what: str) -> UserError:
    """The error for a process that finds the folder locked by another writer."""
    return UserError(f"{what} is being written by another process: wait for it to end, or choose another name")


def refuse_full_disk(error: OSError, text: str) -> None:
    """Raises `RunFailure` with a remedy if `error` reports a full disk or quota."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        raise RunFailure(f"{text}: free some space and run the same command again") from error


def cache_folder() -> Path:
    """This user's folder for files that can be rebuilt; raises `UserError` if it cannot be created."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numerate"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} can't be created ({error.strerror}): set XDG_CACHE_HOME to a folder that you can write"
        ) from error
    return folder


def cached(name: str, root: str) -> LocalLocation:
    """A cache folder for the workspace `root` (full path or URI), named by `name` and a hash of `root`."""
    folder = cache_folder() / "workspaces" / f"{name}-{sha256(root.encode()).hexdigest()[:16]}"
    # Prefect creates its home here, but no parent folders.
    folder.mkdir(parents=True, exist_ok=True)
    return LocalLocation(folder)


def this_machine() -> str:
    """Identifies this cache folder and the current boot of this machine."""
    file = LocalLocation(cache_folder()) / "machine"
    if not file.exists():
        file.write(uuid.uuid4().hex.encode())
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{file.read().decode()}-{boot.read_text().strip() if boot.exists() else uuid.getnode()}"


def _is_plain(entry: "os.DirEntry[str]") -> bool:
    """Whether the entry is a file or folder and no symbolic link."""
    if entry.is_symlink():
        _warn(f"{entry.path} is a symbolic link, which is not followed in a workspace: it is ignored")
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


@lru_cache(maxsize=256)
def _warn(text: str) -> None:
    """Logs a warning once per process."""
    _LOG.warning("%s", text)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
