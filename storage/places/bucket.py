"""Files of an object store (S3, Google Cloud Storage, Azure): uploaded whole, and committed under a condition.

A file is written on this machine's disk first and appears under its name when all of it has been uploaded.
Where two writers could meet, a write is made on the condition that nobody was faster.
"""

import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
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
from storage.places.place import Location, Version, checked_part
from storage.places.stores import credentials_of, insisted, told

if TYPE_CHECKING:
    import pyarrow as pa
    from obstore import ObjectMeta

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# What stands in a URI as it is, and is no pattern for DuckDB.
_KEY_PART = re.compile(r"[A-Za-z0-9._=+~-]+")
_PART_BYTES = 8 << 20
_UPLOADS_AT_ONCE = 4
# Files that are looked for by themselves; of more, all of the folder are listed.
_ASKED_ONE_BY_ONE = 16
# What an object's bytes are compared by before they are uploaded again.
_DIGEST = "xxh3"


@dataclass(frozen=True)
class ObjectLocation(StoredObject, Location):
    """An object, or all objects below a prefix."""

    remote = True

    @classmethod
    def of(cls, scheme: str, rest: str, what: str) -> "ObjectLocation":
        """The location that a URI names, `rest` standing behind its scheme; raises `UserError` for any that can't be.

        What is refused is not repeated: there may be a key in it.
        """
        bucket, _, key = rest.partition("/")
        if "@" in rest or "?" in rest or "#" in rest or ":" in bucket:
            raise UserError(
                f"{what} {scheme}://…: a URI holds no credentials and no options: name it {scheme}://BUCKET/PREFIX, "
                f"and set {credentials_of(scheme)} in the environment"
            )
        parts = [part for part in key.split("/") if part]
        if not _BUCKET.fullmatch(bucket) or any(not _KEY_PART.fullmatch(part) or not part.strip(".") for part in parts):
            raise UserError(
                f"{what} {scheme}://{rest!r} is not usable: name it {scheme}://BUCKET/PREFIX, "
                "of letters, digits and . _ - = + ~"
            )
        return cls(scheme, bucket, "/".join(parts))

    def __truediv__(self, part: str) -> "ObjectLocation":
        return replace(self, key="/".join(filter(None, (self.key, checked_part(part)))))

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.key.rpartition("/")[2] or self.bucket

    @property
    def parent(self) -> "ObjectLocation":
        """The folder in which this lies."""
        return replace(self, key=self.key.rpartition("/")[0])

    def below(self, folder: Location) -> str:
        """The path from a folder above to here."""
        return str(self).removeprefix(f"{folder}/")

    def exists(self) -> bool:
        """Whether a file or folder lies here."""
        return self.meta() is not None or next(self._all(), None) is not None

    def size(self) -> int:
        """Bytes of the file; -1 where there is none."""
        meta = self.meta()
        return meta["size"] if meta else -1

    def read(self) -> bytes:
        """The whole file; raises `RunFailure` where there is none."""
        try:
            return self.content()
        except FileNotFoundError as error:
            raise RunFailure(f"{self} can't be read ({error.strerror}): run what made it again") from error

    def opened(self, *, whole: bool = False) -> "pa.NativeFile":
        """The file for reading, here and there in it; `whole` says that all of it will be needed."""
        import pyarrow as pa

        if whole:
            return pa.BufferReader(self.content())
        with told(str(self)):
            return pa.PythonFile(RangedFile(self, obstore.head(self.store, self.key)), mode="r")

    def write(self, data: bytes) -> None:
        """Replace the file by `data` in one step."""
        self._upload(data, len(data), xxhash.xxh3_128_hexdigest(data))

    def version(self) -> Version:
        """What tells this file from any later one; None where there is none."""
        meta = self.meta()
        return version_of(meta) if meta else None

    def write_over(self, data: bytes, seen: Version) -> None:
        """Replace the file by `data` in one step, if it is still that of version `seen` or holds `data` already."""
        refuse_lost(self)
        digest = {_DIGEST: xxhash.xxh3_128_hexdigest(data)}
        try:
            insisted(
                str(self), lambda: obstore.put(self.store, self.key, data, mode=seen or "create", attributes=digest)
            )
        except (AlreadyExistsError, PreconditionError):
            # Also where an answer was lost and the library asked again.
            if self.size() != len(data) or self.content() != data:
                raise RunFailure(
                    f"{self} was written by another process in the meantime: look at what lies there, "
                    "and run the same command again or choose another name"
                ) from None

    def remove(self) -> None:
        """Delete the file or folder, if it is there."""
        keys = [meta["path"] for meta in self._all()]
        # Of a folder its own key is no object, which Google and Azure refuse to delete.
        keys += [self.key] if self.meta() else []
        # After the list was made: a process that was stopped for a while deletes nothing of who came after it.
        refuse_lost(self)
        try:
            insisted(str(self), lambda: obstore.delete(self.store, keys))
        except FileNotFoundError:
            # One is gone already: by another process, or by a request of ours whose answer was lost.
            for key in keys:
                with suppress(FileNotFoundError):
                    insisted(str(self), partial(obstore.delete, self.store, [key]))

    def exchange(self, other: Location) -> None:
        """Swap two folders in one step, so that each name holds a whole one at any moment."""
        raise RunFailure(f"{self} and {other} can't be swapped in one step (an object store): do it on a local disk")

    def children(self) -> list[str]:
        """Names of what lies in this folder, sorted, without hidden ones; empty where there is no folder."""
        with told(str(self)):
            found = obstore.list_with_delimiter(self.store, self.key or None)
        paths = [*found["common_prefixes"], *(meta["path"] for meta in found["objects"])]
        names = (path.rpartition("/")[2] for path in paths)
        return sorted(name for name in names if not name.startswith("."))

    def files(self, suffix: str) -> list[str]:
        """Paths from here to all files below whose names end so, sorted."""
        return sorted(path for path in self._sizes() if path.endswith(suffix))

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether files of these paths and sizes lie below."""
        if len(sizes) <= _ASKED_ONE_BY_ONE:
            return all((self / path).size() == size for path, size in sizes.items())
        found = self._sizes()
        return all(found.get(path) == size for path, size in sizes.items())

    @contextmanager
    def staged(self) -> Iterator[Path]:
        """Yield a path on this machine's disk; on success what was written there takes this name, else it goes."""
        folder = cache_folder() / "staged"
        path, handle = folder / f"{uuid.uuid4().hex}.partial", None
        try:
            # Held as long as its writer lives, so that what a killed one left is known.
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

    @contextmanager
    def exclusive(self, what: str, *, wait_seconds: float = 0.0) -> Iterator[None]:
        """Hold this folder alone; the hold ends with the process, however that ends."""
        with leased(self, what, wait_seconds):
            yield

    def is_held(self) -> bool:
        """Whether a process holds this folder alone now; what one that ended left says nothing."""
        return is_leased(self)

    def sweep(self) -> None:
        """Delete what writers that were killed left on this machine's disk; in the store nothing is half written."""
        folder = cache_folder() / "staged"
        for path in folder.glob("*.partial"):
            with suppress(OSError):
                if (handle := lock_below(folder, path)) is not None:
                    path.unlink(missing_ok=True)
                    os.close(handle)

    def partials(self) -> Iterator[Location]:
        """What writers at work, or that were killed, have beside their files."""
        yield from ()

    def total_bytes(self) -> int:
        """Bytes of the file, or of all files in the folder."""
        return max(0, self.size()) + sum(self._sizes().values())

    def changed(self) -> float:
        """When the file or folder was last written, as seconds since 1970; 0 where there is none."""
        meta = self.meta()
        times = [meta["last_modified"]] if meta else [below["last_modified"] for below in self._all()]
        return max((time.timestamp() for time in times), default=0.0)

    def free_bytes(self) -> int | None:
        """Free bytes where this lies, or would lie; None where there is no such bound."""
        return None

    def can_be_written(self) -> bool:
        """Whether anything can be made in this folder, as far as that is known without trying."""
        return True

    def _upload(self, data: bytes | Path, size: int, digest: str) -> None:
        """Put a file there, unless one of the same bytes lies there already."""
        refuse_lost(self)
        if self._is(size, digest):
            return
        try:
            insisted(
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
            # The answer to the last request of an upload was lost, and there is no such upload any more.
            if not self._is(size, digest):
                raise

    def _is(self, size: int, digest: str) -> bool:
        """Whether an object of these bytes lies there."""
        try:
            with told(str(self)):
                found = obstore.get(self.store, self.key, options={"head": True})
        except FileNotFoundError:
            return False
        return found.meta["size"] == size and found.attributes.get(_DIGEST) == digest

    def _all(self) -> Iterator["ObjectMeta"]:
        """All objects below."""
        with told(str(self)):
            for metas in obstore.list(self.store, self.key or None):
                yield from metas

    def _sizes(self) -> dict[str, int]:
        """Sizes of all objects below, by their paths from here."""
        skipped = len(self.key) + 1 if self.key else 0
        return {meta["path"][skipped:]: meta["size"] for meta in self._all()}
