"""Files below a folder, opened and locked without following symbolic links.

Whoever can write in a shared workspace can plant a link that leads out of it. The folder itself may be reached by
links, because a person named it. Every step below it starts from the open folder before it, so that no link can be
swapped in between a check and its use.
"""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from storage.errors import RunFailure

# Only for steps and names: O_PATH needs no right to list the folder.
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# A named pipe would block otherwise.
_FILE = os.O_CLOEXEC | os.O_NONBLOCK


class LinkError(RunFailure):
    """A symbolic link on the way to a file of a workspace."""


@contextmanager
def folder_below(root: Path, path: Path, *, make: bool = False) -> Iterator[int]:
    """The open folder `path`, which is `root` or lies below it; `make` makes what is missing.

    Raises `LinkError` for a link below `root`, and `OSError`.
    """
    if make:
        root.mkdir(parents=True, exist_ok=True)
    handle, here = os.open(root, _FOLDER), root
    try:
        for part in path.relative_to(root).parts:
            here = here / part
            with _explained(handle, here):
                try:
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
                except FileNotFoundError:
                    if not make:
                        raise
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=handle)
                    inner = os.open(part, _FOLDER | os.O_NOFOLLOW, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)


def open_below(root: Path, path: Path) -> int:
    """A handle for reading the file `path`, which is `root` or lies below it; no pipe, device or folder is opened.

    Raises `LinkError` for a link below `root`, and `OSError`.
    """
    if path == root:
        handle = os.open(path, os.O_RDONLY | _FILE)
    else:
        with folder_below(root, path.parent) as folder, _explained(folder, path):
            handle = os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW | _FILE, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return handle


def stat_below(root: Path, path: Path) -> os.stat_result:
    """What the system says of the file or folder `path`, which is `root` or lies below it.

    Raises `LinkError` for a link below `root`, and `OSError`.
    """
    if path == root:
        return os.stat(path)
    with folder_below(root, path.parent) as folder, _explained(folder, path):
        found = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return found


def remove_below(root: Path, path: Path) -> None:
    """Delete the file, the folder with all below it, or the link `path` itself, if it is there.

    Raises `LinkError` for a link above it, and `OSError`.
    """
    above = path.parent if path == root else root
    with suppress(FileNotFoundError), folder_below(above, path.parent) as folder, _explained(folder, path):
        if stat.S_ISDIR(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(path.name, dir_fd=folder)
        else:
            os.unlink(path.name, dir_fd=folder)


def lock_below(root: Path, path: Path) -> int | None:
    """A handle on the file `path` below `root`, locked against other processes until it is closed.

    None where another process has it. The file is made if it is missing, and is never changed. Whoever may write in
    its folder may lock it, whatever the umask of the process that made it. Raises `LinkError` for a link below `root`,
    and `OSError`.
    """
    while True:
        with folder_below(root, path.parent, make=True) as folder, _explained(folder, path):
            handle = _opened_or_made(folder, path.name)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return None
            # Between the two calls another process may have put another file there.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path.name, dir_fd=folder, follow_symlinks=False)):
                    return handle
            os.close(handle)


def _opened_or_made(folder: int, name: str) -> int:
    """A handle on a file for locking it."""
    while True:
        try:
            handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o600, dir_fd=folder)
            above = os.stat(".", dir_fd=folder)
            with suppress(OSError):
                os.fchown(handle, -1, above.st_gid)
            os.fchmod(handle, above.st_mode & 0o666 | 0o600)
            return handle
        except FileExistsError:
            pass
        with suppress(FileNotFoundError):
            try:
                return os.open(name, os.O_RDWR | os.O_NOFOLLOW | _FILE, dir_fd=folder)
            except PermissionError:
                # Of a disk here a lock needs no right to write.
                return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | _FILE, dir_fd=folder)


@contextmanager
def _explained(folder: int, path: Path) -> Iterator[None]:
    """Errors of the block name all of `path`, whose last part is in `folder`; raises `LinkError` where it is a link."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            with suppress(OSError):
                if stat.S_ISLNK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise LinkError(
                        f"{path} is a symbolic link, and none is followed here: put the file or folder itself there "
                        "(one on another disk by a mount)"
                    ) from None
        raise OSError(error.errno, error.strerror, str(path)) from error
