"""Objects of an object store as files: read by ranges, for Arrow and for DuckDB, and never written."""

import errno
import io
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import obstore
from fsspec import AbstractFileSystem

from storage.objects import ObjectLocation
from storage.stores import told

if TYPE_CHECKING:
    from obstore import GetOptions, ObjectMeta


class RangedFile(io.RawIOBase):
    """One object for reading; what is read is always of the version that it had at its opening."""

    def __init__(self, place: ObjectLocation, meta: "ObjectMeta") -> None:
        super().__init__()
        self._place, self._meta, self._at = place, meta, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._meta["size"]}[whence]
        return self._at

    def tell(self) -> int:
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
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class ObjectFiles(AbstractFileSystem):
    """The objects below a folder as DuckDB asks for them: to be read alone, and no others.

    A subclass for each scheme names it as its `protocol`. What an object is, is asked once in its lifetime.
    """

    cachable = False

    def __init__(self, folder: ObjectLocation) -> None:
        super().__init__()
        self._folder = folder
        self._known: dict[str, ObjectMeta] = {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Size and kind; raises `FileNotFoundError` where nothing lies."""
        place = self._place(path)
        if meta := self._meta(place):
            return {"name": f"{place.bucket}/{place.key}", "size": meta["size"], "type": "file"}
        if place.exists():
            return {"name": f"{place.bucket}/{place.key}", "size": 0, "type": "directory"}
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))

    def modified(self, path: str) -> datetime:
        """When an object was written."""
        meta = self._meta(self._place(path))
        return meta["last_modified"] if meta else datetime.fromtimestamp(0, UTC)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """What lies in a folder."""
        place = self._place(path)
        with told(str(place)):
            found = obstore.list_with_delimiter(place.store, place.key or None)
        self._known.update({f"{place.bucket}/{meta['path']}": meta for meta in found["objects"]})
        entries = [
            {"name": f"{place.bucket}/{meta['path']}", "size": meta["size"], "type": "file"}
            for meta in found["objects"]
        ]
        entries += [
            {"name": f"{place.bucket}/{prefix}", "size": 0, "type": "directory"} for prefix in found["common_prefixes"]
        ]
        return entries if detail else [entry["name"] for entry in entries]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> RangedFile:
        place = self._place(path)
        if mode != "rb":
            raise PermissionError(errno.EACCES, "Permission Error: objects are read here, not written", str(place))
        if meta := self._meta(place):
            return RangedFile(place, meta)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))

    def _meta(self, place: ObjectLocation) -> "ObjectMeta | None":
        name = f"{place.bucket}/{place.key}"
        if name not in self._known and (meta := place.meta()):
            self._known[name] = meta
        return self._known.get(name)

    def _place(self, path: str) -> ObjectLocation:
        """The place that a path names; raises `PermissionError` for one outside of the folder."""
        bucket, _, key = path.removeprefix(f"{self.protocol}://").partition("/")
        place = ObjectLocation(str(self.protocol), bucket, key.strip("/"))
        if ".." in key.split("/") or not place.lies_in(self._folder):
            raise PermissionError(errno.EACCES, "Permission Error: it lies outside of what may be read", str(place))
        return place


def object_files(folder: ObjectLocation) -> ObjectFiles:
    """The file system of a folder of any scheme."""
    files: ObjectFiles = type(f"ObjectFilesOf{folder.scheme}", (ObjectFiles,), {"protocol": folder.scheme})(folder)
    return files
