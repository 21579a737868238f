import base64
import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from pipelines.generation.build import build_corpus
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import committed, load
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.browser.pages import Served, Visitor, wait_for

# Whoever can write in a workspace can write such a page.
_PLANTED = """<!doctype html><title>quiet</title><style>h1 { color: rgb(1, 2, 3) }</style><h1>Planted</h1>
<details><summary>more</summary><p>folded</p></details><nav><a href="#end">down</a></nav>
<script>document.title = "ran"; fetch("/api/flows/filter", {method: "POST", body: "{}"})</script>
<img src="x" onerror="document.title = 'ran'">
<img alt="drawn" src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>">
<form action="/api/flows/filter" method="post"><button>send</button></form><p id="end">end</p>"""


def processes_of(run: str) -> list[str]:
    """Command lines of the processes of a flow run, Ray's own among them."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if f"PREFECT__FLOW_RUN_ID={run}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def final(served: Served, run: str) -> tuple[str, str]:
    """State of a flow run when it has ended."""
    wait_for(lambda: served.state(run)[0] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
    return served.state(run)


def test_a_form_is_filled_in_and_its_run_followed_to_the_report(visitor: Visitor, served: Served) -> None:
    visitor.open_form("generate-corpus")
    expect(visitor.page.get_by_text("Name of the corpus in the workspace.")).to_be_visible()
    for label, value in (("Name", "pairs"), ("Terms", "2"), ("High", "299")):
        visitor.fill(label, value)
    run = visitor.submit()
    assert final(served, run) == ("COMPLETED", "")
    assert served.ask(f"flow_runs/{run}")["name"] == "generate pairs"
    visitor.page.reload()
    visitor.open_artifact("corpus-report")
    page = visitor.page
    expect(page.get_by_role("heading", name="Corpus pairs")).to_be_visible()
    picture = page.locator("img[src^='data:image/svg']")
    expect(picture).to_be_visible()
    assert b"<svg" in base64.b64decode(str(picture.get_attribute("src")).partition(",")[2])[:200]
    artifacts = served.artifacts(run)
    assert "90,000 of 90,000 rows" in artifacts["generate-corpus"]["description"]
    assert load(Workspace.open(str(served.workspace)).corpus("pairs"), "").manifest.rows == 90_000
    samples = re.findall(r"`([\d+]+)` \| `(\d+)`", artifacts["corpus-report"]["data"])
    assert samples
    for problem, answer in samples:
        assert eval(problem) == int(answer)


def test_the_server_listens_on_the_loopback_interface_alone(served: Served) -> None:
    port = f"{int(served.url.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {words[1] for words in lines if words[3] == "0A" and words[1].endswith(f":{port}")}
    assert listening == {f"0100007F:{port}"}
    assert not [line for line in Path("/proc/net/tcp6").read_text().splitlines() if f":{port} " in line]


def test_a_bad_value_is_refused_in_the_form(visitor: Visitor, served: Served) -> None:
    before = served.ask("flow_runs/count", {})
    visitor.open_form("generate-corpus")
    visitor.fill("Validation", "0.7")
    visitor.page.get_by_role("button", name="Submit").click()
    expect(visitor.page.get_by_text("0.7 is greater than or equal to the maximum of 0.5").first).to_be_visible()
    assert served.ask("flow_runs/count", {}) == before


def test_the_faults_of_a_damaged_corpus_are_a_table_of_the_run(served: Served) -> None:
    folder = served.workspace / "corpora" / "broken"
    build_corpus(CorpusSpec(name="broken", terms=2), LocalLocation(folder), in_flight=0)
    lost = next((folder / "data").rglob("*.parquet"))
    lost.unlink()
    run = served.start("verify-corpus", corpus="broken", make_missing=False)
    assert final(served, run)[0] == "FAILED"
    table = json.loads(served.artifacts(run)["corpus-faults"]["data"])
    assert [row["file"] for row in table] == [lost.relative_to(folder).as_posix()]
    assert table[0]["fault"].startswith("is missing")


def test_what_no_form_can_refuse_is_one_clear_line_in_the_run(served: Served) -> None:
    printed = len(served.log.read_text())
    run = served.start("generate-corpus", family="digits", terms=2, digits=3, min_digits=9, name="never")
    state, message = final(served, run)
    assert state == "FAILED"
    assert "min_digits is 9, above digits (3): raise digits or lower min_digits" in message
    assert "\n" not in message
    assert not (served.workspace / "corpora" / "never").exists()
    # In the terminal too, and nothing else: not what libraries have to say when a process ends.
    wait_for(lambda: not processes_of(run))
    told = "generate-corpus failed: min_digits is 9, above digits (3): raise digits or lower min_digits\n"
    assert served.log.read_text()[printed:] == told


def test_a_planted_page_runs_no_script_asks_for_nothing_and_still_folds(visitor: Visitor, served: Served) -> None:
    place = served.workspace / "runs/evil/report/index.html"
    place.parent.mkdir(parents=True)
    place.write_text(_PLANTED)
    page, asked = visitor.page, []
    # The same page runs where nothing forbids it: the test would notice.
    page.set_content(_PLANTED)
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


@pytest.mark.slow
def test_a_run_is_followed_while_it_runs_and_cancelled_and_the_next_one_goes_on(
    visitor: Visitor, served: Served
) -> None:
    rows = 20_000_000
    wanted = {
        "name": "long",
        "family": "digits",
        "terms": 2,
        "digits": 20,
        "rows": rows,
        "rows_per_shard": 200_000,
    }
    run = served.start("generate-corpus", **wanted)
    notes = served.workspace / "corpora" / "long" / ".progress"
    wait_for(lambda: notes.exists() and len(list(notes.glob("[0-9]*.json"))) >= 4)
    assert processes_of(run)
    visitor.open_run(run)
    visitor.open_tab("Artifacts")
    expect(visitor.page.get_by_text(re.compile(r"\d s left, [\d.]+( [kMG])? rows/s")).first).to_be_visible()
    assert served.state(run)[0] == "RUNNING"
    visitor.cancel(run)
    assert final(served, run)[0] == "CANCELLED"
    wait_for(lambda: not processes_of(run), 10)
    place = Workspace.open(str(served.workspace)).corpus("long")
    assert not committed(place)
    written = {path: path.stat().st_mtime_ns for path in Path(str(place)).rglob("*.parquet")}
    assert written
    again = served.start("generate-corpus", **wanted)
    assert final(served, again)[0] == "COMPLETED"
    assert load(place, "").manifest.rows == rows
    noted = [path for path, changed in written.items() if path.stat().st_mtime_ns == changed]
    assert len(noted) > 0.5 * len(written)
