"""Opens and locks files below a folder without following symbolic links.

In a shared workspace, another user can create a link that leads out of it. The root folder itself may be reached
through links, because the user named it. Every further part of a path is opened relative to the already opened parent
folder, so no link can be swapped in between a check and its use.
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

# O_PATH needs no permission to list the folder.
_FOLDER = os.O_DIRECTORY | os.O_CLOEXEC | getattr(os, "O_PATH", os.O_RDONLY)
# Without O_NONBLOCK, opening a named pipe would block.
_FILE = os.O_CLOEXEC | os.O_NONBLOCK


class LinkError(RunFailure):
    """The path of a workspace file contains a symbolic link."""


@contextmanager
def folder_below(root: Path, path: Path, *, make: bool = False) -> Iterator[int]:
    """Opens the folder `path`, which is `root` or below it; `make` creates missing folders.

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
    """Opens the regular file `path`, which is `root` or below it, for reading; returns a file descriptor.

    Raises `LinkError` for a link below `root`, and `OSError`, also for a pipe, device or folder.
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
    """Returns the status of the file or folder `path`, which is `root` or below it.

    Raises `LinkError` for a link below `root`, and `OSError`.
    """
    if path == root:
        return os.stat(path)
    with folder_below(root, path.parent) as folder, _explained(folder, path):
        status = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        return status


def remove_below(root: Path, path: Path) -> None:
    """Deletes the file, folder tree or symbolic link `path` if it exists.

    Raises `LinkError` for a link in the path before its last part, and `OSError`.
    """
    above = path.parent if path == root else root
    with suppress(FileNotFoundError), folder_below(above, path.parent) as folder, _explained(folder, path):
        if stat.S_ISDIR(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
            shutil.rmtree(path.name, dir_fd=folder)
        else:
            os.unlink(path.name, dir_fd=folder)


def lock_below(root: Path, path: Path) -> int | None:
    """Locks the file `path` below `root`; returns a descriptor that holds the lock until it is closed.

    Returns None if another process holds the lock. Creates a missing file and never changes its content. Every user
    with write permission for the folder can lock the file, whatever the creator's umask. Raises `LinkError` for a link
    below `root`, and `OSError`.
    """
    while True:
        with folder_below(root, path.parent, make=True) as folder, _explained(folder, path):
            handle = _opened_or_made(folder, path.name)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return None
            # Another process may have replaced the file between open and lock.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), os.stat(path.name, dir_fd=folder, follow_symlinks=False)):
                    return handle
            os.close(handle)


def _opened_or_made(folder: int, name: str) -> int:
    """Opens a file for locking and creates it if it is missing."""
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
                # On a local file system, a lock needs no write permission.
                return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | _FILE, dir_fd=folder)


@contextmanager
def _explained(folder: int, path: Path) -> Iterator[None]:
    """Adds the full path to errors of the block; raises `LinkError` if `path`, an entry of `folder`, is a link."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            with suppress(OSError):
                if stat.S_ISLNK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise LinkError(
                        f"{path} is a symbolic link, which is not followed in a workspace: replace it with the file or "
                        "folder itself, or with a mount of the other disk"
                    ) from None
        raise OSError(error.errno, error.strerror, str(path)) from error
