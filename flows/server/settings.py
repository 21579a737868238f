"""A few of Prefect's settings, read from where Prefect reads them and in its order of precedence.

Prefect itself takes two seconds to import, and some settings have to be known before it is imported.
"""

import os
import tomllib
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.errors import UserError

# Where each is in a TOML file; a profile has it by its name.
_PATHS = {
    "PREFECT_API_URL": ("api", "url"),
    "PREFECT_API_KEY": ("api", "key"),
    "PREFECT_API_AUTH_STRING": ("api", "auth_string"),
    "PREFECT_SERVER_API_AUTH_STRING": ("server", "api", "auth_string"),
    "PREFECT_PROFILES_PATH": ("profiles_path",),
    "PREFECT_HOME": ("home",),
}


def setting(name: str) -> str:
    """A setting's value; empty where it is set nowhere.

    The environment comes first, then `.env`, `prefect.toml` and `pyproject.toml` of the current folder, then Prefect's
    active profile. Raises `UserError` for a file that is no TOML.
    """
    return _of_folder(name) or _of_profile(name)


def configured_api() -> str:
    """URL of the Prefect API that the settings name; empty where none does."""
    return setting("PREFECT_API_URL").rstrip("/")


def authorization(auth: str) -> str:
    """The header by which a client proves that it knows Prefect's password, NAME:PASSWORD."""
    return f"Basic {b64encode(auth.encode()).decode()}"


def _of_folder(name: str) -> str:
    """A setting by the environment or the files of the current folder."""
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
        found = {key.upper(): value or "" for key, value in dotenv_values(".env").items()}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{Path('.env').absolute()} can't be read ({error}): correct it, Prefect reads it too"
        ) from error
    return found.get(name, "")


def _of_profile(name: str) -> str:
    home = Path(os.environ.get("PREFECT_HOME") or Path.home() / ".prefect")
    path = _of_folder("PREFECT_PROFILES_PATH") or str(home / "profiles.toml")
    try:
        profiles = _read(Path(path).expanduser())
    except UserError:
        # Prefect warns and goes on.
        return ""
    active = os.environ.get("PREFECT_PROFILE") or _text(profiles, "active")
    return _text(profiles, "profiles", active, name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError:
        return {}
    except ValueError as error:
        raise UserError(f"{path.absolute()} can't be read ({error}): correct it, Prefect reads it too") from error


def _text(values: Any, *keys: str) -> str:
    """What is at a path of keys, as text; empty where there is nothing."""
    for key in keys:
        if not isinstance(values, Mapping):
            return ""
        values = values.get(key, "")
    return "" if isinstance(values, Mapping) else str(values)
