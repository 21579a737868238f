from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.browser.pages import Served, Visitor, browser, chromium, start_serving


@pytest.fixture(scope="module")
def chromium_browser() -> Iterator[Browser]:
    """A real browser; `make browser` installs Debian's. Until it closes, its event loop runs in this thread."""
    if not chromium():
        pytest.skip("no chromium on this machine: 'make browser' as root installs it")
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A served workspace."""
    server = start_serving(tmp_path_factory.mktemp("served") / "workspace", "--port", "0")
    yield server
    server.stop()


@pytest.fixture
def visitor(chromium_browser: Browser, served: Served) -> Iterator[Visitor]:
    """A user of the Prefect UI."""
    page = chromium_browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(60_000)
    yield Visitor(page, served)
    page.close()
