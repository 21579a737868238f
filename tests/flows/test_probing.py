"""`numerate probe`: pages and views, for one run and for several, and one-line errors."""

from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pytest

from flows.common.parameters import ProbeRequest
from flows.probe_encoder import probe_encoder
from flows.reports.probing.data import ProbeData
from flows.reports.probing.interventions import heads_figure
from model.config.training import TrainingSpec
from model.training.trainer import train
from storage.errors import UserError
from storage.sql.query import open_catalog, select
from storage.sql.views import VIEWS
from storage.workspace import Workspace
from tests.builders import TINY_TRAINING, Built, build_small
from tests.model.runs import job_of

SEEDS = ("run-seed0", "run-seed1", "run-seed2")


class Captions(HTMLParser):
    """Counts the figures of a page and collects its texts."""

    def __init__(self) -> None:
        super().__init__()
        self.figures, self.pictures, self.lines = 0, 0, list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.figures += tag == "figure"
        self.pictures += tag == "img" and any(name == "alt" and text for name, text in attrs)
        assert tag not in ("script", "link", "iframe")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.lines.append(data.strip())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A workspace with three seeds of a run whose encoder has a symbolic unit."""
    built = build_small(tmp_path_factory.mktemp("probing"))
    encoder = TINY_TRAINING.encoder.model_copy(update={"unit": "residue"})
    for seed, name in enumerate(SEEDS):
        spec: TrainingSpec = TINY_TRAINING.model_copy(update={"seed": seed, "encoder": encoder})
        train(job_of(built, (built.workspace.root / "runs").path, spec, name))
    return built


def requested(workspace: Workspace, **values: object) -> ProbeRequest:
    return ProbeRequest.model_validate({"workspace": str(workspace.root), "problems": 200, "edited": 90, **values})


def checked_page(place: str) -> Captions:
    captions = Captions()
    text = Path(place).read_text()
    captions.feed(text)
    assert captions.figures == captions.pictures > 2
    assert sum(line.startswith("Shows: ") for line in captions.lines) == captions.figures
    assert sum(line.startswith("Limits: ") for line in captions.lines) == captions.figures
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert "nan" not in " ".join(captions.lines)
    return captions


@pytest.mark.usefixtures("recorded")
def test_encoder_that_rewrites_is_probed_and_its_page_says_what_its_states_are_used_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.probing.probes._ITERATIONS", 10)
    workspace = Workspace.create(str(tmp_path / "workspace"))
    result = probe_encoder.fn(requested(workspace, name="arithmetic", loops=(6,)))
    found = {finding["name"]: finding["found"] for finding in result["findings"]}
    assert {name for name, is_found in found.items() if is_found} >= {
        *("consumed digit used", "carry between places used", "precedence used")
    }
    captions = checked_page(result["page"])
    assert captions.figures == 6
    with open_catalog(workspace) as connection:
        assert len(select(connection, "SELECT DISTINCT experiment FROM probe_interventions").fetchall()) == 3


@pytest.mark.usefixtures("recorded")
def test_shipped_encoder_is_probed_and_all_views_have_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Enough to read a digit from its embedding; how well probes learn is shown beside their own tests.
    monkeypatch.setattr("model.probing.probes._ITERATIONS", 10)
    workspace = Workspace.create(str(tmp_path / "workspace"))
    result = probe_encoder.fn(requested(workspace, name="notebook", layers=(1,)))
    assert result["runs"] == ["shipped-notebook"]
    captions = checked_page(result["page"])
    assert captions.figures == 7
    assert any("one seed" in line for line in captions.lines)
    found = {finding["name"]: finding for finding in result["findings"]}
    # These weights have digits on a circle and use it.
    assert found["digits on a circle"]["found"]
    assert found["circle used"]["found"]
    with open_catalog(workspace) as connection:
        for view in (name for name in VIEWS if name.startswith("probe")):
            rows = select(connection, f"SELECT * FROM {view}").fetchall()
            assert bool(rows) == (view != "probe_unit"), view
        (kappa,) = select(
            connection,
            "SELECT max(kappa) FROM probes WHERE position = 'operand' AND label = 'digit' AND layer = 0 "
            "AND control = 'trained'",
        ).fetchall()[0]
        trained, at_random = (
            select(
                connection,
                "SELECT max(kappa), avg(kappa) FROM probes WHERE position = 'answer' AND label = 'carry in' AND "
                f"split = 'numbers' AND probe = 'linear' AND control = '{control}'",
            ).fetchall()[0]
            for control in ("trained", "random")
        )
        edits = select(
            connection,
            "SELECT measure, value, control FROM probe_series WHERE measure IN ('moved: circle', 'patched: carry', "
            "'ablated: head')",
        ).fetchall()
    assert len(edits) == 3
    assert all(0 <= value <= 1 and 0 <= control <= 1 for _, value, control in edits)
    selectivity = f"selectivity {trained[0] - at_random[1]:.2f}"
    assert selectivity in found["carry in decoded"]["text"]
    assert any(selectivity in line for line in captions.lines)
    # An operand's embedding determines its digit.
    assert kappa == 1


@pytest.mark.slow
@pytest.mark.usefixtures("recorded")
def test_several_seeds_are_reported_with_intervals_and_cached(
    trained: Built, capsys: pytest.CaptureFixture[str]
) -> None:
    request = requested(trained.workspace, name="seeds", compare=SEEDS)
    result = probe_encoder.fn(request)
    assert result["page"].endswith("comparisons/seeds/probes/index.html")
    captions = checked_page(result["page"])
    assert any("95 % intervals over 3 seeds" in line for line in captions.lines)
    assert {"What the symbolic unit is used for", "Along training"} <= set(captions.lines)
    assert "(up to date)" not in capsys.readouterr().err
    assert probe_encoder.fn(request) == result
    assert capsys.readouterr().err.count("(up to date)") == 3
    with open_catalog(trained.workspace) as connection:
        steps = select(connection, "SELECT DISTINCT run, step FROM probe_series").fetchall()
        operators = select(connection, "SELECT DISTINCT operator FROM probe_unit WHERE operator <> 'all'").fetchall()
    assert operators == [("+",)]
    assert {run for run, _ in steps} == set(SEEDS)
    assert len(steps) > 3


@pytest.mark.parametrize(
    ("runs", "text"),
    [
        (("a",), "30% (25% to 35%) stay correct without head 1 of layer 2"),
        (("a", "b", "c"), "5 to 60% stay correct without the head that each run needs most"),
    ],
)
def test_each_of_several_runs_has_its_own_most_important_head(runs: tuple[str, ...], text: str) -> None:
    """Heads with the same number in several seeds may do different things, so their mean has no meaning."""
    shares = {"a": [0.9, 0.8, 0.7, 0.3], "b": [0.05, 0.9, 0.9, 0.9], "c": [0.9, 0.6, 0.8, 0.7]}
    with duckdb.connect() as connection:
        connection.execute(
            "CREATE TABLE probe_interventions (run VARCHAR, checkpoint VARCHAR, experiment VARCHAR, layer INT, "
            "site VARCHAR, way VARCHAR, predicted DOUBLE, low DOUBLE, high DOUBLE)"
        )
        connection.execute("CREATE TABLE probe_unit (run VARCHAR, checkpoint VARCHAR, measure VARCHAR, value DOUBLE)")
        for run, found in shares.items():
            rows = [(layer, f"head {head}", "ablated") for layer in (1, 2) for head in (0, 1)]
            for (layer, site, way), share in zip([*rows, (1, "random subspace", "random")], [*found, 0.0], strict=True):
                row = [run, "best", "head", layer, site, way, share, share - 0.05, share + 0.05]
                connection.execute(f"INSERT INTO probe_interventions VALUES ({', '.join('?' * len(row))})", row)
        figure = heads_figure(ProbeData(connection, runs, "best"))
    assert figure
    assert f"Of problems answered correctly, {text}" in figure.shows


@pytest.mark.usefixtures("recorded")
def test_invalid_requests_are_one_line(trained: Built) -> None:
    for values, text in (
        ({"name": "nobody"}, "run 'nobody' does not exist"),
        ({"name": SEEDS[0], "layers": (7,)}, "layer 7 does not exist: run 'run-seed0' has layers 1 to 2"),
        ({"name": SEEDS[0], "loops": (9,)}, "loop 9 does not exist"),
    ):
        with pytest.raises(UserError, match=text) as error:
            probe_encoder.fn(requested(trained.workspace, **values))
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="too few seeds for an interval: list three or more"):
        requested(trained.workspace, compare=SEEDS[:2])
    with pytest.raises(ValueError, match="lists a run twice"):
        requested(trained.workspace, compare=(*SEEDS, SEEDS[0]))


@pytest.mark.usefixtures("recorded")
def test_runs_of_different_trainings_are_rejected_before_any_work(trained: Built) -> None:
    encoder = TINY_TRAINING.encoder.model_copy(update={"unit": "residue"})
    spec = TINY_TRAINING.model_copy(update={"seed": 7, "learning_rate": 0.5, "encoder": encoder})
    train(job_of(trained, (trained.workspace.root / "runs").path, spec, "unlike"))
    with pytest.raises(UserError, match=r"differ in more than their seed \(training\.learning_rate\)"):
        probe_encoder.fn(requested(trained.workspace, name="mix", compare=(*SEEDS[:2], "unlike")))
    assert not trained.workspace.comparison("mix").children()
