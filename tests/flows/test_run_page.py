"""The page of a run shows its results and needs nothing else."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from flows.cli.app import app
from flows.common.parameters import EvaluateRequest
from flows.evaluate_encoder import evaluate_encoder
from flows.reports.evaluation import section as report
from flows.reports.probing.page import SECTION, ProbingSection
from flows.reports.run_page import write_run_page
from flows.reports.validation_figure import validation_figure
from model.comparison.tables import write_tables
from model.config.evaluation import Decoding
from model.runs.run_config import load_run
from model.training.preflight import prepare
from model.training.trainer import train
from storage.errors import UserError
from storage.sql.query import open_catalog, select
from storage.workspace import Workspace
from tests.builders import TINY_TRAINING, Built, build_small
from tests.model.runs import job_of
from tests.model.test_rewriting_training import REWRITING
from tests.model.test_rewriting_training import SPEC as REWRITING_TRAINING

VOID = {"meta", "br", "img", "path", "use", "rect", "image"}


class Reader(HTMLParser):
    """What a page asks of its reader's machine, and whether its tags are in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.titles: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") and value and value[0] != "#"]

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"] or self.open[-2:] == ["summary", "strong"]:
            self.titles.append(data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A workspace with a trained run that is not evaluated."""
    built = build_small(tmp_path_factory.mktemp("page"))
    # What the machine supports; the page says which that was.
    spec = TINY_TRAINING.model_copy(update={"precision": "auto"})
    train(job_of(built, (built.workspace.root / "runs").path, spec))
    return built


def read(page: Path) -> tuple[Reader, str]:
    reader, text = Reader(), page.read_text()
    reader.feed(text)
    assert reader.open == []
    return reader, text


@pytest.mark.usefixtures("recorded")
def test_page_has_a_section_for_each_result(trained: Built) -> None:
    page = Path(str(write_run_page(trained.workspace, "run")))
    assert read(page)[0].titles == ["Training", "Corpus small", "Tokenizer small-digit"]
    request = EvaluateRequest(workspace=str(trained.workspace.root), name="run")
    told = evaluate_encoder.fn(request)
    precision = load_run(trained.workspace.run("run")).precision
    assert precision in ("float32", "bfloat16")
    assert told["precision"] == precision
    evaluate_encoder.fn(request.model_copy(update={"decoding": Decoding(passes=2)}))
    evaluate_encoder.fn(request.model_copy(update={"name": "both", "compare": ("run",)}))
    reader, text = read(page)
    asked = [title for title in reader.titles if title.startswith(("Evaluation", "Comparison"))]
    assert f"computed in {precision}" in text
    assert f'precision</td><td class="n">{precision}</td>' in text
    assert asked[0] == "Evaluation: test split of small"
    assert asked[1].startswith("Evaluation: small-")
    assert asked[2:] == ["Comparison: both, test"]
    assert f"{told['correct']:,} of {told['problems']:,} test problems" in " ".join(text.split())
    # Its own, the learning curve, the corpus and the other evaluation have figures.
    assert text.count("data:image/svg+xml;base64,") >= 8


def test_page_includes_comparisons_with_and_without_a_unit_and_over_seeds(trained: Built, tmp_path: Path) -> None:
    folder = trained.workspace.comparison("units")
    asked = {"asked": "small", "applied": "on", "operator": "+"}
    for run, unit, right in (("run", "none", 0.25), ("other", "residue", 0.75)):
        about = {"run": run, "unit": unit, "seed": 0, "steps": 12, "parameters": 100, "gate": None}
        curve = [{"step": step, "operator": "+", "exact_match": right * step / 12} for step in (6, 12)]
        rows = [{**asked, "problems": 4, "correct": int(4 * right), "exact_match": right}]
        (folder / "asked" / f"{run}.json").write(json.dumps({"about": about, "rows": rows, "curve": curve}).encode())
    # What of the other run is compared lies in its metrics; here these are the same.
    runs = trained.workspace.root / "runs"
    shutil.copytree(Path(str(runs)) / "run" / "metrics", Path(str(runs)) / "other" / "metrics")
    write_tables(trained.workspace, folder, {"run": "tiny", "other": "tiny"}, "small", 0.99)
    seeds = trained.workspace.comparison("seeds") / "probes"
    for place, runs, text in (
        (seeds, ("run", "other"), "what they have in common"),
        (trained.workspace.comparison("strange") / "probes", ("other",), "nothing of it"),
    ):
        found = ProbingSection(runs=runs, checkpoint="best", spread=text, findings=(), figures=(), remarks=())
        (place / SECTION).write(found.model_dump_json().encode())
    reader, text = read(Path(str(write_run_page(trained.workspace, "run"))))
    assert {"Comparison: units, with and without a unit", "Probing of the runs of seeds"} <= set(reader.titles)
    assert "what they have in common" in text
    assert "nothing of it" not in text
    assert 'alt="Exact match against problems seen' in text
    words = " ".join(re.sub("<[^>]*>", " ", text).split())
    assert "tiny learned only 1 25.0 25.0–25.0" in words
    assert "tiny with residue 1 75.0 75.0–75.0" in words
    query = "SELECT comparison, run, unit, evaluation_corpus, exact_match FROM comparisons ORDER BY run"
    expected = [("units", "other", "residue", "small", 0.75), ("units", "run", "none", "small", 0.25)]
    with open_catalog(trained.workspace) as connection:
        assert select(connection, query).fetchall() == expected
    # Earlier versions wrote another column.
    file = (folder / "table.parquet").path
    pq.write_table(pq.read_table(file).rename_columns({"evaluation_corpus": "asked"}), file)
    assert read(Path(str(write_run_page(trained.workspace, "run"))))[1] == text
    with open_catalog(trained.workspace) as connection:
        assert select(connection, query).fetchall() == expected
        assert "asked" not in connection.table("comparisons").columns


def test_shipped_encoder_has_a_page(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path))
    app(["report", "notebook", "--workspace", str(tmp_path)], exit_on_error=False, result_action="return_value")
    assert read(Path(str(workspace.run("shipped-notebook") / "report" / "index.html")))[1]


def test_page_needs_no_network_and_no_script_and_has_a_dark_style(trained: Built) -> None:
    page = Path(str(write_run_page(trained.workspace, "run")))
    reader, text = read(page)
    assert [value for value in reader.outside if not value.startswith("data:image/svg+xml;base64,")] == []
    assert not re.search(r"<script|@import|url\(http", text)
    assert "prefers-color-scheme: dark" in text
    for figure in re.findall('base64,([^"]*)', text):
        drawn = base64.b64decode(figure).decode()
        assert "prefers-color-scheme:dark" in drawn
        assert "#000000" not in drawn


EVIL = "</script><script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\">"


@pytest.mark.usefixtures("recorded")
def test_contents_of_the_workspace_are_escaped_in_a_page(own_small: Built) -> None:
    workspace = own_small.workspace
    train(job_of(own_small, (workspace.root / "runs").path, TINY_TRAINING))
    evaluate_encoder.fn(EvaluateRequest(workspace=str(workspace.root), name="run"))
    run = workspace.run("run")
    section = json.loads((run / report.SECTION).read())
    section["figures"] = [[f"title {EVIL}", f'<svg aria-label="{EVIL}"><script>1</script></svg>']]
    section["wrong"], section["remarks"] = [[EVIL, EVIL, EVIL, 0.5]], [EVIL]
    planted = json.dumps(section).encode()
    for label, data in (("planted", planted), ("garbage", b"[" * 100_000), ("html", EVIL.encode()), ("other", b"{}")):
        (run / "evaluations" / label / report.SECTION).write(data)
        (run / "evaluations" / label / "report" / "section.html").write(EVIL.encode())
    (run / "report" / "section.html").write(EVIL.encode())
    seeds = ProbingSection(runs=("run",), checkpoint=EVIL, spread=EVIL, findings=(), figures=(), remarks=(EVIL,))
    (run / "probes" / SECTION).write(seeds.model_dump_json().encode())
    reader, text = read(Path(str(write_run_page(workspace, "run"))))
    asked = [title for title in reader.titles if title.startswith(("Evaluation", "Probing"))]
    assert asked == ["Evaluation: test split of small", "Evaluation: planted", "Probing"]
    assert "<script" not in text
    assert "<img src=x" not in text
    assert text.count("&lt;script&gt;") >= 6


def test_missing_files_are_left_out(trained: Built, tmp_path: Path) -> None:
    moved = tmp_path / "corpora"
    place = Path(str(trained.workspace.root)) / "corpora"
    place.rename(moved)
    try:
        page = Path(str(write_run_page(trained.workspace, "run")))
        assert "Corpus small" not in read(page)[0].titles
    finally:
        moved.rename(place)


def test_missing_run_is_a_one_line_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere") as error:
        write_run_page(Workspace.create(str(tmp_path / "workspace")), "nowhere")
    assert "\n" not in str(error.value)


def test_page_of_an_encoder_that_rewrites_draws_errors_on_validation_by_difficulty(tmp_path: Path) -> None:
    built = build_small(tmp_path, REWRITING)
    for name, spec in (("rewriting", REWRITING_TRAINING), ("plain", None)):
        if spec:
            train(*prepare(built.workspace, name, "small", "small-digit", spec))
        with open_catalog(built.workspace) as connection:
            figure = validation_figure(connection, name)
        for label in ("largest column total", "bound of carries", "depth of brackets"):
            assert (f"<!-- {label} -->" in figure) == (spec is not None)
    page = write_run_page(built.workspace, "rewriting").read().decode()
    assert "Errors on validation by what makes problems hard" in page
