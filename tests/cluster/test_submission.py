"""`numerate submit` against a real job server: once, followed to its end, taken up again, and stopped."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from flows.diagnostics import engine_checks
from pipelines.generation.build import build_corpus
from pipelines.spec.presets import CORPORA
from storage.datasets.manifest import load
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.cluster.nodes import Nodes, cluster
from tests.interrupts import hear_interrupts
from tests.pipelines.test_kills import corpus_of, writing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head with a job server, and two workers."""
    with cluster(cpus=1, workers=2, jobs=True) as nodes:
        nodes.wait(3)
        yield nodes


def submit(nodes: Nodes, *words: str) -> subprocess.Popen[str]:
    """Begin `numerate submit …` on a machine that knows the job server's URL alone."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows", "submit", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**nodes.environment, "RAY_ADDRESS": nodes.dashboard},
        preexec_fn=hear_interrupts,
    )


def done(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit code and what it wrote, once it has ended."""
    output, errors = process.communicate(timeout=240)
    return process.returncode, output, errors


def state(nodes: Nodes, *words: str) -> dict[str, str]:
    """What `--json` says at the end."""
    code, output, errors = done(submit(nodes, *words, "--json"))
    assert code in (0, 130), errors
    return dict(json.loads(output))


def slow_corpus(workspace: Path, ranges: int = 60) -> list[str]:
    """The words that ask for a corpus of which each range takes a second."""
    path = workspace.parent / "slow.json"
    spec = corpus_of(ranges, 300_000)
    path.write_text(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))
    return ["corpus", "generate", str(path), "--workspace", str(workspace)]


def wait_for_work(workspace: Path) -> None:
    """Until workers of the job write shards."""
    until = time.monotonic() + 120
    while not writing(workspace):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_a_submitted_stage_is_followed_to_its_end_and_a_second_call_finds_its_work(
    nodes: Nodes, tmp_path: Path
) -> None:
    words = ["corpus", "generate", "quick", "--workspace", str(tmp_path / "workspace")]
    code, output, errors = done(submit(nodes, *words))
    assert code == 0, output + errors
    assert "corpus quick: 10,000 rows in" in output
    assert "-1: submitted" in errors
    assert "-1: succeeded" in errors
    made = load(LocalLocation(tmp_path / "workspace" / "corpora" / "quick"), "corpus")
    plain, _ = build_corpus(CORPORA["quick"], LocalLocation(tmp_path / "plain"), in_flight=0)
    assert made.manifest == plain.manifest
    code, output, errors = done(submit(nodes, *words))
    assert code == 0, output + errors
    assert "corpus quick: up to date, 10,000 rows" in output
    assert "-2: succeeded" in errors


@pytest.mark.parametrize("token", [True, False])
def test_the_doctor_leaves_a_head_that_is_well_alone(
    token: bool, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(nodes.token))
    monkeypatch.setattr(engine_checks, "HEAD_PORT", int(nodes.gcs.rpartition(":")[2]))
    monkeypatch.setattr(engine_checks, "DASHBOARD_PORT", int(nodes.dashboard.rpartition(":")[2]))
    for check in (engine_checks.check_port_6379, engine_checks.check_port_8265):
        found = check(Workspace.open(str(tmp_path)))
        assert (found.level, found.remedy, "of a Ray cluster" in found.text) == ("ok", "", True), found


def test_two_at_once_follow_one_job_and_its_exit_code_is_theirs(nodes: Nodes, tmp_path: Path) -> None:
    words = ["train", "quick", "--corpus", "missing", "--workspace", str(tmp_path / "workspace")]
    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(done, [submit(nodes, *words) for _ in range(2)]))
    for code, output, errors in ended:
        assert code == 2, output + errors
        assert "error: corpus 'missing' does not exist" in output
        assert "-1: failed" in errors
    assert sum("-1: submitted" in errors for _, _, errors in ended) == 1
    assert sum("-1: exists, " in errors for _, _, errors in ended) == 1


def test_who_leaves_a_job_can_follow_it_again_and_stop_it(nodes: Nodes, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    words = slow_corpus(workspace)
    code, _, errors = done(submit(nodes, *words, "--status"))
    assert (code, "has no job for this stage and request" in errors) == (2, True)
    assert state(nodes, *words, "--detach")["id"].endswith("-1")
    followed = submit(nodes, *words)
    wait_for_work(workspace)
    followed.send_signal(signal.SIGINT)
    code, _, errors = done(followed)
    assert code == 130, errors
    assert f"-1 continues: follow it again with 'numerate submit {' '.join(words)}', stop it with" in errors
    assert state(nodes, *words, "--status")["status"] == "RUNNING"
    stopped = state(nodes, *words, "--stop")
    assert (stopped["status"], stopped["exit_code"]) == ("STOPPED", 130)
    assert not nodes.processes("flows\0submit\0execute")
    assert state(nodes, *words, "--detach")["id"].endswith("-2")
    assert state(nodes, *words, "--stop")["status"] == "STOPPED"
    assert not writing(workspace)


class Wire:
    """A way to the job server that can be cut."""

    def __init__(self, target: str) -> None:
        self._target = target.rpartition("/")[2].split(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Break all connections; how many there were."""
        broken, self._open = self._open, []
        for end in broken:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return len(broken)

    def _accept(self) -> None:
        while True:
            ours, _ = self._listener.accept()
            theirs = socket.create_connection((self._target[0], int(self._target[1])))
            self._open += [ours, theirs]
            for one, other in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    @staticmethod
    def _pass_on(one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                other.sendall(data)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)


def test_a_lost_connection_is_taken_up_where_the_log_was(nodes: Nodes, tmp_path: Path) -> None:
    wire, workspace = Wire(nodes.dashboard), tmp_path / "workspace"
    followed = submit(nodes, *slow_corpus(workspace, ranges=20), "--address", wire.url)
    wait_for_work(workspace)
    assert wire.cut()
    code, output, errors = done(followed)
    assert code == 0, output + errors
    assert errors.count("was lost, job ") == 1
    assert output.count("corpus killed: 6,000,000 rows in") == 1
