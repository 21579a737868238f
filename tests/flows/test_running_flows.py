"""Running work that `numerate status` shows: the active runs of this workspace on a configured Prefect server."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flows.diagnostics import status as status_module
from flows.diagnostics.status import running_flows
from flows.server.run_tags import workspace_prefix
from storage.workspace import Workspace


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Prefect server is configured."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


class _Api(BaseHTTPRequestHandler):
    """The used part of Prefect's API, with one run in the workspace at `root` and two elsewhere."""

    root = ""
    # Active runs of other workspaces that come before these.
    others = 450

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()
        run = {"name": "corpus x", "state_name": "Running", "start_time": "2026-11-27T00:00:00Z", "id": "1"}
        here, there = [f"{workspace_prefix(Workspace.open(root))}@host" for root in (self.root, f"{self.root}-2")]
        runs = [{**run, "tags": ["numerate", here]}, {**run, "tags": ["numerate", there]}, {**run, "tags": []}]
        runs = [{**run, "tags": [there]}] * self.others + runs
        page = runs[asked["offset"] : asked["offset"] + asked["limit"]]
        self.wfile.write(json.dumps(page if self.path == "/api/flow_runs/filter" else {}).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def api() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), _Api)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_running_flows_come_from_the_configured_server_if_it_responds(
    api: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(status_module, "_API_SECONDS", 30.0)
    root = Workspace.open(str(tmp_path / "w"))
    monkeypatch.setattr(_Api, "root", str(tmp_path / "w"))
    assert running_flows(root) == []
    monkeypatch.setenv("PREFECT_API_URL", f"{api}/api/")
    assert [(flow.name, flow.state) for flow in running_flows(root)] == [("corpus x", "Running")]
    for url in (f"{api}/other", "http://127.0.0.1:1/api", "nonsense"):
        monkeypatch.setenv("PREFECT_API_URL", url)
        assert running_flows(root) == []
    monkeypatch.delenv("PREFECT_API_URL")
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    (tmp_path / "profiles.toml").write_text(f'active = "a"\n[profiles.a]\nPREFECT_API_URL = "{api}/api"\n')
    assert len(running_flows(root)) == 1
