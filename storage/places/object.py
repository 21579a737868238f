"""One object of an object store: its metadata and its content, read whole or by ranges."""

import errno
import io
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import obstore

from storage.places.place import Version, checked_part
from storage.places.stores import store_of, translated_errors

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, PutResult
    from obstore.store import ObjectStore

_PART_BYTES = 8 << 20


@dataclass(frozen=True)
class StoredObject:
    """An object by its bucket and key, or the prefix of the objects below it."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __truediv__(self, part: str) -> Self:
        return replace(self, key="/".join(filter(None, (self.key, checked_part(part)))))

    @property
    def store(self) -> "ObjectStore":
        """This process's client for the bucket."""
        return store_of(self.scheme, self.bucket)

    def is_in(self, folder: "StoredObject") -> bool:
        """Whether this location is `folder` or below it."""
        return f"{self}/".startswith(f"{folder}/")

    def meta(self) -> "ObjectMeta | None":
        """Metadata of the object (size, version, time); None if it does not exist."""
        if not self.key:
            return None
        try:
            with translated_errors(str(self)):
                return obstore.head(self.store, self.key)
        except FileNotFoundError:
            return None

    def content(self) -> bytes:
        """Reads the whole object; raises `FileNotFoundError` if it does not exist."""
        with translated_errors(str(self)):
            result = obstore.get(self.store, self.key)
            size = result.meta["size"]
            if size <= 2 * _PART_BYTES:
                return result.bytes().to_bytes()
            # Read in parts: each part has its own request timeout and retries.
            starts = list(range(0, size, _PART_BYTES))
            ends = [min(start + _PART_BYTES, size) for start in starts]
            return b"".join(obstore.get_ranges(self.store, self.key, starts=starts, ends=ends))


class RangedFile(io.RawIOBase):
    """A readable file over one object; all reads return the version that existed when the file was opened."""

    def __init__(self, source: StoredObject, meta: "ObjectMeta") -> None:
        super().__init__()
        self._source, self._meta, self._at = source, meta, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Sets the position and returns it, in bytes from the start."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._meta["size"]}[whence]
        return self._at

    def tell(self) -> int:
        """Returns the position in bytes from the start."""
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads the next `size` bytes in one request; raises `OSError` if the object was replaced."""
        end = self._meta["size"] if size is None or size < 0 else min(self._at + size, self._meta["size"])
        if end <= self._at:
            return b""
        options: GetOptions = {"range": (self._at, end), "if_match": self._meta["e_tag"]}
        try:
            with translated_errors(str(self._source)):
                data = obstore.get(self._source.store, self._source.key, options=options).bytes().to_bytes()
        except obstore.exceptions.PreconditionError:
            raise OSError(errno.ESTALE, "was replaced while it was read", str(self._source)) from None
        self._at += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Fills the buffer from the current position; returns the number of bytes read."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def version_of(meta: "ObjectMeta | PutResult") -> Version:
    """The fields by which the library distinguishes versions of an object."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name]}
