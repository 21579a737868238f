"""Nothing in the tests touches the home of whoever runs them: Prefect, Ray and matplotlib get a folder of their own."""

import atexit
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Runs last of all exit functions: DuckDB's bindings then report objects that others still hold.
atexit.register(lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 2))
_HOME = tempfile.mkdtemp(prefix="numerate-tests-")
os.environ["HOME"] = _HOME
for _name in [name for name in os.environ if name.startswith(("PREFECT_", "RAY_"))]:
    del os.environ[_name]
os.environ["PREFECT_HOME"] = f"{_HOME}/prefect"
os.environ["PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"] = "120"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["DO_NOT_TRACK"] = "1"

from tests.builders import LONGER, TOKENIZERS, Built, build_small, encode_plainly  # noqa: E402  (after the environment is set)


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
    from flows.session import ray_session

    with ray_session(cpus=2) as cpus:
        yield cpus


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """URL of a real Prefect server, for commands that needn't show how they start one of their own: that takes each
    of them ten seconds."""
    from prefect.server.api.server import SubprocessASGIServer

    server = SubprocessASGIServer()
    server.start()
    yield server.api_url
    server.stop()
