"""Files of a disk, here or mounted: a name appears in one rename, after its bytes have reached the disk."""

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
_GLANCE_SECONDS = 0.1
# Of Linux's renameat2: two names that change places.
_RENAME_EXCHANGE = 2


@dataclass(frozen=True)
class LocalLocation(Location):
    """A file or folder by its path.

    `root` is the folder that a person named, by default this one. Below it no symbolic link is followed: what a link
    stands for counts as missing, with a warning, and can't be read, written or held.
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
        """The last part of the path."""
        return self.path.name

    @property
    def parent(self) -> "LocalLocation":
        """The folder in which this lies."""
        return LocalLocation(self.path.parent, None if self.path == self._root else self._root)

    def below(self, folder: Location) -> str:
        """The path from a folder above to here."""
        return self.path.relative_to(str(folder)).as_posix()

    def exists(self) -> bool:
        """Whether a file or folder lies here."""
        return self._stat() is not None

    def size(self) -> int:
        """Bytes of the file; -1 where there is none."""
        found = self._stat()
        return found.st_size if found else -1

    def read(self) -> bytes:
        """The whole file; raises `RunFailure` where there is none."""
        try:
            with open(open_below(self._root, self.path), "rb") as file:
                return file.read()
        except OSError as error:
            raise RunFailure(f"{self} can't be read ({error.strerror}): run what made it again") from error

    def opened(self, *, whole: bool = False) -> "pa.NativeFile":
        """The file for reading, here and there in it; `whole` says that all of it will be needed."""
        import pyarrow as pa

        try:
            handle = open_below(self._root, self.path)
        except LinkError as error:
            raise OSError(errno.ELOOP, "a symbolic link is not followed", str(self.path)) from error
        try:
            # The file that is open, by a name of its own.
            return pa.OSFile(f"/dev/fd/{handle}")
        finally:
            os.close(handle)

    def version(self) -> Version:
        """What tells this file from any later one; None where there is none."""
        return True if self.exists() else None

    def write_over(self, data: bytes, seen: Version) -> None:
        """Replace the file by `data` in one step, if it is still that of version `seen` or holds `data` already."""
        self.write(data)

    def remove(self) -> None:
        """Delete the file or folder, if it is there; of a link the link alone."""
        remove_below(self._root, self.path)

    def exchange(self, other: Location) -> None:
        """Swap two folders in one step, so that each name holds a whole one at any moment."""
        assert isinstance(other, LocalLocation)
        swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
        with self.parent._opened_folder() as here, other.parent._opened_folder() as there:
            names = os.fsencode(self.name), os.fsencode(other.name)
            if not swap or swap(here, names[0], there, names[1], _RENAME_EXCHANGE):
                why = os.strerror(ctypes.get_errno()) if swap else "not on this system"
                raise RunFailure(
                    f"{self} and {other} can't be swapped in one step ({why}): move both to a local Linux disk"
                )
        _sync(self.path.parent)

    def children(self) -> list[str]:
        """Names of what lies in this folder, sorted, without hidden ones; empty where there is no folder."""
        found = self._stat()
        if found is None or not stat.S_ISDIR(found.st_mode):
            return []
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and _is_plain(entry))

    def files(self, suffix: str) -> list[str]:
        """Paths from here to all files below whose names end so, sorted."""
        return sorted(path.relative_to(self.path).as_posix() for path in self._walk() if path.name.endswith(suffix))

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether files of these paths and sizes lie below."""
        sizes_of: dict[str, dict[str, int]] = {}
        for path, size in sizes.items():
            folder, _, name = checked_part(path).rpartition("/")
            sizes_of.setdefault(folder, {})[name] = size
        return all((self / folder if folder else self)._holds_here(found) for folder, found in sizes_of.items())

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Yield a path beside this one; on success its bytes are synced and take this name, else they go.

        A file that holds the same bytes already stays as it is.
        """
        beside = self.path.parent / f".{self.path.name}.{uuid.uuid4().hex}.partial"
        try:
            with self.parent._opened_folder(make=True) as folder:
                yield beside
                if not (self._is_file() and filecmp.cmp(beside, self.path, shallow=False)):
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
        """Hold this folder alone; the hold ends with the process, however that ends."""
        # Who only asks whether it is held has it for microseconds.
        until = time.monotonic() + max(wait_seconds, _GLANCE_SECONDS)
        while (handle := self._lock()) is None:
            if time.monotonic() >= until:
                raise being_written(what)
            time.sleep(_GLANCE_SECONDS / 2)
        try:
            yield
        finally:
            os.close(handle)

    def is_held(self) -> bool:
        """Whether a process holds this folder alone now; what one that ended left says nothing."""
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

    def sweep(self) -> None:
        """Delete what writers that were killed left; only while holding the folder."""
        for place in self.partials():
            place.remove()

    def partials(self) -> Iterator[Location]:
        """What writers at work, or that were killed, have beside their files."""
        for path in self._walk(into_held=False):
            if path.name.startswith(".") and path.name.endswith(".partial"):
                yield LocalLocation(path, self._root)

    def total_bytes(self) -> int:
        """Bytes of the file, or of all files in the folder."""
        return self.size() if self._is_file() else sum(self._walk().values())

    def changed(self) -> float:
        """When the file or folder was last written, as seconds since 1970; 0 where there is none."""
        found = self._stat()
        return found.st_mtime if found else 0.0

    def free_bytes(self) -> int | None:
        """Free bytes where this lies, or would lie; None where there is no such bound."""
        path = self.path
        while not path.exists():
            path = path.parent
        return shutil.disk_usage(path).free

    def can_be_written(self) -> bool:
        """Whether anything can be made in this folder, as far as that is known without trying."""
        return os.access(self.path, os.W_OK)

    @property
    def _root(self) -> Path:
        return self.root or self.path

    def _stat(self) -> os.stat_result | None:
        """What the system says of it; None for what is missing, behind a link, or neither file nor folder."""
        try:
            found = stat_below(self._root, self.path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except LinkError as error:
            _warn(str(error))
            return None
        return found if stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode) else None

    def _is_file(self) -> bool:
        found = self._stat()
        return found is not None and stat.S_ISREG(found.st_mode)

    def _opened_folder(self, *, make: bool = False) -> AbstractContextManager[int]:
        return folder_below(self._root, self.path, make=make)

    def _lock(self) -> int | None:
        """A handle that holds this folder; None where another process holds it."""
        try:
            return lock_below(self._root, self.path / _LOCK)
        except PermissionError as error:
            if not (self.path / _LOCK).exists():
                raise
            raise UserError(
                f"{error.filename} can't be locked ({error.strerror}): its owner has to run 'chmod a+r' on it"
            ) from error

    def _holds_here(self, sizes: Mapping[str, int]) -> bool:
        """Whether files of these names and sizes lie in this folder."""
        try:
            with self._opened_folder() as folder:
                found = {name: os.stat(name, dir_fd=folder, follow_symlinks=False) for name in sizes}
        except (OSError, LinkError):
            return False
        return all(stat.S_ISREG(found[name].st_mode) and found[name].st_size == size for name, size in sizes.items())

    def _walk(self, *, into_held: bool = True) -> dict[Path, int]:
        """All regular files below with their sizes; not `into_held` leaves out folders that have a lock."""
        found: dict[Path, int] = {}
        for folder, below, names in os.walk(self.path) if self._stat() else ():
            below[:] = [name for name in below if into_held or not Path(folder, name, _LOCK).exists()]
            for path in (Path(folder, name) for name in names):
                # It may be gone by now.
                with suppress(FileNotFoundError):
                    if stat.S_ISREG((seen := path.lstat()).st_mode):
                        found[path] = seen.st_size
        return found


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


def _is_plain(entry: "os.DirEntry[str]") -> bool:
    """Whether it is a file or a folder, and no link to one."""
    if entry.is_symlink():
        _warn(f"{entry.path} is a symbolic link, and none is followed here: it is left out")
    return entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)


@lru_cache(maxsize=256)
def _warn(text: str) -> None:
    """Say it once a process."""
    _LOG.warning("%s", text)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
