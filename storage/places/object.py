"""One object of an object store: what is known of it, and its bytes, whole or by ranges."""

import errno
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import obstore

from storage.places.place import Version
from storage.places.stores import store_of, told

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta, PutResult
    from obstore.store import ObjectStore

_PART_BYTES = 8 << 20


@dataclass(frozen=True)
class StoredObject:
    """An object by its bucket and key, or the prefix of those below it."""

    scheme: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    @property
    def store(self) -> "ObjectStore":
        """The handle on the bucket, of this process."""
        return store_of(self.scheme, self.bucket)

    def lies_in(self, folder: "StoredObject") -> bool:
        """Whether this is a folder or lies below it."""
        return f"{self}/".startswith(f"{folder}/")

    def meta(self) -> "ObjectMeta | None":
        """Size, version and age of the object; None where there is none."""
        if not self.key:
            return None
        try:
            with told(str(self)):
                return obstore.head(self.store, self.key)
        except FileNotFoundError:
            return None

    def content(self) -> bytes:
        """The whole object; raises `FileNotFoundError` where there is none."""
        with told(str(self)):
            found = obstore.get(self.store, self.key)
            size = found.meta["size"]
            if size <= 2 * _PART_BYTES:
                return found.bytes().to_bytes()
            # In parts, each of which has the time that a request may take, and is tried again by itself.
            starts = list(range(0, size, _PART_BYTES))
            ends = [min(start + _PART_BYTES, size) for start in starts]
            return b"".join(obstore.get_ranges(self.store, self.key, starts=starts, ends=ends))


class RangedFile(io.RawIOBase):
    """One object for reading; what is read is always of the version that it had at its opening."""

    def __init__(self, place: StoredObject, meta: "ObjectMeta") -> None:
        super().__init__()
        self._place, self._meta, self._at = place, meta, 0

    def readable(self) -> bool:
        """It can be read."""
        return True

    def seekable(self) -> bool:
        """Any place of it can be read."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place; returns it, in bytes from the start."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._meta["size"]}[whence]
        return self._at

    def tell(self) -> int:
        """The place, in bytes from the start."""
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """The next `size` bytes, in one request."""
        end = self._meta["size"] if size is None or size < 0 else min(self._at + size, self._meta["size"])
        if end <= self._at:
            return b""
        asked: GetOptions = {"range": (self._at, end), "if_match": self._meta["e_tag"]}
        try:
            with told(str(self._place)):
                data = obstore.get(self._place.store, self._place.key, options=asked).bytes().to_bytes()
        except obstore.exceptions.PreconditionError:
            raise OSError(errno.ESTALE, "was replaced while it was read", str(self._place)) from None
        self._at += len(data)
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer from the place on; returns the bytes read."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def version_of(meta: "ObjectMeta | PutResult") -> Version:
    """By what the library tells one version of an object from another."""
    return {name: meta[name] for name in ("e_tag", "version") if meta[name]}
