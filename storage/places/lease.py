"""The exclusive right to write a folder of an object store: an object that its holder renews and that expires.

All changes of a lease are conditional writes. A process that takes over a lease measures its age by the store's clock.
On the same machine a file lock shows at once that the holder has ended; other machines wait for the expiry.
"""

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import obstore
from obstore.exceptions import AlreadyExistsError, PreconditionError

from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation, being_written, cache_folder, this_machine
from storage.places.object import StoredObject, version_of
from storage.places.place import Version
from storage.places.stores import store_of, translated_errors, with_retries

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_LOCK = ".lock"
_EXPIRE_SECONDS = 30.0
_RENEW_SECONDS = 5.0
# A holder that cannot renew for this long gives up, well before the lease expires for others.
_GIVE_UP_SECONDS = 20.0
_POLL_SECONDS = 1.0

_held: list["Lease"] = []


@contextmanager
def leased(folder: StoredObject, what: str, wait_seconds: float) -> Iterator[None]:
    """Holds a folder for the block; raises `UserError` if another process still holds it after `wait_seconds`."""
    until = time.monotonic() + wait_seconds
    here = LocalLocation(cache_folder()) / "locks" / sha256(str(folder).encode()).hexdigest()
    lease = Lease(folder, what)
    with here.exclusive(what, wait_seconds=wait_seconds):
        while not lease.take():
            if time.monotonic() >= until:
                raise being_written(what)
            time.sleep(_POLL_SECONDS)
        with lease.kept():
            yield


def is_leased(folder: StoredObject) -> bool:
    """Whether a process holds the folder; a lease that was not released counts until it expires.

    Uses this machine's clock, because the store's clock can only be read with write permission.
    """
    current = Lease(folder, "").read()
    return current is not None and current[0].get("owner") != "" and time.time() - current[2] <= _EXPIRE_SECONDS


def refuse_lost(target: StoredObject) -> None:
    """Raises `RunFailure` if `target` is in a folder whose lease this process has lost."""
    for lease in _held:
        if target.is_in(lease.folder) and not lease.holds():
            raise RunFailure(
                f"{lease.what} could not be kept locked ({lease.folder} did not respond for {_GIVE_UP_SECONDS:.0f} s, "
                "or another process took the lock): run the same command again, it continues where this one ended"
            )


class Lease:
    """The right to write one folder."""

    def __init__(self, folder: StoredObject, what: str) -> None:
        self.folder, self.what = folder, what
        self._object, self._owner = folder / _LOCK, uuid.uuid4().hex
        self._count, self._renewed, self._taken_over = 0, 0.0, False
        self._version: Version = None
        self._ended, self._one_at_a_time = threading.Event(), threading.Lock()

    def holds(self) -> bool:
        """Whether this process still holds the folder; renews the lease first if that is uncertain."""
        if _now() - self._renewed > _GIVE_UP_SECONDS:
            # This process may have been suspended.
            self._renew()
        return not self._taken_over and _now() - self._renewed <= _GIVE_UP_SECONDS

    def take(self) -> bool:
        """Tries once to take the folder; returns whether it succeeded."""
        if self._write(None):
            return True
        if (current := self.read()) is None:
            return False
        value, version, written = current
        free = value.get("owner") in ("", self._owner) or value.get("machine") == this_machine()
        return (free or self.has_expired(written)) and self._write(version)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renews the lease during the block and releases it afterwards."""
        renewer = threading.Thread(target=self._renew_on_time, daemon=True)
        _held.append(self)
        renewer.start()
        try:
            yield
        finally:
            self._ended.set()
            renewer.join()
            _held.remove(self)
            # If the folder was deleted or taken over, or the store does not respond, there is nothing to release.
            with suppress(UserError, RunFailure):
                current = self.read()
                if current and current[0].get("owner") == self._owner:
                    self._owner = ""
                    self._write(current[1])

    def _renew_on_time(self) -> None:
        while not self._ended.wait(_RENEW_SECONDS):
            self._renew()

    def _renew(self) -> None:
        # A failed request is repeated at the next renewal.
        with self._one_at_a_time, suppress(UserError, RunFailure):
            self._taken_over = self._taken_over or not self._write(self._version)

    def _write(self, expected: Version) -> bool:
        """Writes the lease if the object still has version `expected`; returns whether this process holds it now."""
        began = _now()
        self._count += 1
        value = {"owner": self._owner, "machine": this_machine(), "count": self._count}
        data = json.dumps(value).encode()
        try:
            made = with_retries(
                str(self._object),
                lambda: obstore.put(self._store, self._object.key, data, mode=expected or "create"),
            )
            self._version = version_of(made)
        except (AlreadyExistsError, PreconditionError, FileNotFoundError):
            # Another process took the lease or deleted its folder; some stores answer "not found" then. Or the response
            # to our own write was lost; no other process writes this owner.
            current = self.read()
            if not current or current[0].get("owner") != self._owner:
                return False
            self._version = current[1]
        self._renewed = began
        return True

    def read(self) -> tuple[dict[str, Any], Version, float] | None:
        """Content, version and time of the lease object; None if it does not exist."""
        try:
            with translated_errors(str(self._object)):
                result = obstore.get(self._store, self._object.key)
                meta, data = result.meta, result.bytes().to_bytes()
        except FileNotFoundError:
            return None
        try:
            value = json.loads(data)
        except ValueError:
            value = {}
        return value, version_of(meta), meta["last_modified"].timestamp()

    def has_expired(self, written: float) -> bool:
        """Whether the lease has expired by the store's clock."""
        clock = self.folder / f"{_LOCK}-{self._owner}"
        with_retries(str(clock), lambda: obstore.put(self._store, clock.key, b""))
        meta = clock.meta()
        # A repeated request may find no object, because the first response was lost.
        with suppress(FileNotFoundError):
            with_retries(str(clock), lambda: obstore.delete(self._store, clock.key))
        return meta is not None and meta["last_modified"].timestamp() - written > _EXPIRE_SECONDS

    @property
    def _store(self) -> "ObjectStore":
        return store_of(self.folder.scheme, self.folder.bucket, quick=True)


def _now() -> float:
    """Seconds of a clock that continues while the machine sleeps, like the store's clock."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
