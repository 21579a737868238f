"""From the path or URI that a person writes to the place that it names."""

from storage.errors import UserError
from storage.places.disk import LocalLocation, local_path
from storage.places.place import Location

OBJECT_STORES = ("s3", "gs", "az")


def open_place(uri: str, what: str = "workspace") -> Location:
    """Read a folder's path or URI.

    Raises `UserError` for a scheme that isn't known, for credentials in a URI, and for a path of a file.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme in OBJECT_STORES:
        # The library of object stores takes a while to import.
        from storage.places.bucket import ObjectLocation

        return ObjectLocation.of(scheme, rest, what)
    if separator and scheme != "file":
        # Not the whole URI, in which there may be a password.
        raise UserError(
            f"{what} {scheme}://…: the scheme {scheme!r} is not supported, use a local path, file://, "
            f"{', '.join(f'{name}://' for name in OBJECT_STORES)}"
        )
    if not (rest if separator else uri).strip():
        raise UserError(f"{what} '': the path is empty, name a folder")
    path = local_path(rest if separator else uri, what)
    if path.is_file():
        raise UserError(f"{what} {path} is a file: name a folder")
    return LocalLocation(path)
