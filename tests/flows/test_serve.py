import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.requests import InWorkspace
from flows.serving.deployments import DEPLOYMENTS, flow_of
from flows.serving.server import free_port, shown
from storage.errors import UserError
from storage.location import Workspace
from tests.browser.pages import Served, start_serving, wait_for

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


@pytest.mark.slow
def test_a_temporary_server_ends_with_a_command_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows.command", "corpus", "generate", "addition", "--rows", "9000000"]
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
def test_ctrl_c_cancels_what_is_under_way_and_leaves_no_process(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    served = start_serving(workspace, "--host", "0.0.0.0")
    log = (tmp_path / "workspace.serve.log").read_text()
    assert "warning: whoever reaches 0.0.0.0 can start flows here, there is no password" in log
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
        command = [sys.executable, "-m", "flows.command", "serve", "--workspace", str(workspace)]
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


@pytest.mark.slow
def test_a_worker_of_a_process_pool_runs_what_the_teams_file_deploys(tmp_path: Path) -> None:
    served = start_serving(tmp_path / "workspace")
    environment = {**os.environ, "PREFECT_API_URL": f"{served.url}/api", "PREFECT_HOME": str(tmp_path / "home")}

    def prefect(*words: str) -> str:
        """What Prefect's own command prints."""
        command = [sys.executable, "-m", "prefect", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    worker = None
    try:
        prefect("work-pool", "create", "numerate", "--type", "process")
        prefect("--no-prompt", "deploy", "--all")
        worker = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "numerate"], cwd=ROOT, env=environment
        )
        request = f'request={{"name": "pool", "terms": 2, "workspace": "{tmp_path}/shared"}}'
        prefect("deployment", "run", "generate-corpus/generate-corpus", "--param", request, "--watch")
        assert (tmp_path / "shared" / "corpora" / "pool" / "manifest.json").exists()
    finally:
        if worker:
            worker.terminate()
            worker.wait()
        served.stop()
