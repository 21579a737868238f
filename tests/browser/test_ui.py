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
from tests.browser.pages import Served, Visitor
from tests.processes import command_line, processes_with, wait_for

# Every user who can write in a workspace can write such a page.
_MALICIOUS_PAGE = """<!doctype html><title>quiet</title><style>h1 { color: rgb(1, 2, 3) }</style><h1>Malicious</h1>
<details><summary>more</summary><p>folded</p></details><nav><a href="#end">down</a></nav>
<script>document.title = "ran"; fetch("/api/flows/filter", {method: "POST", body: "{}"})</script>
<img src="x" onerror="document.title = 'ran'">
<img alt="drawn" src="data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>">
<form action="/api/flows/filter" method="post"><button>send</button></form><p id="end">end</p>"""


def processes_of(run: str) -> list[str]:
    """Command lines of the processes of a flow run, including Ray's."""
    return [command_line(process) for process in processes_with("PREFECT__FLOW_RUN_ID", run)]


def final_state(served: Served, run: str) -> tuple[str, str]:
    """Type and message of a flow run's state, once the run has ended."""
    wait_for(lambda: served.state(run)[0] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"))
    return served.state(run)


def test_form_starts_a_run_that_ends_with_a_report(visitor: Visitor, served: Served) -> None:
    visitor.open_form("generate-corpus")
    expect(visitor.page.get_by_text("Name of the corpus in the workspace.")).to_be_visible()
    for label, value in (("Name", "pairs"), ("Terms", "2"), ("High", "299")):
        visitor.fill(label, value)
    run = visitor.submit()
    assert final_state(served, run) == ("COMPLETED", "")
    assert served.call(f"flow_runs/{run}")["name"] == "generate pairs"
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


def test_server_listens_only_on_the_loopback_interface(served: Served) -> None:
    port = f"{int(served.url.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = {words[1] for words in lines if words[3] == "0A" and words[1].endswith(f":{port}")}
    assert listening == {f"0100007F:{port}"}
    assert not [line for line in Path("/proc/net/tcp6").read_text().splitlines() if f":{port} " in line]


def test_form_rejects_an_invalid_value_and_starts_no_run(visitor: Visitor, served: Served) -> None:
    runs = served.call("flow_runs/count", {})
    visitor.open_form("generate-corpus")
    visitor.fill("Validation", "0.7")
    visitor.page.get_by_role("button", name="Submit").click()
    expect(visitor.page.get_by_text("0.7 is greater than or equal to the maximum of 0.5").first).to_be_visible()
    assert served.call("flow_runs/count", {}) == runs


def test_verification_of_a_damaged_corpus_lists_its_faults_in_a_table(served: Served) -> None:
    folder = served.workspace / "corpora" / "broken"
    build_corpus(CorpusSpec(name="broken", terms=2), LocalLocation(folder), in_flight=0)
    missing = next((folder / "data").rglob("*.parquet"))
    missing.unlink()
    run = served.start("verify-corpus", corpus="broken", make_missing=False)
    assert final_state(served, run)[0] == "FAILED"
    table = json.loads(served.artifacts(run)["corpus-faults"]["data"])
    assert [row["file"] for row in table] == [missing.relative_to(folder).as_posix()]
    assert table[0]["fault"].startswith("is missing")


def test_error_that_involves_several_fields_fails_the_run_with_a_one_line_message(served: Served) -> None:
    printed_before = len(served.log.read_text())
    run = served.start("generate-corpus", family="digits", terms=2, digits=3, min_digits=9, name="never")
    state, message = final_state(served, run)
    assert state == "FAILED"
    assert "min_digits is 9, above digits (3): raise digits or lower min_digits" in message
    assert "\n" not in message
    assert not (served.workspace / "corpora" / "never").exists()
    # The terminal shows this line only, without what libraries print when a process ends.
    wait_for(lambda: not processes_of(run))
    error = "generate-corpus failed: min_digits is 9, above digits (3): raise digits or lower min_digits\n"
    assert served.log.read_text()[printed_before:] == error


def test_report_page_runs_no_script_and_calls_no_api_but_still_folds(visitor: Visitor, served: Served) -> None:
    path = served.workspace / "runs/evil/report/index.html"
    path.parent.mkdir(parents=True)
    path.write_text(_MALICIOUS_PAGE)
    page, requested = visitor.page, []
    # Outside of the server the scripts of the same page run: the test detects them.
    page.set_content(_MALICIOUS_PAGE)
    expect(page).to_have_title("ran")
    page.on("request", lambda request: requested.append(request.url))
    page.goto(f"{served.url}/reports/runs/evil/report/index.html")
    expect(page.get_by_role("heading", name="Malicious")).to_have_css("color", "rgb(1, 2, 3)")
    page.get_by_text("more").click()
    expect(page.get_by_text("folded")).to_be_visible()
    page.get_by_text("down").click()
    assert page.url.endswith("#end")
    page.get_by_role("button", name="send").click()
    assert page.get_by_alt_text("drawn").evaluate("image => image.naturalWidth") == 9
    assert page.title() == "quiet"
    assert not [url for url in requested if "/api/" in url]


@pytest.mark.slow
def test_cancelled_run_stops_its_processes_and_the_next_run_reuses_its_shards(visitor: Visitor, served: Served) -> None:
    rows = 20_000_000
    request = {
        "name": "long",
        "family": "digits",
        "terms": 2,
        "digits": 20,
        "rows": rows,
        "rows_per_shard": 200_000,
    }
    run = served.start("generate-corpus", **request)
    notes = served.workspace / "corpora" / "long" / ".progress"
    wait_for(lambda: notes.exists() and len(list(notes.glob("[0-9]*.json"))) >= 4)
    assert processes_of(run)
    visitor.open_run(run)
    visitor.open_tab("Artifacts")
    expect(visitor.page.get_by_text(re.compile(r"\d s left, [\d.]+( [kMG])? rows/s")).first).to_be_visible()
    assert served.state(run)[0] == "RUNNING"
    visitor.cancel(run)
    assert final_state(served, run)[0] == "CANCELLED"
    wait_for(lambda: not processes_of(run), 60)
    corpus = Workspace.open(str(served.workspace)).corpus("long")
    assert not committed(corpus)
    written = {path: path.stat().st_mtime_ns for path in Path(str(corpus)).rglob("*.parquet")}
    assert written
    resumed = served.start("generate-corpus", **request)
    assert final_state(served, resumed)[0] == "COMPLETED"
    assert load(corpus, "").manifest.rows == rows
    reused = [path for path, modified in written.items() if path.stat().st_mtime_ns == modified]
    assert len(reused) > 0.5 * len(written)
