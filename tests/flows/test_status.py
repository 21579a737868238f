"""`numerate status`: contents of a workspace, running work, and faults with the commands that repair them."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.cli.app import app
from flows.cli.status_text import print_status
from flows.diagnostics.status import Status, status_of
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.fanout import Notes
from pipelines.spec.presets import CORPORA
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
def root(trained: Path, tmp_path: Path) -> Path:
    """The same for a test that breaks it."""
    shutil.copytree(trained, tmp_path / "w")
    return tmp_path / "w"


def broken(root: Path) -> dict[str, str]:
    """Each item with a fault and the command that repairs it, without the workspace's name."""
    return {
        fault.what: fault.remedy.replace(f" --workspace {root}", "").replace(str(root), "W")
        for fault in status_of(str(root)).broken
    }


def test_status_shows_the_contents_with_their_numbers(trained: Path, small: Built) -> None:
    status = status_of(str(trained))
    (corpus,), (tokenizer,), (tokens,), (run,) = status.corpora, status.tokenizers, status.tokens, status.runs
    manifest = small.corpus.manifest
    assert (corpus.name, corpus.state, corpus.rows, corpus.bytes) == (
        "small",
        "complete",
        manifest.rows,
        manifest.bytes,
    )
    assert corpus.splits == manifest.split_rows
    assert corpus.checked_shards == corpus.shards == len(small.corpus.shards)
    assert (tokenizer.name, tokenizer.kind, tokenizer.pieces, tokenizer.corpus) == ("small-digit", "digit", 20, "small")
    assert (tokens.corpus, tokens.tokenizer, tokens.rows) == ("small", "small-digit", manifest.rows)
    assert (run.state, run.corpus, run.step, run.steps) == ("trained", "small", 12, 12)
    assert run.validation is not None
    assert (run.test, status.broken, status.at_work, status.flows) == (None, [], [], [])
    assert status.free_bytes > 0


def test_status_writes_nothing(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    status_of(str(trained))
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_missing_and_truncated_shards_are_faults(root: Path) -> None:
    first, second, *_ = sorted((root / "corpora/small/data").rglob("*.parquet"))
    first.unlink()
    (fault,) = status_of(str(root)).broken
    assert fault.text == "1 of 12 shards is missing or truncated"
    second.write_bytes(b"PAR1")
    next((root / "corpora/small/tokens").rglob("split=*/**/*.parquet")).unlink()
    assert broken(root) == {
        "corpus small": "numerate corpus verify small --repair",
        "tokens of small by small-digit": "numerate encode --corpus small",
    }
    (fault, _) = status_of(str(root)).broken
    assert fault.text == "2 of 12 shards are missing or truncated"


@pytest.mark.parametrize(
    ("file", "what", "remedy"),
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
def test_damaged_file_is_a_fault(root: Path, file: str, what: str, remedy: str) -> None:
    (listed,) = lists(LocalLocation(root / "corpora/small"))
    for data in (b"", b"{", b"\x00\xff" * 100, b"[]", b'{"schema_version": "x"}'):
        (root / file.replace("LIST", listed)).write_bytes(data)
        assert broken(root)[what] == remedy, data


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
def test_damaged_checkpoint_index_requires_a_new_training(root: Path, data: bytes) -> None:
    index = root / "runs/one/checkpoints/index.json"
    index.write_bytes(data)
    status = status_of(str(root))
    (fault,) = status.broken
    assert (fault.what, fault.text) == ("run one", f"{index} is damaged")
    assert fault.remedy.startswith(f"rm -r {index.parent} && numerate train ")
    assert [run.state for run in status.runs] == ["damaged"]


def test_control_characters_in_names_of_folders_are_escaped(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = root / "corpora" / "red\x1b[31m"
    folder.mkdir()
    (folder / "manifest.json").write_text("{}")
    print_status(status_of(str(root)))
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "red\\x1b[31m" in shown


@pytest.mark.parametrize("cut", [slice(0), slice(4), slice(5_000), slice(-1)])
def test_truncated_last_checkpoint_is_a_fault(root: Path, cut: slice) -> None:
    last = root / "runs/one/checkpoints/step-000000012.safetensors"
    last.write_bytes(last.read_bytes()[cut])
    status = status_of(str(root))
    (run,) = status.runs
    assert (run.state, run.step, run.steps) == ("stopped at step 10", 10, 12)
    (fault,) = status.broken
    assert fault.text == "its checkpoint of step 12 is damaged, training resumes at step 10 of 12"
    assert "--corpus small --name one" in fault.remedy


def test_older_schema_version_is_migrated(root: Path) -> None:
    write_old(root / "corpora/old", MIXED)
    assert broken(root) == {"corpus old": "numerate corpus migrate old"}
    assert "schema version 1" in {corpus.state for corpus in status_of(str(root)).corpora}


def test_interrupted_work_is_shown_with_progress_and_remedy(root: Path, small: Built) -> None:
    corpus, tokens = root / "corpora/cut", root / "corpora/small/tokens/small-digit"
    spec = SMALL.model_copy(update={"name": "cut"})
    (corpus / ".progress").mkdir(parents=True)
    (corpus / ".progress/spec.yaml").write_text(yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True)))
    Notes(LocalLocation(corpus), "x").write(0, [])
    (tokens / "manifest.json").unlink()
    for number in range(3):
        Notes(LocalLocation(tokens), "x").write(number, [])
    status = status_of(str(root))
    assert [one.state for one in status.corpora] == ["unfinished, 25% done", "complete"]
    assert [one.state for one in status.tokens] == ["unfinished, 25% done"]
    commands = broken(root)
    assert commands["corpus cut"].startswith("numerate corpus generate --terms 2 --name cut ")
    assert commands["tokens of small by small-digit"] == "numerate encode --corpus small"


def test_a_spec_of_a_hundred_megabytes_is_not_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "corpora/cut/.progress/spec.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(yaml.safe_dump(SMALL.model_dump(mode="json", exclude_defaults=True)))
    with file.open("r+b") as large:
        large.truncate(100 << 20)
    Notes(LocalLocation(file.parents[1]), "x").write(0, [])
    monkeypatch.setattr(yaml, "safe_load", lambda data: pytest.fail("it is read"))
    assert "corpus cut" in broken(root)


def test_interrupted_training_is_resumed_by_the_suggested_command(root: Path) -> None:
    index = root / "runs/one/checkpoints/index.json"
    entries = json.loads(index.read_text())["entries"]
    index.write_text(json.dumps({"entries": entries[:1]}))
    (fault,) = status_of(str(root)).broken
    assert fault.text == f"its training was interrupted at step {entries[0]['step']} of 12"
    assert fault.remedy.startswith("numerate train ")
    assert "--name one" in fault.remedy


def test_missing_and_changed_inputs_of_a_run_are_faults(root: Path, tmp_path: Path) -> None:
    def with_change(change: str) -> tuple[str, str]:
        """Text and remedy of the run's fault after a change, which is then undone."""
        work = tmp_path / "changed"
        shutil.copytree(root, work)
        subprocess.run(change, shell=True, check=True, cwd=work)
        (fault,) = [fault for fault in status_of(str(work)).broken if fault.what == "run one"]
        shutil.rmtree(work)
        return fault.text, fault.remedy

    text, remedy = with_change("rm -r corpora/small")
    assert text == "its corpus small is missing"
    assert remedy.startswith("numerate corpus generate --terms 2 --name small ")
    text, remedy = with_change("rm -r tokenizers")
    assert text == "its tokenizer small-digit is missing, the command uses the default options"
    assert remedy.startswith("numerate tokenizer train --corpus small")
    text, remedy = with_change("rm -r corpora/small/tokens")
    assert text == "the tokens of small are missing"
    assert remedy.startswith("numerate encode --corpus small")
    text, remedy = with_change("""sed -i 's/"contents": "[^"]*"/"contents": "another"/' corpora/small/manifest.json""")
    assert text == "corpus small has changed"
    assert "--name one-new" in remedy


def test_held_folder_is_at_work_and_a_stale_lock_file_is_ignored(root: Path) -> None:
    assert list(root.rglob(".lock"))
    assert status_of(str(root)).at_work == []
    index = root / "runs/one/checkpoints/index.json"
    index.write_text('{"entries": []}')
    (next((root / "corpora/small/data").rglob("*.parquet"))).unlink()
    with (
        (LocalLocation(root) / "runs/one/.launch").exclusive("it"),
        LocalLocation(root / "corpora/small").exclusive("it"),
    ):
        status = status_of(str(root))
        assert status.at_work == [
            "corpus small is being checked or written",
            "run one is being trained, step 12 of 12",
        ]
        assert status.broken == []
    assert len(status_of(str(root)).broken) == 2


def test_size_check_stops_at_its_deadline(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.datasets.quick_check._BATCH", 5)
    folder = LocalLocation(root / "corpora/small")
    shutil.rmtree(root / "corpora/small/data")
    for until, compared in ((0.0, 5), (math.inf, 12)):
        result = quick_check(folder, "corpus small", until)
        assert (result.shards, result.compared, result.broken) == (12, compared, compared)


def test_empty_folders_are_not_shown(root: Path) -> None:
    for folder in ("corpora/none", "runs/none", "tokenizers/none", "corpora/small/tokens/none"):
        (root / folder).mkdir()
        (root / folder / ".lock").touch()
    status = status_of(str(root))
    assert [len(found) for found in (status.corpora, status.tokenizers, status.tokens, status.runs)] == [1] * 4
    assert status.broken == []


def test_missing_workspace_is_an_error_unless_it_is_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert not status_of().exists
    with pytest.raises(UserError, match="none does not exist: choose another with --workspace"):
        status_of(str(tmp_path / "none"))


def test_output_as_text_and_as_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(root / "corpora/small/data")
    app(["status", "--workspace", str(root)], result_action="return_value")
    text = capsys.readouterr().out
    assert "problems, and how to fix them" in text
    assert f"\n    numerate corpus verify small --workspace {root} --repair\n" in text
    assert "\x1b" not in text
    assert not any(line.endswith(" ") for line in text.splitlines())
    app(["status", "--workspace", str(root), "--json"], result_action="return_value")
    values = json.loads(capsys.readouterr().out)
    assert values["broken"][0]["what"] == "corpus small"
    assert set(values) == set(Status.__dataclass_fields__)


@pytest.mark.slow
def test_suggested_commands_repair_everything(root: Path, prefect_api: str) -> None:
    """Several faults at once; only the suggested commands are run, until `status` reports no fault."""
    index = root / "runs/one/checkpoints/index.json"
    entries = json.loads(index.read_text())["entries"]
    index.write_text(json.dumps({"entries": entries[:1]}))
    next((root / "corpora/small/data").rglob("*.parquet")).unlink()
    shutil.rmtree(root / "corpora/small/tokens")
    write_old(root / "corpora/old", MIXED)
    commands: list[str] = []
    here = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{here}:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PREFECT_API_URL": prefect_api,
    }
    while faults := json.loads(numerate("status", "--json", "--workspace", str(root)).stdout)["broken"]:
        command = faults[0]["remedy"]
        assert command not in commands, faults
        commands.append(command)
        subprocess.run(command, shell=True, check=True, env=environment, capture_output=True, timeout=300)
    assert len(commands) == 4


def test_remedies_in_an_object_store_need_no_local_disk(root: Path, bucket: str) -> None:
    write_old(root / "corpora/old", MIXED)
    (root / "tokenizers/small-digit/card.json").write_bytes(b"{")
    (root / "corpora/small/tokens/small-digit/manifest.json").write_bytes(b"{")
    mixed = next(spec for spec in CORPORA.values() if spec.mixture)
    own = mixed.model_copy(update={"mixture": mixed.mixture[:1], "name": "cut"})
    (root / "corpora/cut/.progress").mkdir(parents=True)
    (root / "corpora/cut/.progress/spec.yaml").write_text(
        yaml.safe_dump(own.model_dump(mode="json", exclude_defaults=True))
    )
    Notes(LocalLocation(root / "corpora/cut"), "x").write(0, [])
    uri = f"{bucket}/w"
    upload(LocalLocation(root), uri)
    found = {fault.what: fault for fault in status_of(uri).broken}
    assert not [fault for fault in found.values() if "rm -r" in fault.remedy or "migrate" in fault.remedy]
    assert not [word for fault in found.values() for word in fault.remedy.split() if word.endswith(".yaml")]
    assert found["corpus old"].remedy.startswith("numerate corpus generate ")
    assert "--name old-new" in found["corpus old"].remedy
    text = f"delete all objects below {uri}/tokenizers/small-digit, then run 'numerate tokenizer train --corpus small"
    assert text in found["tokenizer small-digit"].text
    assert f"{uri}/corpora/small/tokens/small-digit" in found["tokens of small by small-digit"].text
    assert (found["corpus cut"].remedy, found["corpus cut"].text.rpartition(": ")[2]) == (
        "",
        "run the command that created it again",
    )
