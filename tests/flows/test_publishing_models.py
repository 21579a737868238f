import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub import snapshot_download

from flows.cli.verbs.publish import Target, publish_model
from flows.cli.verbs.solve import Solver
from flows.hub.contents import model_publication
from flows.hub.model_card import model_card
from model.evaluation.predictor import TrainedEncoder
from model.runs.pretrained import export, exported_files, shipped_runs
from model.runs.run_config import load_run
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.flows.conftest import Typed
from tests.flows.test_publishing import card_of
from tests.hub import Hub


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace with a trained run, `sums`; not to be changed by a test."""
    found = Workspace.create(str(tmp_path_factory.mktemp("models")))
    export(shipped_runs()["signed"], found.run("sums"))
    return found


def test_downloaded_encoder_solves_problems(
    workspace: Workspace,
    hub: Hub,
    typed: Typed,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    publish_model("sums", target=Target(to="ada/sums", licence="mit", workspace=str(workspace.root), as_json=True))
    sent = json.loads(capsys.readouterr().out)
    assert (sent["kind"], sent["existing"], sent["url"]) == ("model", 0, f"{hub.url}/ada/sums")
    snapshot = snapshot_download("ada/sums", local_dir=tmp_path / "downloaded" / "sums", endpoint=hub.url)
    # As `numerate model export` writes it, and the card.
    exported = LocalLocation(tmp_path / "sums")
    export(workspace.run("sums"), exported)
    for path in exported.path.rglob("*"):
        if path.is_file():
            assert (Path(snapshot) / path.relative_to(exported.path)).read_bytes() == path.read_bytes()
    model, text = Solver(Workspace.open(str(tmp_path / "none")), snapshot).model_for("12-345")
    original = TrainedEncoder.open(workspace.run("sums"))
    assert model.solve([text]) == original.solve([text])
    solved = typed("solve", "--run", snapshot, "12-345", "--workspace", str(workspace.root))
    assert solved.stdout == "-333\n"
    publish_model("sums", target=Target(to="ada/sums", licence="mit", workspace=str(workspace.root)))
    assert "up to date" in capsys.readouterr().out


def test_model_card_has_results_and_usage(workspace: Workspace) -> None:
    publication = model_publication(workspace, "sums", "ada/sums")
    head, body = card_of(publication.card)
    report = json.loads((workspace.run("sums") / "report.json").read())
    results = {each["dataset"]["name"]: each["metrics"][0]["value"] for each in head["model-index"][0]["results"]}
    assert results[f"corpus {report['corpus']}"] == report["exact_match"]
    assert len(results) == 3
    assert f"| {report['correct']:,} | {report['problems']:,} |" in body
    parameters = sum(weight.numel() for weight in TrainedEncoder.open(workspace.run("sums")).encoder.parameters())
    assert f"{parameters:,} parameters" in body
    assert "`+`, `-` between 2 numbers of at most 12 digits, and rejects longer ones" in body
    example = body.split('--run ./sums "')[1].split('"')[0]
    assert TrainedEncoder.open(workspace.run("sums")).solve([example])[0].answer == str(eval(example))
    request = yaml.safe_load(next(file for file in publication.files if file.path == "request.yaml").content())
    assert yaml.safe_load(body.split("```yaml\n")[1].split("```")[0]) == request


@pytest.mark.parametrize("name", sorted(shipped_runs()))
def test_reports_of_other_steps_are_left_out_and_damaged_ones_rejected(name: str) -> None:
    run = shipped_runs()[name]
    entry, files = exported_files(run, name)
    assert "| corpus `" in model_card(load_run(run), 1, entry.step, files, "ada/sums")
    assert "No results yet" in model_card(load_run(run), 1, entry.step + 1, files, "ada/sums")
    for damaged in (b"{", b"[]", b"[" * 100_000):
        with pytest.raises(RunFailure, match="a report of the run is damaged"):
            model_card(load_run(run), 1, entry.step, {**files, "report.json": damaged}, "ada/sums")


def test_repository_of_another_encoder_stays_unchanged(
    workspace: Workspace,
    hub: Hub,
    tmp_path: Path,
) -> None:
    publish_model("sums", target=Target(to="ada/sums", workspace=str(workspace.root)))
    other = Workspace.create(str(tmp_path))
    export(shipped_runs()["addition"], other.run("sums"))
    before = dict(hub["model:ada/sums"].files)
    with pytest.raises(UserError, match="contains something other than run 'sums'"):
        publish_model("sums", target=Target(to="ada/sums", workspace=str(other.root)))
    assert hub["model:ada/sums"].files == before


def test_run_without_a_checkpoint_is_rejected(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace.create(str(tmp_path))
    (other.run("begun") / "run.json").write((workspace.run("sums") / "run.json").read())
    (other.run("begun") / "tokenizer.model").write((workspace.run("sums") / "tokenizer.model").read())
    with pytest.raises(UserError, match="run 'begun' has no checkpoint yet"):
        publish_model("begun", target=Target(to="ada/begun", workspace=str(other.root)))
