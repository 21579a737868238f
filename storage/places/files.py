"""Objects of an object store as files for Arrow, DuckDB and Ray: read by ranges and confined to one folder."""

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
from storage.places.stores import translated_errors

if TYPE_CHECKING:
    from obstore import ObjectMeta


class _Upload(io.BytesIO):
    """A small file that is uploaded when it is closed."""

    def __init__(self, place: ObjectLocation) -> None:
        super().__init__()
        self._place = place

    def close(self) -> None:
        """Uploads the content once."""
        if not self.closed:
            self._place.write(self.getvalue())
        super().close()


class ObjectFiles(AbstractFileSystem):
    """The objects below one folder as an `fsspec` file system; read-only unless `writes` is set.

    Metadata of an object is requested once and then cached. Instances can be pickled and hold no credentials.
    """

    cachable = False

    def __init__(self, folder: ObjectLocation, writes: bool = False) -> None:
        super().__init__()
        self._folder, self._writes = folder, writes
        self._known: dict[str, ObjectMeta] = {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        """Size and kind of a path; raises `FileNotFoundError` if it does not exist."""
        place = self._place(path)
        if meta := self._meta(place):
            return {"name": f"{place.bucket}/{place.key}", "size": meta["size"], "type": "file"}
        if place.exists():
            return {"name": f"{place.bucket}/{place.key}", "size": 0, "type": "directory"}
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(place))

    def exists(self, path: str, **options: Any) -> bool:
        """Whether the object or folder exists; unlike in `fsspec`, other errors propagate."""
        try:
            return bool(self.info(path))
        except FileNotFoundError:
            return False

    def modified(self, path: str) -> datetime:
        """Time at which the object was written; 1970 if it does not exist."""
        meta = self._meta(self._place(path))
        return meta["last_modified"] if meta else datetime.fromtimestamp(0, UTC)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """Lists the entries of a folder."""
        place = self._place(path)
        with translated_errors(str(place)):
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
        """Deletes an object."""
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
        """The location of a path; raises `UserError` for a path outside the folder."""
        bucket, _, key = path.removeprefix(f"{self.protocol}://").partition("/")
        place = ObjectLocation(str(self.protocol), bucket, key.strip("/"))
        if ".." in key.split("/") or not place.lies_in(self._folder):
            raise UserError(f"Permission Error: {place} is outside the readable folder")
        return place

    def _changing(self, path: str) -> ObjectLocation:
        place = self._place(path)
        if not self._writes:
            raise UserError(f"Permission Error: {place} is read-only")
        self._known.pop(f"{place.bucket}/{place.key}", None)
        return place


class S3Files(ObjectFiles):
    protocol = "s3"


class GoogleFiles(ObjectFiles):
    """Files of Google Cloud Storage."""

    protocol = "gs"


class AzureFiles(ObjectFiles):
    protocol = "az"


def arrow_files(place: Location) -> tuple[FileSystem | None, str]:
    """Arrow's file system for a folder, readable and writable, and the path in it; None stands for the local disk."""
    if not isinstance(place, ObjectLocation):
        return None, str(place)
    return PyFileSystem(FSSpecHandler(object_files(place, writes=True))), f"{place.bucket}/{place.key}"


def object_files(folder: ObjectLocation, *, writes: bool = False) -> ObjectFiles:
    """The file system of a folder, by its scheme."""
    return {kind.protocol: kind for kind in (S3Files, GoogleFiles, AzureFiles)}[folder.scheme](folder, writes)
