"""Opens the location that a user names by a path or URI."""

from storage.errors import UserError
from storage.places.disk import LocalLocation, local_path
from storage.places.place import Location

OBJECT_STORES = ("s3", "gs", "az")


def open_location(uri: str, what: str = "workspace") -> Location:
    """Returns the location for a folder's path or URI; `what` names it in error messages.

    Raises `UserError` for an unknown scheme, credentials in a URI, an empty path, or the path of a file.
    """
    scheme, separator, rest = uri.partition("://")
    if separator and scheme in OBJECT_STORES:
        # The object store library is slow to import.
        from storage.places.bucket import ObjectLocation

        return ObjectLocation.of(scheme, rest, what)
    if separator and scheme != "file":
        # Do not show the whole URI: it may contain a password.
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
