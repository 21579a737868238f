"""`numerate serve`: start, use, stop and kill, and the workers of a team."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from flows.registry import FLOWS, flow_at, team_file
from flows.server.app import PrefectServer
from flows.server.serve import serve
from storage.errors import UserError
from storage.workspace import Workspace
from tests.browser.pages import Served, shell, start_serving
from tests.processes import restore_sigint, wait_for

ROOT = Path(__file__).parents[2]
# In every process: a checkpoint takes longer than Prefect waits for a cancelled run.
_SLOW_CHECKPOINTS = """
import os, time
replace = os.replace
def slow(source, target, **folders):
    if str(target).endswith(".safetensors"):
        time.sleep(45)
    return replace(source, target, **folders)
os.replace = slow
"""
LONG = {"name": "long", "family": "digits", "terms": 2, "digits": 20, "rows_per_shard": 200_000, "rows": 20_000_000}


def ended(served: Served, run: str) -> bool:
    return served.state(run)[0] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def notes_of(workspace: Path, corpus: str) -> list[Path]:
    return list((workspace / "corpora" / corpus / ".progress").glob("[0-9]*.json"))


def start_long(served: Served, **more: int) -> str:
    """A run that is well under way."""
    run = served.start("generate-corpus", **{**LONG, **more})
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


def serving_folder_of(workspace: Path) -> Path:
    """What is kept of the workspace's serving by `start_serving`."""
    (found,) = (workspace.parent / ".cache/numerate/workspaces").glob("serving-*")
    return found


def test_server_that_others_can_reach_requires_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace = Workspace.create(str(tmp_path / "workspace"))
    monkeypatch.chdir(tmp_path)
    for host in ("0.0.0.0", "::", "10.0.0.1", "box.lan"):
        with pytest.raises(UserError, match="and the server has no password: set PREFECT_SERVER_API_AUTH_STRING"):
            serve(workspace, host=host)
    for auth in ("secret", ":secret", "ada:", "ada:sésame", "ada:\n"):
        monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", auth)
        with pytest.raises(UserError, match="Prefect's password is not valid: set PREFECT_SERVER") as refused:
            serve(workspace)
        assert auth not in str(refused.value)
    monkeypatch.delenv("PREFECT_SERVER_API_AUTH_STRING")
    with pytest.raises(UserError, match="host name 'https://x' is not valid"):
        serve(workspace, allowed=["https://x"])


def test_every_flow_is_deployed_with_a_form() -> None:
    for registered in FLOWS:
        flow = registered.flow()
        assert flow.name == registered.name
        schema: dict[str, Any] = flow.parameters.model_dump()
        form = schema["definitions"][type(registered.form).__name__]["properties"]
        assert set(form) == set(type(registered.form).model_fields)
        for definition in schema["definitions"].values():
            for field in definition.get("properties", {}).values():
                # A model of its own is explained by its docstring.
                assert {"position", "$ref" if "$ref" in field else "description"} <= set(field)


def test_prefect_yaml_follows_from_the_registry() -> None:
    text = (ROOT / "prefect.yaml").read_text()
    assert text == team_file(), "run 'python -m flows.registry > prefect.yaml'"
    found = {each["name"]: each for each in yaml.safe_load(text)["deployments"]}
    assert list(found) == [registered.name for registered in FLOWS]
    for registered in FLOWS:
        written = found[registered.name]
        assert flow_at(written["entrypoint"]).name == registered.name
        assert written["tags"] == ["numerate", *registered.tags]
        assert written["description"] == registered.description
        assert type(registered.form)(**written["parameters"]["request"]) == registered.form


@pytest.mark.parametrize(("host", "reached"), [("::1", "[::1]"), ("::", "[::1]")])
@pytest.mark.slow
def test_server_can_listen_on_an_ipv6_address(host: str, reached: str, tmp_path: Path) -> None:
    auth = "ada:sesame" if host == "::" else ""
    served = start_serving(tmp_path / "workspace", "--host", host, auth=auth)
    try:
        assert served.url.startswith(f"http://{reached}:")
        assert served.start("generate-corpus", name="pairs", terms=2)
        children = psutil.Process(served.process.pid).children(recursive=True)
        sockets = [each for child in children for each in child.net_connections("tcp")]
        port = int(served.url.rpartition(":")[2])
        listening = {each.laddr.ip for each in sockets if each.status == "LISTEN" and each.laddr.port == port}
        assert listening == {host}
    finally:
        assert served.stop() == 0


@pytest.mark.slow
def test_temporary_server_ends_with_a_killed_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "flows", "corpus", "generate", "addition", "--rows", "9000000"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    workspace = tmp_path / "workspace"
    process = subprocess.Popen([*command, "--workspace", str(workspace)], env={**kept, "HOME": str(tmp_path)})
    wait_for(lambda: notes_of(workspace, "addition"))
    process.kill()
    process.wait()
    # Ray's own processes take their time.
    wait_for(lambda: not left_of(workspace), 120)


@pytest.mark.parametrize("goes_on", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_runs_of_a_killed_serve_are_crashed_and_can_be_resumed(tmp_path: Path, goes_on: bool) -> None:
    workspace = tmp_path / "workspace"
    served = start_serving(workspace)
    run = start_long(served, rows=5_000_000)
    served.process.kill()
    served.process.wait()
    wait_for(lambda: not left_of(workspace), 60)
    assert len(notes_of(workspace, "long")) >= 4
    # Ended in order by what outlived its serve for a moment, or else by the next one, which takes half a minute.
    with sqlite3.connect(serving_folder_of(workspace) / "prefect.db") as records:
        ((state,),) = records.execute("SELECT state_type FROM flow_run WHERE id = ?", [run]).fetchall()
    if state in ("CANCELLED", "CRASHED") and not goes_on:
        return
    served = start_serving(workspace)
    try:
        assert served.state(run)[0] in ("CANCELLED", "CRASHED")
        if goes_on:
            again = served.start("generate-corpus", **{**LONG, "rows": 5_000_000})
            wait_for(lambda: ended(served, again))
            assert served.state(again)[0] == "COMPLETED"
    finally:
        assert served.stop() == 0


@pytest.mark.slow
def test_runs_of_a_killed_serve_are_crashed_on_a_shared_server(server: PrefectServer, tmp_path: Path) -> None:
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
def test_ctrl_c_cancels_running_flows_and_leaves_no_process(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    served = start_serving(workspace, "--host", "0.0.0.0", "--json", auth="ada:sesame")
    found = wait_for(lambda: [line for line in served.log.read_text().splitlines() if line.startswith("{")])
    assert [json.loads(line) for line in found] == [
        {"workspace": str(workspace), "url": f"{served.url}/v2/deployments"}
    ]
    run = start_long(served)
    # A command in another shell of the same person knows the password, and what serves the workspace records its run.
    command = [sys.executable, "-m", "flows", "status", "--json", "--workspace", str(workspace)]
    told = subprocess.run(command, env=shell(workspace), capture_output=True, text=True, timeout=120, check=True)
    assert [flow["name"] for flow in json.loads(told.stdout)["flows"]] == ["generate long"]
    assert served.stop(signal.SIGINT) == 0
    assert left_of(workspace) == []
    # The runner, its flow runs and the server knew it, and printed it nowhere.
    home = serving_folder_of(workspace)
    assert not [path for path in (served.log, *home.iterdir()) if b"sesame" in path.read_bytes()]
    served = start_serving(workspace)
    assert served.state(run)[0] == "CANCELLED"
    served.stop()


@pytest.mark.slow
def test_waiting_runs_stay_scheduled_and_a_second_serve_is_rejected(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    served = start_serving(workspace)
    try:
        command = [sys.executable, "-m", "flows", "serve", "--workspace", str(workspace)]
        second = subprocess.run(command, env=shell(workspace), capture_output=True, text=True, timeout=120, check=False)
        assert (second.returncode, second.stderr.count("\n")) == (2, 1)
        assert f"is already served: open {served.url}" in second.stderr
        # It outlasts the time after which Prefect calls a waiting run late, on any machine.
        first = start_long(served, rows=1_000_000_000)
        behind = [served.start("generate-corpus", name=f"short-{number}", terms=2) for number in range(3)]
        # The runner has looked for runs, and left these, for some time.
        wait_for(lambda: "Late" in {served.call(f"flow_runs/{run}")["state"]["name"] for run in behind})
        assert not ended(served, first), served.state(first)
        assert {served.state(run)[0] for run in behind} == {"SCHEDULED"}
        children = psutil.Process(served.process.pid).children(recursive=True)
        assert len([each for each in children if "prefect.engine" in " ".join(each.cmdline())]) == 1
        served.call(f"flow_runs/{first}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: all(ended(served, run) for run in behind))
        found = [served.call(f"flow_runs/{run}") for run in (first, *behind)]
        assert [each["state"]["type"] for each in found] == ["CANCELLED", *["COMPLETED"] * 3]
        for before, after in pairwise(sorted(found, key=lambda run: run["end_time"])):
            assert after["start_time"] > before["end_time"]
    finally:
        served.stop()


@pytest.mark.slow
def test_cancelled_training_has_time_for_a_slow_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "sitecustomize.py").write_text(_SLOW_CHECKPOINTS)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'slow'}:{ROOT}")
    workspace = tmp_path / "workspace"
    served = start_serving(workspace)
    try:
        training = {"steps": 100_000, "batch_size": 64, "validate_every": 20, "checkpoint_every": 100_000}
        run = served.start("train-encoder", corpus="quick", name="slow", **training)
        wait_for(lambda: ended(served, run) or list((workspace / "runs/slow/metrics").glob("*.parquet")), 600)
        assert not ended(served, run), served.state(run)
        served.call(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
        wait_for(lambda: ended(served, run), 300)
        assert served.state(run)[0] == "CANCELLED"
        (entry,) = json.loads((workspace / "runs/slow/checkpoints/index.json").read_text())["entries"]
        assert (workspace / "runs/slow/checkpoints" / entry["file"]).exists()
    finally:
        assert served.stop() == 0


@pytest.mark.slow
def test_quick_run_of_every_deployment_works_with_its_defaults(tmp_path: Path) -> None:
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
        assert "](/reports/runs/notebook/report/index.html)" in report
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
        command, cwd=clone, env=environment, text=True, stdout=log, stderr=log, preexec_fn=restore_sigint
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
    process = prefect(server, clone, "worker", "start", "--pool", "numerate", "--limit", "1")
    yield clone
    process.terminate()
    process.wait()


@pytest.mark.slow
def test_worker_in_another_clone_runs_deployed_flows_one_at_a_time(server: PrefectServer, worker: Path) -> None:
    pages = Served(worker / "workspace", None, server.url)  # type: ignore[arg-type]  (nobody serves it)
    runs = [pages.start("generate-corpus", name="pool", terms=2) for _ in range(2)]
    for run in runs:
        wait_for(lambda run=run: ended(pages, run))  # type: ignore[misc]
        assert pages.state(run) == ("COMPLETED", "")
    first, second = sorted((pages.call(f"flow_runs/{run}") for run in runs), key=lambda run: run["end_time"])
    assert second["start_time"] > first["end_time"]
    assert (worker / "workspace" / "corpora" / "pool" / "manifest.json").exists()
