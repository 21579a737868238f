import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prefect import flow, task
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import DeploymentStatus, State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Running
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from flows.requests import InWorkspace
from flows.serving import left_runs
from flows.serving.deployments import DEPLOYMENTS, flow_of
from flows.serving.guard import Guard
from flows.serving.runner import refuse_others
from flows.serving.server import PrefectServer, free_port, shown
from storage.errors import UserError
from storage.location import Workspace
from tests.browser.pages import Served, start_serving, wait_for
from tests.interrupts import hear_interrupts

ROOT = Path(__file__).parents[2]
LONG = {"name": "long", "family": "digits", "terms": 2, "digits": 20, "rows": 20_000_000, "rows_per_shard": 200_000}


def ended(served: Served, run: str) -> bool:
    return served.state(run)[0] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def notes_of(workspace: Path, corpus: str) -> list[Path]:
    return list((workspace / "corpora" / corpus / ".progress").glob("[0-9]*.json"))


def start_long(served: Served) -> str:
    """A run that is well under way."""
    run = served.start("generate-corpus", **LONG)
    wait_for(lambda: ended(served, run) or len(notes_of(served.workspace, "long")) >= 4)
    assert not ended(served, run), served.state(run)
    return run


def left_of(workspace: Path) -> list[str]:
    """Command lines of processes that still name the workspace, or are of a run in it."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            text = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue
        if str(workspace).encode() in text and int(folder.name) != os.getpid():
            found.append(text[:200].replace(b"\0", b" ").decode())
    return found


def test_every_flow_is_deployed_with_a_form_of_its_request() -> None:
    for deployment in DEPLOYMENTS:
        flow = flow_of(deployment)
        assert flow.name == deployment.name
        schema: dict[str, Any] = flow.parameters.model_dump()
        form = schema["definitions"][type(deployment.request).__name__]["properties"]
        assert set(form) == set(type(deployment.request).model_fields)
        for definition in schema["definitions"].values():
            for field in definition.get("properties", {}).values():
                # A model of its own is explained by its docstring.
                assert {"position", "$ref" if "$ref" in field else "description"} <= set(field)


def test_the_teams_file_names_every_deployment() -> None:
    found = {each["name"]: each for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    assert list(found) == [deployment.name for deployment in DEPLOYMENTS]
    for deployment in DEPLOYMENTS:
        module, function = deployment.flow.split(":")
        written = found[deployment.name]
        # By module: by file, this package's folder would hide libraries of the same names as its files.
        assert written["entrypoint"] == f"flows.{module}.{function}"
        assert written["tags"] == ["numerate", *deployment.tags]
        changed = deployment.request.model_dump(exclude_defaults=True)
        assert type(deployment.request)(**written["parameters"]["request"]).model_dump(exclude_defaults=True) == changed
        assert isinstance(deployment.request, InWorkspace)


def test_the_server_shows_reports_and_nothing_else_of_the_workspace(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "workspace"))
    for path in ("runs/a/report/index.html", "runs/a/run.json", "runs/a/checkpoints/x.png", "index.html"):
        place = workspace.root
        for part in path.split("/"):
            place = place / part
        place.write(b"<p>")
    (tmp_path / "index.html").write_text("outside")
    assert shown(workspace, "runs/a/report/index.html") == (b"<p>", "text/html; charset=utf-8")
    refused = ("runs/a/run.json", "index.html", "runs/../../index.html", "runs/a/../../../index.html", "/index.html")
    assert [shown(workspace, path) for path in refused] == [None] * len(refused)
    assert shown(workspace, "runs/b/report/index.html") is None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """A server as `numerate serve` starts it."""
    folder = tmp_path_factory.mktemp("server")
    started = PrefectServer(folder / "home", workspace=Workspace.create(str(folder / "workspace")))
    yield started
    started.stop()


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
def test_no_page_of_another_site_can_ask_the_server_for_anything(server: PrefectServer, origin: str) -> None:
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
def test_a_page_of_another_site_may_link_here_but_show_nothing_of_ours(server: PrefectServer, site: str) -> None:
    link = {"Sec_Fetch_Site": site, "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert answered(server, "GET", "/api/health", **link)[0] == 200
    for shown_as in ("iframe", "image", "script", "empty"):
        assert answered(server, "GET", "/api/health", **{**link, "Sec_Fetch_Dest": shown_as})[0] == 403


def test_the_servers_own_pages_and_programs_are_answered(server: PrefectServer) -> None:
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
def test_no_name_that_was_made_to_point_here_reaches_the_server(server: PrefectServer, host: str) -> None:
    for path in ("/", "/api/health", "/reports/runs/a/report/index.html"):
        assert answered(server, "GET", path, Host=host)[0] == 403
    assert answered(server, "POST", "/api/flows/filter", Host=host, Origin=f"http://{host}")[0] == 403


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "fd00::2"])
def test_a_server_that_is_open_to_the_network_goes_by_its_addresses_and_the_machines_name(host: str) -> None:
    guard = Guard(None, host)
    name = socket.gethostname()
    for known in ("192.168.1.2:4200", "[fd00::2]:4200", name, f"{name.upper()}:4200", "localhost"):
        assert guard.refusal({"headers": [(b"host", known.encode())]}) == ""
    assert "isn't known by that name" in guard.refusal({"headers": [(b"host", b"evil.example")]})
    assert Guard(None, "Box.lan").refusal({"headers": [(b"host", b"box.lan:4200")]}) == ""


MARK = "workspace-mine-1@here"


@pytest.fixture
def configured(server: PrefectServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of that server, which Prefect's settings name."""
    monkeypatch.setenv("PREFECT_API_URL", server.api_url)
    with temporary_settings({PREFECT_API_URL: server.api_url}):
        yield server.api_url


@pytest.mark.usefixtures("configured")
def test_runs_that_nothing_works_on_any_more_are_ended_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_runs, "_PAGE", 2)
    killed = subprocess.Popen(["true"])
    killed.wait()
    alive = left_runs.process_mark()

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
                "killed command": (MARK, f"process:{killed.pid}:0"),
                "number given again": (MARK, f"process:{os.getpid()}:0"),
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
            ended = await left_runs.end_left_runs(client, MARK, own_server=own_server)
            assert len(ended) == len(set(ended))
            assert {run.id for run in runs.values()} >= set(ended)
            found = {}
            for name, run in runs.items():
                found[name] = str((await client.read_flow_run(run.id)).state_type.value)
                await client.delete_flow_run(run.id)
            return found

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


def test_what_another_serves_on_the_same_server_is_not_taken_over(configured: str) -> None:
    name = DEPLOYMENTS[0].name

    async def served_by(tag: str) -> None:
        """A deployment that is there when our workspace is to be served."""
        async with get_client() as client:
            await refuse_others(client, MARK)
            flow_id = await client.create_flow_from_name(name)
            made = await client.create_deployment(flow_id, name, tags=[tag])
            try:
                # Whoever asks for its runs serves it; the server notes it in its own time.
                while (await client.read_deployment(made)).status != DeploymentStatus.READY:
                    await client.get_scheduled_flow_runs_for_deployments([made])
                await refuse_others(client, MARK)
            finally:
                await client.delete_deployment(made)

    asyncio.run(served_by(MARK))
    with pytest.raises(UserError, match=f"'{name}' at {configured} is served by workspace-x-2@there: end that"):
        asyncio.run(served_by("workspace-x-2@there"))


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        with pytest.raises(UserError, match=r"port \d+ of 127.0.0.1 can't be taken .*: name another with --port"):
            free_port(wanted=holder.getsockname()[1])
    with pytest.raises(UserError, match=r"port 65536 of 127.0.0.1 can't be taken \(ports are 0 to 65535\)"):
        free_port(wanted=65_536)
    with pytest.raises(UserError, match=r"port 0 of nowhere.invalid can't be taken \(.+\): name another"):
        free_port("nowhere.invalid")


@pytest.mark.parametrize(("host", "reached"), [("::1", "[::1]"), ("::", "[::1]")])
@pytest.mark.slow
def test_a_server_listens_on_an_address_of_version_6(host: str, reached: str, tmp_path: Path) -> None:
    served = start_serving(tmp_path / "workspace", "--host", host)
    try:
        assert served.url.startswith(f"http://{reached}:")
        assert served.start("generate-corpus", name="pairs", terms=2)
        assert ("there is no password" in served.log.read_text()) == (host == "::")
        children = psutil.Process(served.process.pid).children(recursive=True)
        sockets = [each for child in children for each in child.net_connections("tcp")]
        port = int(served.url.rpartition(":")[2])
        listening = {each.laddr.ip for each in sockets if each.status == "LISTEN" and each.laddr.port == port}
        assert listening == {host}
    finally:
        assert served.stop() == 0


def test_ports_of_both_versions_are_looked_at() -> None:
    for host in ("::1", "::", "localhost", "127.0.0.1"):
        assert free_port(host) > 0
    with socket.socket(socket.AF_INET6) as holder:
        holder.bind(("::1", 0))
        holder.listen()
        with pytest.raises(UserError, match=r"port \d+ of ::1 can't be taken"):
            free_port("::1", holder.getsockname()[1])


@pytest.mark.slow
def test_a_temporary_server_ends_with_a_command_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows", "corpus", "generate", "addition", "--rows", "9000000"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    workspace = tmp_path / "workspace"
    process = subprocess.Popen([*command, "--workspace", str(workspace)], env={**kept, "HOME": str(tmp_path)})
    wait_for(lambda: notes_of(workspace, "addition"))
    process.kill()
    process.wait()
    # Ray's own processes take their time.
    wait_for(lambda: not left_of(workspace), 120)


@pytest.mark.slow
def test_a_killed_serve_leaves_no_run_that_says_running_and_the_next_goes_on(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    served = start_serving(workspace)
    run = start_long(served)
    served.process.kill()
    served.process.wait()
    wait_for(lambda: not left_of(workspace), 60)
    written = len(notes_of(workspace, "long"))
    served = start_serving(workspace)
    try:
        # Ended in order by what outlived its serve for a moment, or else by the next one.
        assert served.state(run)[0] in ("CANCELLED", "CRASHED")
        again = served.start("generate-corpus", **LONG)
        wait_for(lambda: ended(served, again))
        assert served.state(again)[0] == "COMPLETED"
        assert written >= 4
    finally:
        assert served.stop() == 0


@pytest.mark.slow
def test_on_a_server_of_others_a_killed_serve_leaves_no_run_that_says_running(
    server: PrefectServer, tmp_path: Path
) -> None:
    workspace, api = tmp_path / "workspace", server.api_url
    served = start_serving(workspace, api=api)
    run = start_long(served)
    command = [sys.executable, "-m", "flows", "serve", "--workspace", str(tmp_path / "other")]
    environment = {**os.environ, "PREFECT_API_URL": api}
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert (second.returncode, second.stderr.count("\n")) == (2, 1), second.stderr
    assert f"error: 'end-to-end' at {api} is served by workspace-workspace-" in second.stderr
    served.process.kill()
    for process in psutil.process_iter():
        # As where the machine's power goes: nothing has the time to say how it ended.
        with suppress(psutil.Error):
            if str(workspace) in " ".join([*process.cmdline(), *process.environ().values()]):
                process.kill()
    served.process.wait()
    wait_for(lambda: not left_of(workspace), 60)
    assert served.state(run)[0] == "RUNNING"
    served = start_serving(workspace, api=api)
    assert served.state(run)[0] == "CRASHED"
    assert served.stop() == 0


@pytest.mark.slow
def test_ctrl_c_cancels_what_is_under_way_and_leaves_no_process(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    served = start_serving(workspace, "--host", "0.0.0.0", "--json")
    log = served.log.read_text()
    assert "warning: whoever reaches 0.0.0.0 can start flows here, there is no password" in log
    found = wait_for(lambda: [line for line in served.log.read_text().splitlines() if line.startswith("{")])
    assert [json.loads(line) for line in found] == [
        {"workspace": str(workspace), "url": f"{served.url}/v2/deployments"}
    ]
    run = start_long(served)
    assert served.stop(signal.SIGINT) == 0
    assert left_of(workspace) == []
    served = start_serving(workspace)
    assert served.state(run)[0] == "CANCELLED"
    served.stop()


@pytest.mark.slow
def test_runs_in_one_workspace_take_turns_and_a_second_serve_is_refused(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    served = start_serving(workspace)
    try:
        command = [sys.executable, "-m", "flows", "serve", "--workspace", str(workspace)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert (second.returncode, second.stderr.count("\n")) == (2, 1)
        assert f"is served already: open {served.url}" in second.stderr
        first = start_long(served)
        behind = served.start("generate-corpus", name="short", terms=2)
        wait_for(lambda: ended(served, behind))
        found = {run: served.ask(f"flow_runs/{run}") for run in (first, behind)}
        assert [each["state"]["type"] for each in found.values()] == ["COMPLETED"] * 2
        assert found[behind]["end_time"] > found[first]["end_time"]
        logs = served.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [behind]}}})
        assert any("another run is at work in this workspace" in line["message"] for line in logs)
    finally:
        served.stop()


@pytest.mark.slow
def test_a_quick_run_of_every_deployment_works_with_its_defaults(tmp_path: Path) -> None:
    served = start_serving(tmp_path / "workspace")
    try:
        for name in (
            *(
                "train-tokenizer",
                "encode-corpus",
                "evaluate-encoder",
                "probe-encoder",
                "verify-corpus",
                "corpus-leakage",
            ),
            *("generate-corpus", "train-encoder", "end-to-end"),
        ):
            run = served.start(name)
            wait_for(lambda run=run: ended(served, run), 1_200)  # type: ignore[misc]
            assert served.state(run) == ("COMPLETED", ""), name
        report = served.artifacts(run)["end-to-end-report"]["data"]
        assert f"{served.url}/reports/runs/notebook/report/index.html" in report
    finally:
        served.stop()


def copied(to: Path) -> Path:
    """A clone, as another machine has it at another path."""
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in ("flows", "model", "pipelines", "storage"):
        shutil.copytree(ROOT / folder, to / folder, ignore=ignored)
    shutil.copy(ROOT / "prefect.yaml", to)
    return to


def prefect(server: PrefectServer, clone: Path, *words: str) -> "subprocess.Popen[str]":
    """Prefect's own command in a clone."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": server.api_url,
        "PREFECT_HOME": str(clone.parent / "home"),
        "PYTHONPATH": str(clone),
    }
    command = [sys.executable, "-m", "prefect", *words]
    log = open(clone.parent / f"{words[0]}.log", "a")  # noqa: SIM115  (the process keeps it)
    return subprocess.Popen(
        command, cwd=clone, env=environment, text=True, stdout=log, stderr=log, preexec_fn=hear_interrupts
    )


@pytest.fixture
def worker(server: PrefectServer, tmp_path: Path) -> Iterator[Path]:
    """The clone of a worker of what another clone deployed, which isn't there any more."""
    pool = ("work-pool", "create", "numerate", "--type", "process", "--overwrite")
    for words in (pool, ("--no-prompt", "deploy", "--all")):
        clone = copied(tmp_path / "deployer")
        assert prefect(server, clone, *words).wait() == 0, (tmp_path / f"{words[0]}.log").read_text()
        shutil.rmtree(clone)
    clone = copied(tmp_path / "worker")
    process = prefect(server, clone, "worker", "start", "--pool", "numerate")
    yield clone
    process.terminate()
    process.wait()


@pytest.mark.slow
def test_a_worker_in_another_clone_runs_what_the_teams_file_deploys_one_after_the_other(
    server: PrefectServer, worker: Path
) -> None:
    pages = Served(worker / "workspace", None, server.url)  # type: ignore[arg-type]  (nobody serves it)
    runs = [pages.start("generate-corpus", name="pool", terms=2) for _ in range(2)]
    for run in runs:
        wait_for(lambda run=run: ended(pages, run))  # type: ignore[misc]
        assert pages.state(run) == ("COMPLETED", "")
    assert (worker / "workspace" / "corpora" / "pool" / "manifest.json").exists()
