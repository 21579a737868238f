"""Access to the Hugging Face hub: the user's token, names of repositories, and explanations of errors.

Messages never contain the token or a part of it.
"""

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from storage.errors import RunFailure, UserError

_TOKEN = re.compile(r"[!-~]+")


def check_repository(name: str) -> None:
    """Raise `UserError` unless `name` is ORG/REPO as the hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
        if name.count("/") == 1:
            return
    except HFValidationError:
        pass
    raise UserError(
        f"--to {name!r} is not ORG/REPO: use your account or organization and a repository name of letters, digits, "
        "'-', '_' and '.', such as ada/sums"
    )


def token_of_user() -> str:
    """The user's token; raises `UserError` if it is missing or invalid."""
    from huggingface_hub import get_token

    token = get_token()
    if not token:
        raise UserError("no token for the hub: set HF_TOKEN, or run 'hf auth login'")
    if not _TOKEN.fullmatch(token):
        raise UserError("the token for the hub contains invalid characters: set HF_TOKEN to a valid token")
    return token


def explained(error: Exception, endpoint: str, repository: str, token: str) -> UserError | RunFailure:
    """Convert an error of the hub's client to one with a one-line message, without the token."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    host = urlsplit(endpoint).hostname or "the hub"
    retry = "run the same command again, it sends only missing files"
    for cause in _causes(error):
        if isinstance(cause, OfflineModeIsEnabled):
            return UserError("HF_HUB_OFFLINE is set, so nothing can be sent: unset it")
        if isinstance(cause, HfHubHTTPError):
            status, message = cause.response.status_code, _one_line(cause.server_message or "", token)
            if status == 401:
                return UserError(f"{host} rejects the token: set HF_TOKEN to a valid token, or run 'hf auth login'")
            if status == 403:
                return UserError(
                    f"{host} does not let this token write to {repository}: use a token with write access to it"
                )
            summary = f"{host} responds with status {status}{f' ({message})' if message else ''} for {repository}"
            return (
                UserError(f"{summary}: correct this first")
                if status in (400, 402, 409)
                else RunFailure(f"{summary}: {retry}")
            )
        if isinstance(cause, httpx2.TransportError):
            return RunFailure(
                f"{host} cannot be reached, or the connection was lost ({type(cause).__name__}): check the network, "
                f"then {retry}"
            )
    return RunFailure(
        f"the upload to {repository} failed ({type(error).__name__}: {_one_line(str(error), token)}): {retry}"
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its chain of causes."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _one_line(summary: str, token: str) -> str:
    return " ".join(summary.replace(token, "…").split())[:300]
