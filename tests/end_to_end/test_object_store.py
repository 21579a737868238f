"""The real command with its workspace in an object store: a bad connection, a kill, and two concurrent commands."""

import json
import signal
import subprocess
from pathlib import Path

import pytest

from pipelines.generation.build import build_corpus
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import load
from storage.places.opening import open_location
from storage.places.place import Location
from storage.workspace import Workspace
from tests.end_to_end.test_chain import SPEC
from tests.object_store import KEY, SECRET, FaultyProxy, objects_below
from tests.processes import command_environment, result_of, start_command, wait_for

_ROWS = {"rows": 1_500_000, "rows_per_shard": 100_000}


def start(*arguments: str, folder: Path, cache: Path | None = None) -> "subprocess.Popen[str]":
    """Start the command in a process group of its own; another `cache` simulates another machine."""
    environment = command_environment(**({"XDG_CACHE_HOME": str(cache)} if cache else {}))
    return start_command(*arguments, env=environment, cwd=folder, start_new_session=True)


def generate(folder: Path, uri: str, cache: Path | None = None, **more: int) -> "subprocess.Popen[str]":
    """Start the command that generates the corpus 'far' of sums of four numbers."""
    values = {"name": "far", **_ROWS, **more, "workspace": uri}
    options = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return start("corpus", "generate", *options, folder=folder, cache=cache)


def wait_for_ranges(process: "subprocess.Popen[str]", corpus: Location, count: int) -> None:
    """Wait until a number of ranges of a corpus are complete, while the process runs."""
    wait_for(lambda: len((corpus / ".progress").children()) >= count, process=process, poll=0.05)


def data_of(corpus: Location) -> dict[str, bytes]:
    """The shards of a corpus, the list of its shards, and its manifest."""
    prefixes = ("data/", "manifest.json", "shards-")
    return {path: (corpus / path).read() for path in corpus.files("") if path.startswith(prefixes)}


@pytest.mark.slow
def test_all_stages_succeed_over_a_bad_connection_and_write_no_secret_anywhere(
    bucket: str, proxy: FaultyProxy, tmp_path: Path
) -> None:
    proxy.slow_seconds = 0.2
    proxy.fault = lambda request: {0: "503", 7: "500", 11: "slow", 15: "cut"}.get(request.number % 20, "")
    uri = f"{bucket}/team/workspace"
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    printed = ""

    def numerate(*arguments: str, code: int = 0) -> str:
        nonlocal printed
        exit_code, output, errors = result_of(start(*arguments, "--workspace", uri, folder=tmp_path))
        printed += output + errors
        assert exit_code == code, output + errors
        return output or errors

    numerate("run", "spec.json", "--verbose")
    assert "up to date" in numerate("run", "spec.json")
    query = "SELECT (SELECT count(*) FROM predictions) AS predictions, max(step) AS step FROM metrics"
    workspace = Workspace.open(uri)
    report = json.loads((workspace.run("first") / "report.json").read())
    assert json.loads(numerate("sql", query, "--json")) == [{"predictions": report["problems"], "step": 60}]
    assert numerate("solve", "12+34").strip()
    corpus = load(workspace.corpus("pairs"), "corpus")
    shard = corpus.location / corpus.shards[0].path
    flipped = bytearray(shard.read())
    flipped[100] ^= 1
    shard.write(bytes(flipped))
    assert corpus.shards[0].path in numerate("corpus", "verify", "pairs", code=1)
    assert "repaired" in numerate("corpus", "verify", "pairs", "--repair")
    assert "no faults" in numerate("corpus", "verify", "pairs", "--deep")
    assert "no leak" in numerate("corpus", "leakage", "pairs", f"{uri}/corpora/pairs")
    assert "checkpoint" in numerate("clean") or "0 things" in printed
    assert all(proxy.faults[fault] > 5 for fault in ("500", "503", "slow", "cut")), proxy.faults
    # The local files are logs, parameters, Prefect's records and caches.
    contents = {"output": printed.encode(), **objects_below(workspace.root)}
    contents |= {str(path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert any("prefect" in name for name in contents)
    assert not [name for name, data in contents.items() if SECRET.encode() in data or KEY.encode() in data]


def test_killed_generation_resumes_at_once_and_writes_the_same_corpus(
    bucket: str, tmp_path: Path, ray_instance: int
) -> None:
    corpus = Workspace.open(bucket).corpus("far")
    process = generate(tmp_path, bucket)
    wait_for_ranges(process, corpus, 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (corpus / "manifest.json").exists()
    completed = (corpus / ".progress").children()
    code, _, errors = result_of(generate(tmp_path, bucket))
    assert (code, "1,500,000 rows" in errors) == (0, True), errors
    assert len(completed) >= 5
    expected = open_location(str(tmp_path / "expected"))
    build_corpus(CorpusSpec(name="far", **_ROWS), expected, in_flight=ray_instance)
    assert data_of(corpus) == data_of(expected)
    assert not (corpus / ".progress").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("machine", "spec"), [("same", "same"), ("other", "other")])
def test_second_of_two_concurrent_generations_of_a_corpus_fails_with_one_line(
    bucket: str, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, machine: str
) -> None:
    corpus = Workspace.open(bucket).corpus("far")
    # The proxy holds the first command up, so that it is still running however long the second takes to start.
    proxy.fault = lambda request: "hold" if "/data/" in request.path and proxy.count("PUT", ".progress") else ""
    first = generate(tmp_path, bucket)
    wait_for_ranges(first, corpus, 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.server.url)
    more = {"rows": 1_000_000} if spec == "other" else {}
    code, _, errors = result_of(
        generate(tmp_path, bucket, tmp_path / "far away" if machine == "other" else None, **more)
    )
    proxy.gate.set()
    assert (code, errors) == (
        2,
        "error: corpus 'far' is being written by another process: wait for it to end, or choose another name\n",
    )
    code, _, errors = result_of(first)
    assert (code, "1,500,000 rows" in errors) == (0, True), errors
    dataset = load(corpus, "corpus")
    assert all(dataset.verified(shard) for shard in dataset.shards)
    code, _, errors = result_of(generate(tmp_path, bucket, **more))
    assert code == (2 if more else 0)
    assert ("exists with another configuration" if more else "up to date") in errors
