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

    def __init__(self, target: ObjectLocation) -> None:
        super().__init__()
        self._target = target

    def close(self) -> None:
        """Uploads the content once."""
        if not self.closed:
            self._target.write(self.getvalue())
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
        location = self._location(path)
        if meta := self._meta(location):
            return _entry(location.bucket, meta["path"], meta["size"])
        if location.exists():
            return _entry(location.bucket, location.key)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(location))

    def exists(self, path: str, **options: Any) -> bool:
        """Whether the object or folder exists; unlike in `fsspec`, other errors propagate."""
        try:
            return bool(self.info(path))
        except FileNotFoundError:
            return False

    def modified(self, path: str) -> datetime:
        """Time at which the object was written; 1970 if it does not exist."""
        meta = self._meta(self._location(path))
        return meta["last_modified"] if meta else datetime.fromtimestamp(0, UTC)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        """Lists the entries of a folder."""
        location = self._location(path)
        with translated_errors(str(location)):
            listed = obstore.list_with_delimiter(location.store, location.key or None)
        self._known.update({f"{location.bucket}/{meta['path']}": meta for meta in listed["objects"]})
        entries = [_entry(location.bucket, meta["path"], meta["size"]) for meta in listed["objects"]]
        entries += [_entry(location.bucket, prefix) for prefix in listed["common_prefixes"]]
        return entries if detail else [entry["name"] for entry in entries]

    def rm_file(self, path: str) -> None:
        """Deletes an object; raises `UserError` if the file system is read-only."""
        self._writable(path).remove()

    def _open(self, path: str, mode: str = "rb", **options: Any) -> RangedFile | _Upload:
        if mode == "wb":
            return _Upload(self._writable(path))
        location = self._location(path)
        if meta := self._meta(location):
            return RangedFile(location, meta)
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(location))

    def _meta(self, location: ObjectLocation) -> "ObjectMeta | None":
        name = f"{location.bucket}/{location.key}"
        if name not in self._known and (meta := location.meta()):
            self._known[name] = meta
        return self._known.get(name)

    def _location(self, path: str) -> ObjectLocation:
        """The location of a path; raises `UserError` for a path outside the folder."""
        bucket, _, key = path.removeprefix(f"{self.protocol}://").partition("/")
        location = ObjectLocation(str(self.protocol), bucket, key.strip("/"))
        if ".." in key.split("/") or not location.is_in(self._folder):
            raise UserError(f"Permission Error: {location} is outside the readable folder")
        return location

    def _writable(self, path: str) -> ObjectLocation:
        location = self._location(path)
        if not self._writes:
            raise UserError(f"Permission Error: {location} is read-only")
        self._known.pop(f"{location.bucket}/{location.key}", None)
        return location


def _entry(bucket: str, key: str, size: int | None = None) -> dict[str, Any]:
    """The description of an object, or without `size` of a folder."""
    return {"name": f"{bucket}/{key}", "size": size or 0, "type": "directory" if size is None else "file"}


class S3Files(ObjectFiles):
    protocol = "s3"


class GoogleFiles(ObjectFiles):
    """Files of Google Cloud Storage."""

    protocol = "gs"


class AzureFiles(ObjectFiles):
    protocol = "az"


def arrow_files(location: Location) -> tuple[FileSystem | None, str]:
    """Arrow's file system for a folder, readable and writable, and the path in it; None stands for the local disk."""
    if not isinstance(location, ObjectLocation):
        return None, str(location)
    return PyFileSystem(FSSpecHandler(object_files(location, writes=True))), f"{location.bucket}/{location.key}"


def object_files(folder: ObjectLocation, *, writes: bool = False) -> ObjectFiles:
    """The file system of a folder, by its scheme."""
    return {kind.protocol: kind for kind in (S3Files, GoogleFiles, AzureFiles)}[folder.scheme](folder, writes)
