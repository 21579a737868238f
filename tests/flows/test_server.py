"""The Prefect server of `numerate serve`: pages, access control, and orphaned runs."""

import asyncio
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentStatus, State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from flows.common.engines import Served, note_served, prefect_home, served, serving_folder
from flows.registry import FLOWS
from flows.reports.artifacts import link
from flows.server import orphaned_runs
from flows.server.app import PrefectServer
from flows.server.middleware import Guard, checked_name
from flows.server.report_pages import page_at
from flows.server.run_tags import process_tag
from flows.server.runner import refuse_others
from storage.errors import UserError
from storage.workspace import Workspace

PAGE = "runs/a/report/index.html"


@pytest.fixture(scope="module")
def planted(served_workspace: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the served workspace, with a report and what no server should show."""
    root, outside = Path(str(served_workspace.root)), tmp_path_factory.mktemp("outside")
    for path in (PAGE, "runs/a/run.json", "runs/a/checkpoints/x.png", "index.html", "runs/a/folder.png/x"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"<p>")
    (outside / "index.html").write_text("outside")
    (outside / "secret.png").write_text("outside")
    os.mkfifo(root / "runs/a/pipe.png")
    (root / "runs/evil").mkdir()
    (root / "runs/evil/index.html").symlink_to(outside / "index.html")
    (root / "runs/a/inner.png").symlink_to(root / "runs/a/run.json")
    (root / "runs/linked").symlink_to(outside)
    return root


def test_server_shows_only_reports_of_the_workspace(planted: Path) -> None:
    workspace = Workspace.open(str(planted))
    assert page_at(workspace, PAGE) == (b"<p>", "text/html; charset=utf-8")
    refused = (
        *("runs/a/run.json", "index.html", "runs/../../index.html", "runs/a/../../../index.html", "/index.html"),
        *("runs/evil/index.html", "runs/a/inner.png", "runs/linked/index.html", "runs/linked/secret.png"),
        *("runs/a/pipe.png", "runs/a/folder.png", "runs/b/report/index.html"),
    )
    assert [path for path in refused if page_at(workspace, path)] == []


def test_headers_of_pages_and_pictures_forbid_scripts(server: PrefectServer, planted: Path) -> None:
    for path in (PAGE, "runs/a/checkpoints/x.png", "runs/a/pipe.png", "runs/a/folder.png", "runs/none/index.html"):
        status, headers = answered(server, "GET", f"/reports/{path}")
        assert status == (404 if path.startswith(("runs/a/pipe", "runs/a/folder", "runs/none")) else 200)
        policy = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        assert headers["content-security-policy"] == policy
        assert headers["x-content-type-options"] == "nosniff"


def test_long_body_is_rejected_before_it_is_read(server: PrefectServer) -> None:
    connection = HTTPConnection(server.host, server.port, timeout=30)
    for given, status in (
        ({"Content-Length": str(33 << 20)}, 413),
        ({"Content-Length": "9" * 5_000}, 400),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Content-Length": "2"}, 200),
    ):
        connection.putrequest("POST", "/api/flows/filter")
        for name, value in {"Content-Type": "application/json", **given}.items():
            connection.putheader(name, value)
        connection.endheaders()
        if status == 200:
            connection.send(b"{}")
        assert connection.getresponse().status == status
        connection.close()


BASIC = "Basic YWRhOm9wZW4gc2VzYW1l"


@pytest.mark.usefixtures("planted")
def test_server_with_a_password_rejects_requests_without_it(guarded: PrefectServer) -> None:
    wrong = (*("", "Basic", "Basic !", "Basic YWRhOm9wZW4=", BASIC.lower(), f"{BASIC}A"), "Bearer YWRhOm9wZW4gc2VzYW1l")
    for method, path in (("POST", "/api/flows/filter"), ("GET", f"/reports/{PAGE}"), ("GET", "/api/version")):
        for given in wrong:
            status, headers = answered(guarded, method, path, **({"Authorization": given} if given else {}))
            assert status == 401, (path, given)
            # So that a browser asks for name and password where there is no page of Prefect's that does.
            assert ("www-authenticate" in headers) == path.startswith("/reports/")
        assert answered(guarded, method, path, Authorization=BASIC)[0] == 200
    for path in ("events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"):
        with pytest.raises(InvalidStatus), connect(f"ws://127.0.0.1:{guarded.port}/api/{path}"):
            pass
        with connect(f"ws://127.0.0.1:{guarded.port}/api/{path}", subprotocols=[Subprotocol("prefect")]) as opened:
            opened.send('{"type": "auth", "token": "wrong"}')
            with pytest.raises(ConnectionClosed):
                assert opened.recv(30) == ""


def test_allowed_name_of_a_proxy_is_accepted(guarded: PrefectServer) -> None:
    for host in ("numbers.example", "numbers.example:8443", f"127.0.0.1:{guarded.port}"):
        own = {"Host": host, "Authorization": BASIC}
        assert answered(guarded, "POST", "/api/flows/filter", Origin="https://numbers.example:8443", **own)[0] == 200
        for origin in ("https://numbers.example:9", "https://evil.example", "https://other.numbers.example:8443"):
            assert answered(guarded, "POST", "/api/flows/filter", Origin=origin, **own)[0] == 403
    assert answered(guarded, "GET", "/api/version", Host="other.numbers.example", Authorization=BASIC)[0] == 403
    for name in ("", "https://numbers.example", "a b", "[", "user@host", ":80"):
        with pytest.raises(UserError, match=r"host name '.*' is not valid: write it as a browser shows it"):
            checked_name(name)


def test_records_and_log_are_private_and_do_not_contain_the_password(guarded: PrefectServer) -> None:
    files = {path.name: path for path in guarded.home.iterdir() if path.is_file()}
    assert set(files) >= {"prefect.db", "prefect.db-wal", "server.log"}
    assert {path.stat().st_mode & 0o077 for path in files.values()} == {0}
    assert not [name for name, path in files.items() if b"sesame" in path.read_bytes()]
    assert "sesame" not in " ".join(psutil.Process(guarded.pid).cmdline())


def test_record_of_a_served_workspace_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("PREFECT_HOME")
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.create(str(tmp_path / "shared"))
    (tmp_path / "link").symlink_to(tmp_path / "shared")
    note_served(workspace, Served("http://127.0.0.1:4200", 7, auth="ada:secret"))
    folder = serving_folder(workspace)
    assert folder.path.stat().st_mode & 0o777 == 0o700
    assert prefect_home(workspace) == folder.path
    assert folder.path.is_relative_to(tmp_path / "cache")
    assert list((tmp_path / "shared").iterdir()) == []
    assert served(Workspace.open(str(tmp_path / "link"))).auth == "ada:secret"
    monkeypatch.setattr("socket.gethostname", lambda: "another")
    # A home that machines share holds the records of each of them apart.
    assert served(workspace) == Served()


def answered(server: PrefectServer, method: str, path: str, **headers: str) -> tuple[int, dict[str, str]]:
    """Status and headers of what the server answers a browser that sends these headers."""
    connection = HTTPConnection(server.host, server.port, timeout=30)
    body = "{}" if method in ("POST", "PATCH") else None
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Content-Type": "application/json", **named})
    answer = connection.getresponse()
    found = answer.status, {name.lower(): value for name, value in answer.getheaders()}
    connection.close()
    return found


@pytest.mark.parametrize("origin", ["http://evil.example", "https://evil.example", "null", "http://localhost:1"])
def test_requests_from_pages_of_other_sites_are_rejected(server: PrefectServer, origin: str) -> None:
    asked = {"Origin": origin, "Access_Control_Request_Method": "PATCH"}
    assert answered(server, "OPTIONS", "/api/deployments/x", **asked)[0] == 403
    for method, path in (
        ("POST", "/api/flows/filter"),
        ("PATCH", f"/api/deployments/{uuid.uuid4()}"),
        ("GET", "/api/health"),
    ):
        status, headers = answered(server, method, path, Origin=origin)
        assert status == 403
        assert "access-control-allow-origin" not in headers
    for path in ("events/in", "events/out", "logs/out"):
        with (
            pytest.raises(InvalidStatus, match="403"),
            connect(f"ws://127.0.0.1:{server.port}/api/{path}", origin=origin),
        ):
            pass


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_link_to_pages_but_not_embed_them(server: PrefectServer, site: str) -> None:
    link = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert answered(server, "GET", "/api/health", **link)[0] == 200
    for shown_as in ("iframe", "image", "script", "empty"):
        assert answered(server, "GET", "/api/health", **{**link, "Sec_Fetch_Dest": shown_as})[0] == 403


def test_own_pages_and_programs_are_accepted(server: PrefectServer) -> None:
    assert answered(server, "POST", "/api/flows/filter")[0] == 200
    assert answered(server, "POST", "/api/flows/filter", Origin=server.url)[0] == 200
    for host in (f"localhost:{server.port}", "localhost:9999", "[::1]:4200", "127.0.0.1"):
        # By an SSH tunnel the port is another.
        assert answered(server, "POST", "/api/flows/filter", Host=host, Origin=f"http://{host}")[0] == 200
    with connect(f"ws://127.0.0.1:{server.port}/api/events/in", origin=server.url):
        pass


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4200", "127.0.0.1.evil.example", "localhost@evil", "", "["]
)
def test_rebound_host_names_are_rejected(server: PrefectServer, host: str) -> None:
    for path in ("/", "/api/health", "/reports/runs/a/report/index.html"):
        assert answered(server, "GET", path, Host=host)[0] == 403
    assert answered(server, "POST", "/api/flows/filter", Host=host, Origin=f"http://{host}")[0] == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "fd00::2"])
def test_server_on_all_interfaces_accepts_its_addresses_and_the_name_of_the_machine(host: str) -> None:
    guard = Guard(None, host)
    name = socket.gethostname()
    for known in ("192.168.1.2:4200", "[fd00::2]:4200", name, f"{name.upper()}:4200", "localhost"):
        assert guard.refusal({"headers": [(b"host", known.encode())]}) == (0, "")
    assert "the host name is not allowed" in guard.refusal({"headers": [(b"host", b"evil.example")]})[1]
    assert Guard(None, "Box.lan").refusal({"headers": [(b"host", b"box.lan:4200")]}) == (0, "")


MARK = "workspace-mine-1@here"


@pytest.fixture
def configured(server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of that server, which Prefect's settings name."""
    monkeypatch.setenv("PREFECT_API_URL", server.api_url)
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        yield server.api_url


@pytest.mark.usefixtures("configured")
def test_only_orphaned_runs_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphaned_runs, "_PAGE", 2)
    killed = subprocess.Popen(["true"])
    killed.wait()
    alive = process_tag()
    here = alive.rsplit(":", 2)[0]

    @flow
    def stage() -> None:
        """Nothing."""

    async def states(own_server: bool) -> dict[str, str]:
        """What all say after the end of those that are left."""
        async with get_client() as client:
            flow_id = await client.create_flow(stage)
            wanted = {
                "served": (MARK,),
                "cancelling": (MARK,),
                "another's": ("workspace-mine-1@there",),
                "command": (MARK, alive),
                "killed command": (MARK, f"{here}:{killed.pid}:0"),
                "number given again": (MARK, f"{here}:{os.getpid()}:0"),
            }
            runs = {}
            for name, tags in wanted.items():
                if "command" in name or "number" in name:
                    runs[name] = await client.create_flow_run(stage, tags=tags)
                else:
                    deployment = await client.create_deployment(flow_id, name)
                    runs[name] = await client.create_flow_run_from_deployment(deployment, tags=tags)
                state = State(type=StateType.CANCELLING) if name == "cancelling" else Running()
                await client.set_flow_run_state(runs[name].id, state, force=True)
            for outer in ("command", "killed command"):
                task = await client.create_task_run(work, runs[outer].id, dynamic_key="0")
                runs[f"within {outer}"] = await client.create_flow_run(
                    stage, parent_task_run_id=task.id, state=Running()
                )
            ended = await orphaned_runs.end_orphaned_runs(client, MARK, own_server=own_server)
            assert len(ended) == len(set(ended))
            assert {run.id for run in runs.values()} >= set(ended)
            found = {name: (await client.read_flow_run(run.id)).state_type for name, run in runs.items()}
            # Not before all are read: the server cancels a run whose outer run is deleted.
            for run in runs.values():
                await client.delete_flow_run(run.id)
            return {name: str(state.value) for name, state in found.items()}

    @task
    def work() -> None:
        """Nothing."""

    expected = {
        "served": "CRASHED",
        "cancelling": "CANCELLED",
        "another's": "RUNNING",
        "command": "RUNNING",
        "killed command": "CRASHED",
        "number given again": "CRASHED",
        "within command": "RUNNING",
        "within killed command": "CRASHED",
    }
    assert asyncio.run(states(own_server=False)) == expected
    assert asyncio.run(states(own_server=True)) == {**expected, "another's": "CRASHED"}


def test_deployments_of_another_user_are_not_replaced(configured: str) -> None:
    name = FLOWS[0].name

    async def served_by(tag: str) -> None:
        """A deployment that is there when our workspace is to be served."""
        async with get_client() as client:
            await refuse_others(client, MARK)
            flow_id = await client.create_flow_from_name(name)
            made = await client.create_deployment(flow_id, name, tags=[tag])
            try:
                # Whoever asks for its runs serves it; the server notes it in its own time.
                async with asyncio.timeout(120):
                    while (await client.read_deployment(made)).status != DeploymentStatus.READY:
                        await client.get_scheduled_flow_runs_for_deployments([made])
                await refuse_others(client, MARK)
            finally:
                await client.delete_deployment(made)

    asyncio.run(served_by(MARK))
    with pytest.raises(UserError, match=f"'{name}' at {configured} is served by workspace-x-2@there: end that"):
        asyncio.run(served_by("workspace-x-2@there"))


def test_reports_are_linked_only_from_the_server_that_shows_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, own = Workspace.create(str(tmp_path / "w")), "http://127.0.0.1:4200"
    page = workspace.root / PAGE

    def linked(api: str) -> str:
        monkeypatch.setenv("PREFECT_API_URL", api)
        return link(workspace, page)

    # Nothing is served yet.
    assert linked(f"{own}/api") == ""
    note_served(workspace, Served(own))
    assert linked(f"{own}/api") == f"/reports/{PAGE}"
    assert linked("http://elsewhere:4200/api") == ""
    # The workspace has a runner of flows, but the server is somebody's own.
    note_served(workspace, Served(own, own=False))
    assert linked(f"{own}/api") == ""
