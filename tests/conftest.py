"""The tests never use the home of their user: Prefect, Ray and matplotlib use a temporary home."""

import atexit
import os
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

# Exit functions run in reverse order, so this one is the last. DuckDB's bindings print about live objects afterwards.
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

# The time limit of a slow test; all other tests have the `timeout` of pyproject.toml.
_SLOW_SECONDS = 3_600


def pytest_configure(config: pytest.Config) -> None:
    """In CI an unexpected skip fails the run; xdist's workers report to the main process, which decides."""
    if os.environ.get("CI") == "true" and not hasattr(config, "workerinput"):
        config.pluginmanager.register(UnexpectedSkips())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give slow tests their time limit."""
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SLOW_SECONDS))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A small corpus with its tokenizer and tokens; tests must not change it."""
    return build_small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def longer(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A corpus whose rows have two widths; tests must not change it."""
    return build_small(tmp_path_factory.mktemp("longer"), LONGER)


@pytest.fixture(scope="session", params=list(TOKENIZERS))
def of_kind(longer: Built, request: pytest.FixtureRequest) -> Built:
    """The corpus `longer` with each kind of tokenizer; tests must not change it."""
    if request.param == "digit":
        return longer
    return encode_plainly(longer.workspace, longer.spec, longer.corpus, TOKENIZERS[request.param])


@pytest.fixture
def own_small(tmp_path: Path) -> Built:
    """A copy of `small` for a test that changes it."""
    return build_small(tmp_path)


@pytest.fixture(scope="session")
def ray_instance() -> Iterator[int]:
    """A real, private Ray."""
    from flows.common.engines import ray_session

    with ray_session(cpus=2) as cpus:
        yield cpus


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real, shared Prefect server; a command that starts its own server needs ten seconds for it."""
    from flows.server.app import PrefectServer

    server = PrefectServer(tmp_path_factory.mktemp("prefect"))
    yield server.api_url
    server.stop()


@pytest.fixture
def recorded(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """`prefect_api`, which also records the flows of this process; Prefect reads the environment only at its import."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api


@pytest.fixture(scope="session")
def object_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A real S3 server on the loopback interface."""
    with object_server(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture
def bucket(object_store: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URI of a new bucket, which this process and its children can use."""
    name = f"b-{uuid.uuid4().hex}"
    object_store.make_bucket(name)
    for variable, value in environment(object_store.url, tmp_path / "cache").items():
        monkeypatch.setenv(variable, value)
    return f"s3://{name}"


@pytest.fixture
def proxy(bucket: str, object_store: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy in front of the bucket's server; it injects no fault until the test sets `fault`."""
    with FaultyProxy(object_store).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy
