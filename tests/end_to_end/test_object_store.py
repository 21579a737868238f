"""The real command with its workspace in an object store: behind a bad connection, killed, and twice at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.generation.build import build_corpus
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import load
from storage.places.opening import open_place
from storage.places.place import Location
from storage.workspace import Workspace
from tests.end_to_end.test_chain import SPEC
from tests.object_store import KEY, SECRET, FaultyProxy, objects_below

_ROWS = {"rows": 1_500_000, "rows_per_shard": 100_000}


def start(*arguments: str, folder: Path, cache: Path | None = None) -> "subprocess.Popen[str]":
    """The command, started in a folder and a process group of its own; `cache` stands for another machine."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.Popen(
        [sys.executable, "-m", "flows", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
        env={**kept, "PYTHONPATH": str(Path(__file__).parents[2])} | ({"XDG_CACHE_HOME": str(cache)} if cache else {}),
    )


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, output and what stands on standard error."""
    output, errors = process.communicate(timeout=600)
    return process.returncode, output, errors


def generate(folder: Path, uri: str, cache: Path | None = None, **more: int) -> "subprocess.Popen[str]":
    """The command that generates the corpus 'far' of four numbers."""
    values = {"name": "far", **_ROWS, **more, "workspace": uri}
    options = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return start("corpus", "generate", *options, folder=folder, cache=cache)


def wait_for_notes(process: "subprocess.Popen[str]", corpus: Location, count: int) -> None:
    """Until so many ranges are noted as done, while the process lives, for five minutes at most."""
    deadline = time.monotonic() + 300
    while process.poll() is None and len((corpus / ".progress").children()) < count:
        assert time.monotonic() < deadline, f"fewer than {count} ranges are noted"
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()


def data_of(corpus: Location) -> dict[str, bytes]:
    """The shards of a corpus, its list of them and its manifest."""
    wanted = ("data/", "manifest.json", "shards-")
    return {path: (corpus / path).read() for path in corpus.files("") if path.startswith(wanted)}


@pytest.mark.slow
def test_the_whole_chain_behind_a_bad_connection_and_no_secret_is_seen_anywhere(
    bucket: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.slow_seconds = 0.2
    proxy.fault = lambda request: {0: "503", 7: "500", 11: "slow", 15: "cut"}.get(request.number % 20, "")
    uri = f"{bucket}/team/workspace"
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    seen = ""

    def numerate(*arguments: str, code: int = 0) -> str:
        nonlocal seen
        ended_with, output, errors = ended(start(*arguments, "--workspace", uri, folder=tmp_path))
        seen += output + errors
        assert ended_with == code, output + errors
        return output or errors

    numerate("run", "spec.json", "--verbose")
    assert "up to date" in numerate("run", "spec.json")
    asked = "SELECT (SELECT count(*) FROM predictions) AS told, max(step) AS step FROM metrics"
    workspace = Workspace.open(uri)
    report = json.loads((workspace.run("first") / "report.json").read())
    assert json.loads(numerate("sql", asked, "--json")) == [{"told": report["problems"], "step": 60}]
    assert numerate("solve", "12+34").strip()
    corpus = load(workspace.corpus("pairs"), "it")
    shard = corpus.location / corpus.shards[0].path
    flipped = bytearray(shard.read())
    flipped[100] ^= 1
    shard.write(bytes(flipped))
    assert corpus.shards[0].path in numerate("corpus", "verify", "pairs", code=1)
    assert "repaired" in numerate("corpus", "verify", "pairs", "--repair")
    assert "no faults" in numerate("corpus", "verify", "pairs", "--deep")
    assert "no leak" in numerate("corpus", "leakage", "pairs", f"{uri}/corpora/pairs")
    assert "checkpoint" in numerate("clean") or "0 things" in seen
    assert all(proxy.faults[fault] > 5 for fault in ("500", "503", "slow", "cut")), proxy.faults
    # Logs, manifests, parameters, Prefect's records, caches.
    found = {"output": seen.encode(), **objects_below(workspace.root)}
    found |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any("prefect" in name for name in found)
    assert not [name for name, data in found.items() if SECRET.encode() in data or KEY.encode() in data]


def test_a_killed_generation_goes_on_at_once_and_comes_out_as_an_undisturbed_one(
    bucket: str, tmp_path: Path, ray_instance: int
) -> None:
    corpus = Workspace.open(bucket).corpus("far")
    process = generate(tmp_path, bucket)
    wait_for_notes(process, corpus, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (corpus / "manifest.json").exists()
    noted = set((corpus / ".progress").children())
    code, _, errors = ended(generate(tmp_path, bucket))
    assert (code, "1,500,000 rows" in errors) == (0, True), errors
    assert len(noted) >= 5
    whole = open_place(str(tmp_path / "whole"))
    build_corpus(CorpusSpec(name="far", **_ROWS), whole, in_flight=ray_instance)
    assert data_of(corpus) == data_of(whole)
    assert not (corpus / ".progress").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "spec"), [("same", "same"), ("other", "other")])
def test_of_two_who_generate_one_corpus_at_once_one_wins_and_the_other_ends_in_one_line(
    bucket: str, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, machine: str
) -> None:
    corpus = Workspace.open(bucket).corpus("far")
    # In the midst of its work however long the second takes to start.
    proxy.fault = lambda request: "hold" if "/data/" in request.path and proxy.count("PUT", ".progress") else ""
    first = generate(tmp_path, bucket)
    wait_for_notes(first, corpus, 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.server.url)
    more = {"rows": 1_000_000} if spec == "other" else {}
    code, _, errors = ended(generate(tmp_path, bucket, tmp_path / "far away" if machine == "other" else None, **more))
    proxy.gate.set()
    assert (code, errors) == (
        2,
        "error: corpus 'far' is being written by another process: wait for it to end, or choose another name\n",
    )
    code, _, errors = ended(first)
    assert (code, "1,500,000 rows" in errors) == (0, True), errors
    dataset = load(corpus, "it")
    assert all(dataset.verified(shard) for shard in dataset.shards)
    code, _, errors = ended(generate(tmp_path, bucket, **more))
    assert code == (2 if more else 0)
    assert ("exists with another configuration" if more else "up to date") in errors
