from collections.abc import Iterator

import pytest

from flows.serving.server import PrefectServer
from storage.location import Workspace
from tests.hub import TOKEN, Hub, running_hub


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


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server as `numerate serve` starts it."""
    folder = tmp_path_factory.mktemp("server")
    started = PrefectServer(folder / "home", workspace=Workspace.create(str(folder / "workspace")))
    yield started
    started.stop()
