"""`make screenshots`: takes the pictures of the Prefect UI in flows/README.md, in a workspace that it serves."""

import tempfile
from pathlib import Path

from playwright.sync_api import Page

from tests.browser.pages import Visitor, browser, chromium, start_serving
from tests.processes import wait_for

PICTURES = Path(__file__).parent / "pictures"
_WIDTH, _HEIGHT = 1280, 860


def main() -> None:
    """Write every picture."""
    assert chromium(), "no chromium on this machine: run 'apt-get install chromium' as root"
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, browser() as started:
        served = start_serving(Path(folder) / "workspace")
        try:
            page = started.new_page(viewport={"width": _WIDTH, "height": _HEIGHT})
            _take_all(Visitor(page, served))
        finally:
            served.stop()


def _take_all(visitor: Visitor) -> None:
    page, served = visitor.page, visitor.served
    page.goto(f"{served.url}/v2/deployments")
    page.get_by_text("train-encoder").first.wait_for()
    _take(page, "deployments")
    visitor.open_form("generate-corpus")
    for label, value in (("Name", "pairs"), ("Terms", "2"), ("High", "999"), ("Validation", "0.7")):
        visitor.fill(label, value)
    page.get_by_role("button", name="Submit").click()
    page.get_by_text("0.7 is greater than or equal to the maximum of 0.5").last.wait_for()
    page.get_by_label("Validation").scroll_into_view_if_needed()
    _take(page, "refusal")
    visitor.open_form("generate-corpus")
    for label, value in (("Name", "pairs"), ("Terms", "2"), ("High", "999")):
        visitor.fill(label, value)
    _take(page, "form")
    run = visitor.submit()
    wait_for(lambda: served.state(run)[0] == "COMPLETED")
    page.reload()
    visitor.open_artifact("corpus-report")
    page.get_by_role("heading", name="Corpus pairs").wait_for()
    _take(page, "report", full_page=True)
    run = served.start("generate-corpus", name="long", family="digits", terms=2, digits=20, rows=60_000_000)
    wait_for(lambda: "rows/s" in (served.artifacts(run).get("generate-corpus", {}).get("description") or ""))
    visitor.open_run(run)
    visitor.open_tab("Artifacts")
    page.locator("a[href*='/artifacts/key/generate-corpus']").first.wait_for()
    _take(page, "progress")
    visitor.cancel(run)
    wait_for(lambda: served.state(run)[0] == "CANCELLED")


def _take(page: Page, name: str, *, full_page: bool = False) -> None:
    """Write one picture after the page has loaded."""
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(1_500)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=full_page)


if __name__ == "__main__":
    main()
