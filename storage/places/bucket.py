"""Files of an object store (S3, Google Cloud Storage, Azure): uploaded whole and committed by conditional writes.

A file is written to a local disk first and appears under its name after the upload is complete. Writes that could race
with another writer are conditional, so that only one of them succeeds.
"""

import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import xxhash
from obstore.exceptions import AlreadyExistsError, PreconditionError

from storage.errors import RunFailure, UserError
from storage.places.disk import cache_folder, refuse_full_disk
from storage.places.lease import is_leased, leased, refuse_lost
from storage.places.links import lock_below
from storage.places.object import RangedFile, StoredObject, version_of
from storage.places.place import Location, Version
from storage.places.stores import credentials_of, translated_errors, with_retries

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore import ObjectMeta

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# Characters that need no escaping in a URI and are no glob pattern for DuckDB.
_KEY_PART = re.compile(r"[A-Za-z0-9._=+~-]+")
_PART_BYTES = 8 << 20
_UPLOADS_AT_ONCE = 4
# Up to this many files are checked with one request each; for more files, the folder is listed.
_MOST_REQUESTS = 16
# Object attribute that stores the content hash, to skip needless uploads.
_DIGEST = "xxh3"


@dataclass(frozen=True)
class ObjectLocation(StoredObject, Location):
    """An object, or all objects below a prefix; `Location` documents the methods."""

    remote = True

    @classmethod
    def of(cls, scheme: str, rest: str, what: str) -> "ObjectLocation":
        """Returns the location for `rest`, the part of a URI after its scheme; raises `UserError` for an invalid one.

        A URI that may contain credentials is not repeated in the message.
        """
        bucket, _, key = rest.partition("/")
        if "@" in rest or "?" in rest or "#" in rest or ":" in bucket:
            raise UserError(
                f"{what} {scheme}://…: a URI must not contain credentials or options: write {scheme}://BUCKET/PREFIX, "
                f"and set {credentials_of(scheme)} in the environment"
            )
        parts = [part for part in key.split("/") if part]
        if not _BUCKET.fullmatch(bucket) or any(not _KEY_PART.fullmatch(part) or not part.strip(".") for part in parts):
            raise UserError(
                f"{what} {scheme}://{rest!r} is not usable: write {scheme}://BUCKET/PREFIX "
                "with letters, digits and . _ - = + ~"
            )
        return cls(scheme, bucket, "/".join(parts))

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> "ObjectLocation":
        return replace(self, key=self.key.rpartition("/")[0])

    def exists(self) -> bool:
        return self.meta() is not None or next(self._all(), None) is not None

    def size(self) -> int:
        meta = self.meta()
        return meta["size"] if meta else -1

    def opened(self, *, whole: bool = False) -> "pa.NativeFile":
        """Opens the file for random access; with `whole`, downloads it at once."""
        import pyarrow as pa

        if whole:
            return pa.BufferReader(self.content())
        with translated_errors(str(self)):
            return pa.PythonFile(RangedFile(self, obstore.head(self.store, self.key)), mode="r")

    def write(self, data: bytes) -> None:
        """Replaces the file atomically; an object with the same bytes is not uploaded again."""
        self._upload(data, len(data), xxhash.xxh3_128_hexdigest(data))

    def version(self) -> Version:
        meta = self.meta()
        return version_of(meta) if meta else None

    def write_if_unchanged(self, data: bytes, version: Version) -> None:
        """Replaces the file by a conditional write; raises `RunFailure` if another process has written it."""
        refuse_lost(self)
        digest = {_DIGEST: xxhash.xxh3_128_hexdigest(data)}
        try:
            with_retries(
                str(self), lambda: obstore.put(self.store, self.key, data, mode=version or "create", attributes=digest)
            )
        except (AlreadyExistsError, PreconditionError):
            # This also happens if a response was lost and the library retried.
            if self.size() != len(data) or self.content() != data:
                raise RunFailure(
                    f"{self} was written by another process in the meantime: check the file, then run "
                    "the same command again or choose another name"
                ) from None

    def remove(self) -> None:
        """Deletes the object and all objects below it."""
        keys = [meta["path"] for meta in self._all()]
        # A prefix is not an object, and Google and Azure refuse to delete its key.
        keys += [self.key] if self.meta() else []
        # Check after listing: a process that was suspended must not delete files of its successor.
        refuse_lost(self)
        try:
            with_retries(str(self), lambda: obstore.delete(self.store, keys))
        except FileNotFoundError:
            # An object is already deleted: by another process, or by a request of ours whose response was lost.
            for key in keys:
                with suppress(FileNotFoundError):
                    with_retries(str(self), partial(obstore.delete, self.store, [key]))

    def children(self) -> list[str]:
        with translated_errors(str(self)):
            listed = obstore.list_with_delimiter(self.store, self.key or None)
        paths = [*listed["common_prefixes"], *(meta["path"] for meta in listed["objects"])]
        names = (path.rpartition("/")[2] for path in paths)
        return sorted(name for name in names if not name.startswith("."))

    def sizes(self) -> dict[str, int]:
        start = len(self.key) + 1 if self.key else 0
        return {meta["path"][start:]: meta["size"] for meta in self._all()}

    def holds(self, sizes: Mapping[str, int]) -> bool:
        if len(sizes) <= _MOST_REQUESTS:
            return all((self / path).size() == size for path, size in sizes.items())
        existing = self.sizes()
        return all(existing.get(path) == size for path, size in sizes.items())

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Yields a path on this machine's disk; on success the file is uploaded, and its local copy is always deleted.

        An object with the same bytes is not uploaded again. Raises `RunFailure` if the disk is full.
        """
        folder = cache_folder() / "staged"
        path, handle = folder / f"{uuid.uuid4().hex}.partial", None
        try:
            # The lock shows `sweep` that the writer is alive.
            handle = lock_below(folder, path)
            yield path
            digest = xxhash.xxh3_128()
            with open(path, "rb") as file:
                while chunk := file.read(_PART_BYTES):
                    digest.update(chunk)
            self._upload(path, path.stat().st_size, digest.hexdigest())
        except OSError as error:
            refuse_full_disk(error, f"the disk is full at {folder} while writing {self}")
            raise
        finally:
            path.unlink(missing_ok=True)
            if handle is not None:
                os.close(handle)

    def exclusive(self, what: str, *, wait_seconds: float = 0.0) -> AbstractContextManager[None]:
        """Holds this folder by a lease; after a crash, other machines wait until the lease expires."""
        return leased(self, what, wait_seconds)

    def is_locked(self) -> bool:
        """Whether a lease on this folder is valid; a lease that was not released counts until it expires."""
        return is_leased(self)

    def sweep(self) -> None:
        """Deletes what killed writers left on this machine's disk; the store contains no partial files."""
        folder = cache_folder() / "staged"
        for path in folder.glob("*.partial"):
            with suppress(OSError):
                if (handle := lock_below(folder, path)) is not None:
                    path.unlink(missing_ok=True)
                    os.close(handle)

    def changed(self) -> float:
        meta = self.meta()
        times = [meta["last_modified"]] if meta else [below["last_modified"] for below in self._all()]
        return max((time.timestamp() for time in times), default=0.0)

    def _upload(self, data: bytes | Path, size: int, digest: str) -> None:
        """Uploads a file unless the object already has the same bytes."""
        refuse_lost(self)
        if self._is(size, digest):
            return
        try:
            with_retries(
                str(self),
                lambda: obstore.put(
                    self.store,
                    self.key,
                    data,
                    attributes={_DIGEST: digest},
                    chunk_size=_PART_BYTES,
                    max_concurrency=_UPLOADS_AT_ONCE,
                ),
            )
        except FileNotFoundError:
            # The response to the last request of the upload was lost, so its upload ID no longer exists.
            if not self._is(size, digest):
                raise

    def _is(self, size: int, digest: str) -> bool:
        """Whether the object exists with this size and hash."""
        try:
            with translated_errors(str(self)):
                result = obstore.get(self.store, self.key, options={"head": True})
        except FileNotFoundError:
            return False
        return result.meta["size"] == size and result.attributes.get(_DIGEST) == digest

    def _all(self) -> Iterator["ObjectMeta"]:
        """Metadata of all objects below."""
        with translated_errors(str(self)):
            for metas in obstore.list(self.store, self.key or None):
                yield from metas
