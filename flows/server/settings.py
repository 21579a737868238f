"""Reads a few of Prefect's settings, from the same sources and with the same precedence as Prefect.

Importing Prefect takes two seconds, and some settings are needed before that import.
"""

import os
import tomllib
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.errors import UserError

# Path of each setting in a TOML file. Profiles use the setting's name.
_PATHS = {
    "PREFECT_API_URL": ("api", "url"),
    "PREFECT_API_KEY": ("api", "key"),
    "PREFECT_API_AUTH_STRING": ("api", "auth_string"),
    "PREFECT_SERVER_API_AUTH_STRING": ("server", "api", "auth_string"),
    "PREFECT_PROFILES_PATH": ("profiles_path",),
    "PREFECT_HOME": ("home",),
}


def setting(name: str) -> str:
    """Value of a setting; empty if it is not set.

    The order is: the environment, `.env`, `prefect.toml` and `pyproject.toml` in the current folder, Prefect's active
    profile. Raises `UserError` for an invalid file.
    """
    return _of_folder(name) or _of_profile(name)


def configured_api() -> str:
    """URL of the configured Prefect API; empty if none is configured."""
    return setting("PREFECT_API_URL").rstrip("/")


def authorization(auth: str) -> str:
    """Value of the Authorization header for Prefect's password, NAME:PASSWORD."""
    return f"Basic {b64encode(auth.encode()).decode()}"


def _of_folder(name: str) -> str:
    """A setting from the environment or from the files in the current folder."""
    return (
        os.environ.get(name)
        or _of_dotenv(name)
        or _text(_read(Path("prefect.toml")), *_PATHS[name])
        or _text(_read(Path("pyproject.toml")), "tool", "prefect", *_PATHS[name])
    )


def _of_dotenv(name: str) -> str:
    if not Path(".env").is_file():
        return ""
    from dotenv import dotenv_values

    try:
        values = {key.upper(): value or "" for key, value in dotenv_values(".env").items()}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{Path('.env').absolute()} cannot be read ({error}): correct it, Prefect also reads it"
        ) from error
    return values.get(name, "")


def _of_profile(name: str) -> str:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    path = _of_folder("PREFECT_PROFILES_PATH") or str(home / "profiles.toml")
    try:
        profiles = _read(Path(path).expanduser())
    except UserError:
        # Prefect only warns about it.
        return ""
    active = os.environ.get("PREFECT_PROFILE") or _text(profiles, "active")
    return _text(profiles, "profiles", active, name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError:
        return {}
    except ValueError as error:
        raise UserError(f"{path.absolute()} cannot be read ({error}): correct it, Prefect also reads it") from error


def _text(values: Any, *keys: str) -> str:
    """The value at a path of keys, as text; empty if it is missing."""
    for key in keys:
        values = values.get(key, "") if isinstance(values, Mapping) else ""
    return "" if isinstance(values, Mapping) else str(values)
