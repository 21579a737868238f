"""What a look at a workspace shows: what lies there, what is at work, and what is broken, with the command for it."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from flows.cli.app import app
from flows.cli.status_text import print_status
from flows.diagnostics import status as status_module
from flows.diagnostics.status import Status, running_flows, status_of
from flows.server.run_tags import workspace_prefix
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.fanout import Notes
from pipelines.spec.presets import CORPORA
from storage.datasets import quick_check as checks
from storage.datasets.manifest import lists
from storage.datasets.quick_check import quick_check
from storage.errors import UserError
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.builders import SMALL, TINY_TRAINING, Built
from tests.flows.test_command import numerate
from tests.object_store import upload
from tests.pipelines.test_migrate import MIXED, write_old


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Prefect server is configured."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: Built) -> Path:
    """A workspace with a corpus, its tokens and a trained run; not to be changed."""
    root = tmp_path_factory.mktemp("status") / "w"
    shutil.copytree(small.workspace.root.path, root, ignore=shutil.ignore_patterns("runs", ".spill"))
    train(*prepare(Workspace.open(str(root)), "one", "small", "small-digit", TINY_TRAINING))
    return root


@pytest.fixture
def place(trained: Path, tmp_path: Path) -> Path:
    """The same for a test that breaks it."""
    shutil.copytree(trained, tmp_path / "w")
    return tmp_path / "w"


def broken(place: Path) -> dict[str, str]:
    """What is broken, and the command that mends it, without the workspace's name."""
    return {
        fault.what: fault.mend.replace(f" --workspace {place}", "").replace(str(place), "W")
        for fault in status_of(str(place)).broken
    }


def test_all_that_lies_there_is_shown_with_its_numbers(trained: Path, small: Built) -> None:
    status = status_of(str(trained))
    (corpus,), (tokenizer,), (tokens,), (run,) = status.corpora, status.tokenizers, status.tokens, status.runs
    manifest = small.corpus.manifest
    assert (corpus.name, corpus.state, corpus.rows, corpus.bytes) == ("small", "whole", manifest.rows, manifest.bytes)
    assert corpus.splits == manifest.split_rows
    assert corpus.looked_at == corpus.shards == len(small.corpus.shards)
    assert (tokenizer.name, tokenizer.kind, tokenizer.pieces, tokenizer.corpus) == ("small-digit", "digit", 20, "small")
    assert (tokens.corpus, tokens.tokenizer, tokens.rows) == ("small", "small-digit", manifest.rows)
    assert (run.state, run.corpus, run.step, run.steps) == ("trained", "small", 12, 12)
    assert run.validation is not None
    assert (run.test, status.broken, status.at_work, status.flows) == (None, [], [], [])
    assert status.free_bytes > 0


def test_nothing_is_written_by_looking(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    status_of(str(trained))
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_missing_and_cut_shards_are_found(place: Path) -> None:
    first, second, *_ = sorted((place / "corpora/small/data").rglob("*.parquet"))
    first.unlink()
    second.write_bytes(b"PAR1")
    next((place / "corpora/small/tokens").rglob("split=*/**/*.parquet")).unlink()
    assert broken(place) == {
        "corpus small": "numerate corpus verify small --repair",
        "tokens of small by small-digit": "numerate encode --corpus small",
    }
    (fault, _) = status_of(str(place)).broken
    assert fault.text == "2 of 12 shards are missing or truncated"


@pytest.mark.parametrize(
    ("file", "what", "mend"),
    [
        ("corpora/small/LIST", "corpus small", "numerate corpus verify small --repair"),
        (
            "corpora/small/tokens/small-digit/manifest.json",
            "tokens of small by small-digit",
            "rm -r W/corpora/small/tokens/small-digit && numerate encode --corpus small",
        ),
        (
            "tokenizers/small-digit/card.json",
            "tokenizer small-digit",
            "rm -r W/tokenizers/small-digit && numerate tokenizer train --corpus small",
        ),
        ("runs/one/run.json", "run one", ""),
    ],
)
def test_a_damaged_file_is_a_fault_and_no_failure(place: Path, file: str, what: str, mend: str) -> None:
    (listed,) = lists(LocalLocation(place / "corpora/small"))
    for data in (b"", b"{", b"\x00\xff" * 100, b"[]", b'{"schema_version": "x"}'):
        (place / file.replace("LIST", listed)).write_bytes(data)
        assert broken(place)[what] == mend, data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"entries": 3}',
        b'{"entries": [3, {"file": "x"}, {"step": "y"}]}',
        b'{"entries": [{"step": 1e30, "exact_match": 1, "file": "step-000000012.safetensors"}]}',
        b'{"entries": [{"step": 12, "exact_match": 1, "file": "../../x"}]}',
    ],
)
def test_a_damaged_index_of_checkpoints_is_a_training_to_be_done_again(place: Path, data: bytes) -> None:
    index = place / "runs/one/checkpoints/index.json"
    index.write_bytes(data)
    status = status_of(str(place))
    (fault,) = status.broken
    assert (fault.what, fault.text) == ("run one", f"{index} is damaged")
    assert fault.mend.startswith(f"rm -r {index.parent} && numerate train ")
    assert [run.state for run in status.runs] == ["damaged"]


def test_a_folders_name_steers_no_terminal(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "corpora" / "red\x1b[31m"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    print_status(status_of(str(place)))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "red\\x1b[31m" in shown


@pytest.mark.parametrize("cut", [slice(0), slice(4), slice(5_000), slice(-1)])
def test_a_last_checkpoint_that_is_cut_off_is_named_and_is_no_trained_run(place: Path, cut: slice) -> None:
    last = place / "runs/one/checkpoints/step-000000012.safetensors"
    last.write_bytes(last.read_bytes()[cut])
    status = status_of(str(place))
    (run,) = status.runs
    assert (run.state, run.step, run.steps) == ("stopped at step 10", 10, 12)
    (fault,) = status.broken
    assert fault.text == "its checkpoint of step 12 is damaged, training resumes at step 10 of 12"
    assert "--corpus small --name one" in fault.mend


def test_an_older_schema_version_is_migrated(place: Path) -> None:
    write_old(place / "corpora/old", MIXED)
    assert broken(place) == {"corpus old": "numerate corpus migrate old"}
    assert "schema version 1" in {corpus.state for corpus in status_of(str(place)).corpora}


def test_interrupted_work_is_named_with_how_far_it_came_and_goes_on_by_its_command(place: Path, small: Built) -> None:
    corpus, tokens = place / "corpora/cut", place / "corpora/small/tokens/small-digit"
    spec = SMALL.model_copy(update={"name": "cut"})
    (corpus / ".progress").mkdir(parents=True)
    (corpus / ".progress/spec.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True)))
    Notes(LocalLocation(corpus), "x").write(0, [])
    (tokens / "manifest.json").unlink()
    for number in range(3):
        Notes(LocalLocation(tokens), "x").write(number, [])
    status = status_of(str(place))
    assert [one.state for one in status.corpora] == ["unfinished, 25% done", "whole"]
    assert [one.state for one in status.tokens] == ["unfinished, 25% done"]
    commands = broken(place)
    assert commands["corpus cut"].startswith("numerate corpus generate --terms 2 --name cut ")
    assert commands["tokens of small by small-digit"] == "numerate encode --corpus small"


def test_a_training_that_was_cut_off_goes_on_by_its_command(place: Path) -> None:
    index = place / "runs/one/checkpoints/index.json"
    entries = json.loads(index.read_text())["entries"]
    index.write_text(json.dumps({"entries": entries[:1]}))
    (fault,) = status_of(str(place)).broken
    assert fault.text == f"its training was interrupted at step {entries[0]['step']} of 12"
    assert fault.mend.startswith("numerate train ")
    assert "--name one" in fault.mend


def test_what_a_run_was_fed_and_is_gone_or_another_by_now_is_named(place: Path, tmp_path: Path) -> None:
    def with_change(change: str) -> tuple[str, str]:
        """The fault of the run behind a change, which is taken back."""
        work = tmp_path / "changed"
        shutil.copytree(place, work)
        subprocess.run(change, shell=True, check=True, cwd=work)
        (fault,) = [fault for fault in status_of(str(work)).broken if fault.what == "run one"]
        shutil.rmtree(work)
        return fault.text, fault.mend

    text, mend = with_change("rm -r corpora/small")
    assert text == "its corpus small is missing"
    assert mend.startswith("numerate corpus generate --terms 2 --name small ")
    text, mend = with_change("rm -r tokenizers")
    assert text == "its tokenizer small-digit is missing, the command uses the default options"
    assert mend.startswith("numerate tokenizer train --corpus small")
    text, mend = with_change("rm -r corpora/small/tokens")
    assert text == "the tokens of small are missing"
    assert mend.startswith("numerate encode --corpus small")
    text, mend = with_change("""sed -i 's/"contents": "[^"]*"/"contents": "another"/' corpora/small/manifest.json""")
    assert text == "corpus small has changed"
    assert "--name one-new" in mend


def test_a_held_folder_is_at_work_and_a_left_lock_is_nothing(place: Path) -> None:
    assert list(place.rglob(".lock"))
    assert status_of(str(place)).at_work == []
    index = place / "runs/one/checkpoints/index.json"
    index.write_text('{"entries": []}')
    (next((place / "corpora/small/data").rglob("*.parquet"))).unlink()
    with (
        (LocalLocation(place) / "runs/one/.launch").exclusive("it"),
        LocalLocation(place / "corpora/small").exclusive("it"),
    ):
        status = status_of(str(place))
        assert status.at_work == [
            "corpus small is being checked or written",
            "run one is being trained, step 12 of 12",
        ]
        assert status.broken == []
    assert len(status_of(str(place)).broken) == 2


def test_quick_check_is_bounded_in_time_and_counts_the_compared_shards(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "_BATCH", 5)
    folder = LocalLocation(place / "corpora/small")
    shutil.rmtree(place / "corpora/small/data")
    for until, compared in ((0.0, 5), (math.inf, 12)):
        result = quick_check(folder, "corpus small", until)
        assert (result.shards, result.compared, result.broken) == (12, compared, compared)


def test_a_folder_that_holds_nothing_is_not_shown(place: Path) -> None:
    for folder in ("corpora/none", "runs/none", "tokenizers/none", "corpora/small/tokens/none"):
        (place / folder).mkdir()
        (place / folder / ".lock").touch()
    status = status_of(str(place))
    assert [len(found) for found in (status.corpora, status.tokenizers, status.tokens, status.runs)] == [1] * 4
    assert status.broken == []


def test_a_workspace_that_was_named_and_is_not_there_is_a_mistake_and_the_default_one_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not status_of().exists
    with pytest.raises(UserError, match="none does not exist: choose another with --workspace"):
        status_of(str(tmp_path / "none"))


def test_it_is_shown_as_text_and_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(place / "corpora/small/data")
    app(["status", "--workspace", str(place)], result_action="return_value")
    text = capsys.readouterr().out
    assert "problems, and how to fix them" in text
    assert f"\n    numerate corpus verify small --workspace {place} --repair\n" in text
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())
    app(["status", "--workspace", str(place), "--json"], result_action="return_value")
    values = json.loads(capsys.readouterr().out)
    assert values["broken"][0]["what"] == "corpus small"
    assert set(values) == set(Status.__dataclass_fields__)


class _Api(BaseHTTPRequestHandler):
    """Prefect's API, as far as it is asked, with one run in the workspace at `place` and two elsewhere."""

    place = ""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        run = {"name": "corpus x", "state_name": "Running", "start_time": "2026-11-27T00:00:00Z", "id": "1"}
        here, there = [f"{workspace_prefix(Workspace.open(place))}@host" for place in (self.place, f"{self.place}-2")]
        runs = [{**run, "tags": ["numerate", here]}, {**run, "tags": ["numerate", there]}, {**run, "tags": []}]
        self.wfile.write(json.dumps(runs if self.path == "/api/flow_runs/filter" else {}).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Api)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_flows_of_the_workspace_are_asked_for_where_a_server_is_configured_and_one_that_is_gone_is_no_failure(
    api: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(status_module, "_API_SECONDS", 30.0)
    place = Workspace.open(str(tmp_path / "w"))
    monkeypatch.setattr(_Api, "place", str(tmp_path / "w"))
    assert running_flows(place) == []
    monkeypatch.setenv("PREFECT_API_URL", f"{api}/api/")
    assert [(flow.name, flow.state) for flow in running_flows(place)] == [("corpus x", "Running")]
    for url in (f"{api}/other", "http://127.0.0.1:1/api", "nonsense"):
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert running_flows(place) == []
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / "profiles.toml").write_text(f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{api}/api"\n')
    assert len(running_flows(place)) == 1


@pytest.mark.slow
def test_the_commands_that_are_named_mend_everything(place: Path, prefect_api: str) -> None:
    """Broken in every way, and then nothing but what `status` says is done, until it says no more."""
    index = place / "runs/one/checkpoints/index.json"
    entries = json.loads(index.read_text())["entries"]
    index.write_text(json.dumps({"entries": entries[:1]}))
    next((place / "corpora/small/data").rglob("*.parquet")).unlink()
    shutil.rmtree(place / "corpora/small/tokens")
    write_old(place / "corpora/old", MIXED)
    commands: list[str] = []
    here = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{here}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PREFECT_API_URL": prefect_api,
    }
    while faults := json.loads(numerate("status", "--json", "--workspace", str(place)).stdout)["broken"]:
        command = faults[0]["mend"]
        assert command not in commands, faults
        commands.append(command)
        subprocess.run(command, shell=True, check=True, env=environment, capture_output=True, timeout=300)
    assert len(commands) == 4


def test_in_an_object_store_no_remedy_is_a_command_that_works_on_disks_alone(place: Path, bucket: str) -> None:
    write_old(place / "corpora/old", MIXED)
    (place / "tokenizers/small-digit/card.json").write_bytes(b"{")
    (place / "corpora/small/tokens/small-digit/manifest.json").write_bytes(b"{")
    mixed = next(spec for spec in CORPORA.values() if spec.mixture)
    own = mixed.model_copy(update={"mixture": mixed.mixture[:1], "name": "cut"})
    (place / "corpora/cut/.progress").mkdir(parents=True)
    (place / "corpora/cut/.progress/spec.yaml").write_text(
        yaml.safe_dump(own.model_dump(mode="json", exclude_defaults=True))
    )
    Notes(LocalLocation(place / "corpora/cut"), "x").write(0, [])
    uri = f"{bucket}/w"
    upload(LocalLocation(place), uri)
    found = {fault.what: fault for fault in status_of(uri).broken}
    assert not [fault for fault in found.values() if "rm -r" in fault.mend or "migrate" in fault.mend]
    assert not [word for fault in found.values() for word in fault.mend.split() if word.endswith(".yaml")]
    assert found["corpus old"].mend.startswith("numerate corpus generate ")
    assert "--name old-new" in found["corpus old"].mend
    text = f"delete all objects below {uri}/tokenizers/small-digit, then run 'numerate tokenizer train --corpus small"
    assert text in found["tokenizer small-digit"].text
    assert f"{uri}/corpora/small/tokens/small-digit" in found["tokens of small by small-digit"].text
    assert (found["corpus cut"].mend, found["corpus cut"].text.rpartition(": ")[2]) == (
        "",
        "run the command that created it again",
    )
