"""Reports in a real browser: whoever can write in a workspace can make nobody's browser run anything."""

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.pages import Served, Visitor

_PAGE = """<!doctype html><title>quiet</title><style>h1 { color: rgb(1, 2, 3) }</style><h1>Planted</h1>
<details><summary>more</summary><p>folded</p></details><nav><a href="#end">down</a></nav>
<script>document.title = "ran"; fetch("/api/flows/filter", {method: "POST", body: "{}"})</script>
<img src="x" onerror="document.title = 'ran'">
<img alt="drawn" src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>">
<form action="/api/flows/filter" method="post"><button>send</button></form><p id="end">end</p>"""


def test_a_planted_page_runs_no_script_asks_for_nothing_and_still_folds(visitor: Visitor, served: Served) -> None:
    place = Path(served.workspace) / "runs/evil/report/index.html"
    place.parent.mkdir(parents=True)
    place.write_text(_PAGE)
    page, asked = visitor.page, []
    # The same page runs where nothing forbids it: the test would notice.
    page.set_content(_PAGE)
    expect(page).to_have_title("ran")
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{served.url}/reports/runs/evil/report/index.html")
    expect(page.get_by_role("heading", name="Planted")).to_have_css("color", "rgb(1, 2, 3)")
    page.get_by_text("more").click()
    expect(page.get_by_text("folded")).to_be_visible()
    page.get_by_text("down").click()
    assert page.url.endswith("#end")
    page.get_by_role("button", name="send").click()
    assert page.get_by_alt_text("drawn").evaluate("image => image.naturalWidth") == 9
    assert page.title() == "quiet"
    assert not [url for url in asked if "/api/" in url]
