import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from flows.cli import app as command
from flows.server.app import PrefectServer
from storage.workspace import Workspace
from tests.hub import TOKEN, Hub, running_hub

Typed = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Typed:
    """The command in this process, in an empty folder: the same without two seconds of imports."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = command.run(list(arguments))
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub to which this process pushes with a token that it takes."""
    import huggingface_hub.constants

    with running_hub() as hub:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture(scope="module")
def served_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The workspace whose reports that server shows."""
    return Workspace.create(str(tmp_path_factory.mktemp("served") / "workspace"))


@pytest.fixture(scope="module")
def server(served_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server as `numerate serve` starts it; it ends with its module, as it takes a tenth of a core while it waits."""
    started = PrefectServer(tmp_path_factory.mktemp("server") / "home", workspace=served_workspace)
    yield started
    started.stop()


@pytest.fixture(scope="module")
def guarded(
    server: PrefectServer, served_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PrefectServer]:
    """A server with a password and a proxy with a host name. Records of an earlier server are readable by others.

    To make the records' tables anew would take it five seconds.
    """
    home = tmp_path_factory.mktemp("guarded")
    (home / "server.log").touch(mode=0o644)
    with closing(connect(server.home / "prefect.db")) as one, closing(connect(home / "prefect.db")) as copy:
        one.backup(copy)
    (home / "prefect.db").chmod(0o644)
    started = PrefectServer(
        home,
        workspace=served_workspace,
        allowed=["numbers.example:8443"],
        auth="ada:open sesame",
    )
    yield started
    started.stop()
