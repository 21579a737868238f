"""Objects of an object store as files, for Arrow, DuckDB and Ray: read by ranges, and confined to one folder."""

import errno
import io
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import obstore
from fsspec import AbstractFileSystem
from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

from storage.errors import UserError
from storage.places.bucket import ObjectLocation
from storage.places.object import RangedFile
from storage.places.place import Location
from storage.places.stores import told

if TYPE_CHECKING:
    from obstore import ObjectMeta


class _Upload(io.BytesIO):
    """A small file that is written when it is closed."""

    def __init__(self, place: ObjectLocation) -> None:
        super().__init__()
        self._place = place

    def close(self) -> None:
        """Write the file, once."""
        if not self.closed:
            self._place.write(self.getvalue())
        super().close()


class ObjectFiles(AbstractFileSystem):
    """The objects below a folder and no others, as an `fsspec` file system; to be read alone, unless it `writes`.

    What an object is, is asked once in its lifetime. It can be pickled, and holds no credentials.
    """

    cachable = False

    def __init__(self, folder: ObjectLocation, writes: bool = False) -> None:
        super().__init__()
        self._folder, self._writes = folder, writes
        self._known: dict[str, ObjectMeta] = {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Size and kind; raises `FileNotFoundError` where nothing lies."""
        place = self._place(path)
        if meta := self._meta(place):
            return {"name": f"{place.bucket}/{place.key}", "size": meta["size"], "type": "file"}
        if place.exists():
            return {"name": f"{place.bucket}/{place.key}", "size": 0, "type": "directory"}
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))

    def exists(self, path: str, **options: Any) -> bool:
        """Whether an object or folder is there; unlike `fsspec` it lets a failure pass."""
        try:
            return bool(self.info(path))
        except FileNotFoundError:
            return False

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

    def rm_file(self, path: str) -> None:
        """Delete an object."""
        self._changing(path).remove()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> RangedFile | _Upload:
        if mode == "wb":
            return _Upload(self._changing(path))
        place = self._place(path)
        if meta := self._meta(place):
            return RangedFile(place, meta)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))

    def _meta(self, place: ObjectLocation) -> "ObjectMeta | None":
        name = f"{place.bucket}/{place.key}"
        if name not in self._known and (meta := place.meta()):
            self._known[name] = meta
        return self._known.get(name)

    def _place(self, path: str) -> ObjectLocation:
        """The place that a path names; raises `UserError` for one outside of the folder."""
        bucket, _, key = path.removeprefix(f"{self.protocol}://").partition("/")
        place = ObjectLocation(str(self.protocol), bucket, key.strip("/"))
        if ".." in key.split("/") or not place.lies_in(self._folder):
            raise UserError(f"Permission Error: {place} lies outside of what may be read")
        return place

    def _changing(self, path: str) -> ObjectLocation:
        place = self._place(path)
        if not self._writes:
            raise UserError(f"Permission Error: {place} may only be read")
        self._known.pop(f"{place.bucket}/{place.key}", None)
        return place


class S3Files(ObjectFiles):
    """Those of S3."""

    protocol = "s3"


class GoogleFiles(ObjectFiles):
    """Those of Google Cloud Storage."""

    protocol = "gs"


class AzureFiles(ObjectFiles):
    """Those of Azure."""

    protocol = "az"


def arrow_files(place: Location) -> tuple[FileSystem | None, str]:
    """Arrow's file system of a folder, for reading and writing, and its path in it; None is that of a disk."""
    if not isinstance(place, ObjectLocation):
        return None, str(place)
    return PyFileSystem(FSSpecHandler(object_files(place, writes=True))), f"{place.bucket}/{place.key}"


def object_files(folder: ObjectLocation, *, writes: bool = False) -> ObjectFiles:
    """The file system of a folder of any scheme."""
    return {kind.protocol: kind for kind in (S3Files, GoogleFiles, AzureFiles)}[folder.scheme](folder, writes)
