"""`numerate submit` with a real job server: submit, follow, reconnect and stop."""

import contextlib
import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from flows.diagnostics import engine_checks
from pipelines.generation.build import build_corpus
from pipelines.spec.presets import CORPORA
from storage.datasets.manifest import load
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.cluster.nodes import Nodes, cluster
from tests.pipelines.test_kills import corpus_of, writing
from tests.processes import restore_sigint, result_of, start_command, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head node with a job server, and two worker nodes."""
    with cluster(cpus=1, workers=2, jobs=True) as nodes:
        nodes.wait(3)
        yield nodes


def submit(nodes: Nodes, *words: str) -> "subprocess.Popen[str]":
    """Start `numerate submit …` with the URL of the job server as its only address."""
    environment = {**nodes.environment, "RAY_ADDRESS": nodes.dashboard}
    return start_command("submit", *words, env=environment, preexec_fn=restore_sigint)


def job_of(nodes: Nodes, *words: str) -> dict[str, str]:
    """The job that `--json` describes."""
    code, output, errors = result_of(submit(nodes, *words, "--json"))
    assert code in (0, 130), errors
    return dict(json.loads(output))


def slow_generation(workspace: Path, ranges: int = 60) -> list[str]:
    """The arguments that generate a corpus of which each range takes a second."""
    path = workspace.parent / "slow.json"
    spec = corpus_of(ranges, 300_000)
    path.write_text(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))
    return ["corpus", "generate", str(path), "--workspace", str(workspace)]


def test_job_is_followed_to_its_end_and_a_second_submission_is_up_to_date(nodes: Nodes, tmp_path: Path) -> None:
    words = ["corpus", "generate", "quick", "--workspace", str(tmp_path / "workspace")]
    code, output, errors = result_of(submit(nodes, *words))
    assert code == 0, output + errors
    assert "corpus quick: 10,000 rows in" in output
    assert "-1: submitted" in errors
    assert "-1: succeeded" in errors
    headers = {"Authorization": f"Bearer {nodes.token.read_text()}"}
    with urlopen(Request(f"{nodes.dashboard}/api/jobs/", headers=headers)) as response:
        entrypoints = [job["entrypoint"] for job in json.load(response) if job["type"] == "SUBMISSION"]
    # The cluster's own interpreter, and not the path of the one that submits.
    assert entrypoints
    assert all(entrypoint.startswith("python -m ") for entrypoint in entrypoints)
    corpus = load(LocalLocation(tmp_path / "workspace" / "corpora" / "quick"), "corpus")
    expected, _ = build_corpus(CORPORA["quick"], LocalLocation(tmp_path / "expected"), in_flight=0)
    assert corpus.manifest == expected.manifest
    code, output, errors = result_of(submit(nodes, *words))
    assert code == 0, output + errors
    assert "corpus quick: up to date, 10,000 rows" in output
    assert "-2: succeeded" in errors


@pytest.mark.parametrize("token", [True, False])
def test_doctor_reports_the_ports_of_a_healthy_head_as_ok(
    token: bool, nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if token:
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(nodes.token))
    monkeypatch.setattr(engine_checks, "HEAD_PORT", int(nodes.gcs.rpartition(":")[2]))
    monkeypatch.setattr(engine_checks, "DASHBOARD_PORT", int(nodes.dashboard.rpartition(":")[2]))
    for check in (engine_checks.check_port_6379, engine_checks.check_port_8265):
        finding = check(Workspace.open(str(tmp_path)))
        assert (finding.level, finding.remedy, "of a Ray cluster" in finding.text) == ("ok", "", True), finding


def test_concurrent_submissions_follow_one_job_and_return_its_exit_code(nodes: Nodes, tmp_path: Path) -> None:
    words = ["train", "quick", "--corpus", "missing", "--workspace", str(tmp_path / "workspace")]
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(result_of, [submit(nodes, *words) for _ in range(2)]))
    for code, output, errors in results:
        assert code == 2, output + errors
        assert "error: corpus 'missing' does not exist" in output
        assert "-1: failed" in errors
    assert sum("-1: submitted" in errors for _, _, errors in results) == 1
    assert sum("-1: exists, " in errors for _, _, errors in results) == 1


def test_job_continues_after_ctrl_c_and_can_be_followed_again_and_stopped(nodes: Nodes, tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    words = slow_generation(workspace)
    code, _, errors = result_of(submit(nodes, *words, "--status"))
    assert (code, "has no job for this stage and request" in errors) == (2, True)
    assert job_of(nodes, *words, "--detach")["id"].endswith("-1")
    followed = submit(nodes, *words)
    wait_for(lambda: writing(workspace), process=followed)
    followed.send_signal(signal.SIGINT)
    code, _, errors = result_of(followed)
    assert code == 130, errors
    assert f"-1 continues: follow it again with 'numerate submit {' '.join(words)}', stop it with" in errors
    assert job_of(nodes, *words, "--status")["status"] == "RUNNING"
    job = job_of(nodes, *words, "--stop")
    assert (job["status"], job["exit_code"]) == ("STOPPED", 130)
    assert not nodes.processes("flows submit execute")
    assert job_of(nodes, *words, "--detach")["id"].endswith("-2")
    assert job_of(nodes, *words, "--stop")["status"] == "STOPPED"
    assert not writing(workspace)


class Relay:
    """A TCP relay to the job server whose connections can be cut."""

    def __init__(self, target: str) -> None:
        self._target = target.rpartition("/")[2].split(":")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> int:
        """Close all connections; returns the number of sockets."""
        closed, self._open = self._open, []
        for end in closed:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        return len(closed)

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            server = socket.create_connection((self._target[0], int(self._target[1])))
            self._open += [client, server]
            for source, target in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, target), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def test_log_continues_where_it_stopped_after_a_lost_connection(nodes: Nodes, tmp_path: Path) -> None:
    relay, workspace = Relay(nodes.dashboard), tmp_path / "workspace"
    followed = submit(nodes, *slow_generation(workspace, ranges=20), "--address", relay.url)
    wait_for(lambda: writing(workspace), process=followed)
    assert relay.cut()
    code, output, errors = result_of(followed)
    assert code == 0, output + errors
    assert errors.count("was lost, job ") == 1
    assert output.count("corpus killed: 6,000,000 rows in") == 1
