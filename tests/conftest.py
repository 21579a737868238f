"""Nothing in the tests touches the home of whoever runs them: Prefect, Ray and matplotlib get a folder of their own."""

import atexit
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# Runs last of all exit functions: DuckDB's bindings then report objects that others still hold.
atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
_HOME = tempfile.mkdtemp(prefix="numerate-tests-")
os.environ["HOME"] = _HOME
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "RAY_", "AWS_"))]:
    del os.environ[_name]
os.environ["PREFECT_HOME"] = f"{_HOME}/prefect"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"

from tests.builders import LONGER, TOKENIZERS, Built, build_small, encode_plainly  # noqa: E402  (after the environment is set)
from tests.object_store import FaultyProxy, ObjectServer, environment, object_server  # noqa: E402
from tests.skips import UnexpectedSkips  # noqa: E402

# Seconds that a slow test may take; the others have the `timeout` of pyproject.toml.
_SLOW_SECONDS = 3_600


def pytest_configure(config: pytest.Config) -> None:
    """In CI an unexpected skip is a failure; the processes of xdist report to the first one, which judges."""
    if os.environ.get("CI") == "true" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(UnexpectedSkips())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow tests may take longer than others."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A small corpus with its tokenizer and tokens, made without Ray; not to be changed by a test."""
    return build_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A corpus whose rows have two widths; not to be changed by a test."""
    return build_small(tmp_path_factory.mktemp("longer"), LONGER)


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def of_kind(longer: Built, request: pytest.FixtureRequest) -> Built:
    """That corpus with tokens of each kind; not to be changed by a test."""
    if request.param == "digit":
        return longer
    return encode_plainly(longer.workspace, longer.spec, longer.corpus, TOKENIZERS[request.param])


@pytest.fixture
def own_small(tmp_path: Path) -> Built:
    """The same, for a test that damages it."""
    return build_small(tmp_path)


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[int]:
    """A real, private Ray."""
    from flows.common.engines import ray_session

    with ray_session(cpus=2) as cpus:
        yield cpus


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real Prefect server, for commands that needn't show how they start one of their own: that takes each
    of them ten seconds."""
    from flows.server.app import PrefectServer

    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    yield server.api_url
    server.stop()


@pytest.fixture
def recorded(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Flows that this process runs are recorded by that server: Prefect read its settings when it was imported."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A real S3 server on the loopback interface."""
    with object_server(tmp_path_factory.mktemp("moto") / "log") as started:
        yield started


@pytest.fixture
def bucket(object_store: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a bucket of this test alone, which this process and those that it starts can use."""
    name = f"b-{uuid.uuid4().hex}"
    object_store.make_bucket(name)
    for variable, value in environment(object_store.url, tmp_path / "cache").items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}"


@pytest.fixture
def proxy(bucket: str, object_store: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """The bucket's server behind a proxy that is faultless until told otherwise."""
    with FaultyProxy(object_store).running() as started:
        monkeypatch.setenv("AWS_ENDPOINT_URL", started.url)
        yield started
