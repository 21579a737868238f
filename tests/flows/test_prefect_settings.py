"""Prefect's settings are read as Prefect reads them; Prefect itself, in a separate process, is the oracle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.server.settings import authorization, configured_api, setting
from storage.errors import UserError

NAMES = {
    "PREFECT_API_URL": "api.url",
    "PREFECT_API_KEY": "api.key",
    "PREFECT_API_AUTH_STRING": "api.auth_string",
    "PREFECT_SERVER_API_AUTH_STRING": "server.api.auth_string",
}
# Each with a value of its own for one setting more, from the lowest precedence to the highest.
SOURCES = ("profile", "pyproject.toml", "prefect.toml", ".env", "environment")
ORACLE = """
import json, os, sys
from pathlib import Path
from prefect.settings import Settings
found = []
for folder, environment in json.loads(sys.argv[1]):
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.update(environment)
    settings, values = Settings(), {}
    for name, path in json.loads(sys.argv[2]).items():
        value = settings
        for part in path.split("."):
            value = getattr(value, part)
        values[name] = value.get_secret_value() if hasattr(value, "get_secret_value") else value or ""
    found.append(values)
print(json.dumps(found))
"""


def nested(path: str, value: str) -> str:
    """A dotted path of a TOML file with its value."""
    return f'{path} = "{value}"\n'


def write(folder: Path, source: str, number: int) -> dict[str, str]:
    """Give all settings by one source; returns the environment that it adds."""
    values = {name: f"http://{source}-{place}.example/api" for place, name in enumerate(NAMES) if place <= number}
    home = {"PREFECT_HOME": str(folder / "home")}
    if source == "profile":
        (folder / "home").mkdir()
        lines = "".join(nested(name, value) for name, value in values.items())
        (folder / "home" / "profiles.toml").write_text(f'active = "team"\n[profiles.team]\n{lines}')
    elif source == ".env":
        (folder / ".env").write_text("".join(f"{name.lower()}='{value}'\n" for name, value in values.items()))
    elif source == "environment":
        return {**home, **values}
    else:
        head = "[tool.prefect]\n" if source == "pyproject.toml" else ""
        (folder / source).write_text(head + "".join(nested(NAMES[name], value) for name, value in values.items()))
    return home


def test_settings_have_the_precedence_of_prefect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = []
    # The sources up to each; a higher one gives fewer of the settings.
    for most in range(len(SOURCES) + 1):
        folder = tmp_path / str(most)
        folder.mkdir()
        environment = {"PREFECT_HOME": str(folder / "home")}
        for place, source in enumerate(SOURCES[:most]):
            environment |= write(folder, source, len(NAMES) - place)
        cases.append((str(folder), environment))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.toml").write_text('active = "a"\n[profiles.a]\n[profiles.b]\nPREFECT_API_URL = "http://b/api"\n')
    (elsewhere / "prefect.toml").write_text('profiles_path = "mine.toml"\n')
    cases += [(str(elsewhere), {}), (str(elsewhere), {"PREFECT_PROFILE": "b"})]
    command = [sys.executable, "-c", ORACLE, json.dumps(cases), json.dumps(NAMES)]
    told = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for (folder, environment), expected in zip(cases, told, strict=True):
        with monkeypatch.context() as patched:
            patched.chdir(folder)
            for name in [name for name in os.environ if name.startswith("PREFECT_")]:
                patched.delenv(name)
            for name, value in environment.items():
                patched.setenv(name, value)
            assert {name: setting(name) for name in NAMES} == expected, folder
    assert told[len(SOURCES)]["PREFECT_API_URL"] == "http://environment-0.example/api"
    assert told[-1]["PREFECT_API_URL"] == "http://b/api"


def test_invalid_toml_is_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prefect.toml").write_text("[api\n")
    with pytest.raises(UserError, match=r"prefect.toml cannot be read \(.*\): correct it, Prefect also reads it"):
        configured_api()


def test_header_is_that_of_basic_authentication() -> None:
    # The example of RFC 7617.
    assert authorization("Aladdin:open sesame") == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="
