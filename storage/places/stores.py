"""Clients for object stores: opened once per process, with retries and one-line error messages.

Error texts of the library may contain addresses and keys. Messages therefore show only the status and the store's error
code. The library looks up credentials in each cloud's usual location.
"""

import errno
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from storage.errors import RunFailure, UserError

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

# Requested once per process: only a read distinguishes a missing bucket from a missing object.
_PROBE = ".numerate"
# Seconds for which a request is retried: the first one, and later ones.
_PROBE_SECONDS, _PATIENCE_SECONDS = 8, 120

Answer = TypeVar("Answer")


class _Cloud(NamedTuple):
    credentials: str
    endpoint: str
    plain: str


_CLOUDS = {
    "s3": _Cloud("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL and AWS_REGION", "AWS_ALLOW_HTTP"),
    "gs": _Cloud("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_BASE_URL", "GOOGLE_ALLOW_HTTP"),
    "az": _Cloud(
        "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ENDPOINT", "AZURE_ALLOW_HTTP"
    ),
}
# Addresses at which the library finally looks for credentials, on machines of a cloud.
_METADATA_SERVERS = re.compile(r"//169\.254\.|/latest/(api/token|meta-data)|//metadata\.google|/metadata/identity")
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist")


def credentials_of(scheme: str) -> str:
    """The environment variables that hold a cloud's credentials."""
    return _CLOUDS[scheme].credentials


def store_of(scheme: str, bucket: str, *, quick: bool = False) -> "ObjectStore":
    """Returns the client for a bucket; `quick` gives up after about ten seconds, otherwise retries take two minutes.

    The first call per process and bucket checks that the store responds. Raises `UserError` for a missing bucket and
    for missing or wrong credentials, `RunFailure` for an unreachable store.
    """
    return _opened(scheme, bucket, quick, os.getpid())


@lru_cache(maxsize=64)
def _opened(scheme: str, bucket: str, quick: bool, process: int) -> "ObjectStore":
    store = built(scheme, bucket, quick=quick)
    if not quick:
        _opened(scheme, bucket, True, process)
        return store
    with translated_errors(f"{scheme}://{bucket}"):
        try:
            obstore.get(store, _PROBE).bytes()
        except FileNotFoundError as error:
            if _NO_BUCKET.search(str(error)):
                raise
        except (PermissionDeniedError, UnauthenticatedError):
            # The credentials may only cover a prefix; if not, the next request fails.
            pass
    return store


def built(scheme: str, bucket: str, *, quick: bool = False) -> "ObjectStore":
    """The library's client for a bucket, before any request."""
    seconds = _PROBE_SECONDS if quick else _PATIENCE_SECONDS
    retries: RetryConfig = {
        "max_retries": 5 if quick else 12,
        "retry_timeout": timedelta(seconds=seconds),
        "backoff": {
            "init_backoff": timedelta(seconds=0.1),
            "max_backoff": timedelta(seconds=2 if quick else 10),
            "base": 2,
        },
    }
    client: ClientConfig = {
        "connect_timeout": timedelta(seconds=3),
        "timeout": timedelta(seconds=6 if quick else 60),
        # The library reads this variable only if no option is given.
        "allow_http": os.environ.get(_CLOUDS[scheme].plain, "").lower() in ("true", "1", "yes"),
    }
    uri = f"{scheme}://{bucket}"
    with translated_errors(uri):
        options: dict[str, Any] = {"client_options": client, "retry_config": retries, **_profile(uri)}
        return from_url(uri, **options)


class UnreachableError(RunFailure):
    """The store did not respond."""


def with_retries(uri: str, send: Callable[[], Answer]) -> Answer:
    """Sends an idempotent request with retries, also after a lost connection; errors are those of `translated_errors`.

    The library itself retries only unconditional requests.
    """
    until, pauses = time.monotonic() + _PATIENCE_SECONDS, [0.2, 1.0, 3.0]
    while True:
        try:
            with translated_errors(uri):
                return send()
        except UnreachableError:
            if not pauses or time.monotonic() > until:
                raise
            time.sleep(pauses.pop(0))


@contextmanager
def translated_errors(uri: str) -> Iterator[None]:
    """Converts errors of the library into a one-line `UserError` or `RunFailure`, or `FileNotFoundError` for an object.

    Failed write conditions pass through unchanged.
    """
    try:
        yield
    except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
        raise
    except FileNotFoundError as error:
        if _NO_BUCKET.search(str(error)):
            raise _explained(uri, error) from None
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), uri) from None
    except (BaseError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise _explained(uri, error) from None


def _explained(uri: str, error: Exception) -> Exception:
    """The `UserError` or `RunFailure` for an error of the library."""
    scheme, _, rest = uri.partition("://")
    cloud, text = _CLOUDS[scheme], str(error)
    status = int(match.group(1)) if (match := re.search(r"status code: (\d{3})", text)) else 0
    word = match.group(1) if (match := re.search(r"<Code>(\w{1,60})</Code>", text)) else ""
    shown = word or (str(status) if status else type(error).__name__)
    if _NO_BUCKET.search(text):
        bucket = rest.partition("/")[0]
        return UserError(f"{uri}: bucket {bucket!r} does not exist: create it, or name another with --workspace")
    if _METADATA_SERVERS.search(text) or "MissingAccount" in text:
        return UserError(f"{uri}: no credentials were found: set {cloud.credentials} in the environment")
    if status in (401, 403) or isinstance(error, PermissionDeniedError | UnauthenticatedError):
        return UserError(f"{uri}: access is denied ({shown}): check {cloud.credentials} and their permissions")
    if "builder error" in text or "HTTPS_ONLY" in text or "URL scheme is not allowed" in text:
        return UserError(f"{uri}: its endpoint is not an https:// address: set {cloud.plain}=true to allow http://")
    if status >= 429:
        return RunFailure(
            f"{uri}: the store keeps failing ({shown}): run the same command again, it continues where this one ended"
        )
    if status:
        return UserError(f"{uri}: the store rejects the request ({shown}): check {cloud.endpoint}")
    return UnreachableError(
        f"{uri}: the store can't be reached or responds too slowly: check the network and {cloud.endpoint}"
    )


def _profile(uri: str) -> dict[str, Any]:
    """The AWS profile, if boto3 is installed and the environment contains no key."""
    named = os.environ.get("AWS_PROFILE")
    there = named or (Path.home() / ".aws" / "credentials").exists()
    if not uri.startswith("s3://") or os.environ.get("AWS_ACCESS_KEY_ID") or not there:
        return {}
    try:
        from botocore.exceptions import BotoCoreError
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        if named:
            raise UserError(
                f"{uri}: AWS_PROFILE is {named!r}, but profiles need boto3: install it, or set {credentials_of('s3')}"
            ) from None
        return {}
    try:
        return {"credential_provider": Boto3CredentialProvider()}
    except (BotoCoreError, ValueError):
        raise UserError(
            f"{uri}: ~/.aws has no credentials for AWS_PROFILE {named or 'default'!r}: choose another profile, "
            f"or set {credentials_of('s3')}"
        ) from None
