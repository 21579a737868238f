"""Common behaviour of all flows, with a real Prefect server."""

from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.client.orchestration import get_client
from prefect.flow_engine import run_flow

from flows.common import flow as flow_module
from flows.common.flow import flow
from flows.common.parameters import InWorkspace
from flows.diagnostics import status
from flows.diagnostics.status import running_flows
from storage.errors import RunFailure, TransientFailure, UserError
from storage.workspace import Workspace

pytestmark = pytest.mark.usefixtures("recorded")


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        pytest.param(TransientFailure("a worker was lost"), 3, id="lost worker"),
        pytest.param(RunFailure("the disk is full"), 1, id="anything else"),
    ],
)
def test_only_transient_failures_are_retried(
    failure: Exception, tries: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(flow_module, "_RETRY_SECONDS", [0.1])
    tried = []

    @flow(name="fragile", flow_run_name="fragile")
    def fragile(request: InWorkspace) -> dict[str, Any]:
        """Succeeds at the third attempt."""
        tried.append(request)
        if len(tried) < 3:
            raise failure
        return {"tries": len(tried)}

    request = InWorkspace(workspace=str(tmp_path / "workspace"))
    if tries == 3:
        assert fragile(request) == {"tries": 3}
    else:
        with pytest.raises(type(failure), match=str(failure)):
            fragile(request)
    assert len(tried) == tries


def test_outer_flow_does_not_retry_an_exhausted_inner_flow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(flow_module, "_RETRY_SECONDS", [0.1])
    tried: list[str] = []

    @flow(name="inner", flow_run_name="inner")
    def inner(request: InWorkspace) -> dict[str, Any]:
        """Loses its worker whenever it is tried."""
        tried.append("inner")
        raise TransientFailure("a worker was lost")

    @flow(name="middle", flow_run_name="middle")
    def middle(request: InWorkspace) -> dict[str, Any]:
        """Needs what the inner flow makes."""
        tried.append("middle")
        return inner(request)

    @flow(name="outer", flow_run_name="outer")
    def outer(request: InWorkspace) -> dict[str, Any]:
        """Needs what the middle flow makes."""
        tried.append("outer")
        return middle(request)

    with pytest.raises(RunFailure, match="a worker was lost"):
        outer(InWorkspace(workspace=str(tmp_path / "workspace")))
    assert tried == ["outer", "middle", "inner", "inner", "inner"]


def run_of_deployment(deployed: Flow[..., Any], request: dict[str, Any]) -> Any:
    """What a process does that a runner or a worker starts for a run of a deployment."""
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(deployed), deployed.name)
        run = client.create_flow_run_from_deployment(deployment, parameters={"request": request})
    return run_flow(deployed, flow_run=run, parameters=run.parameters)


def test_tags_of_a_run_show_its_workspace_and_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(status, "_API_SECONDS", 30.0)
    place = Workspace.create(str(tmp_path / "workspace"))
    seen: list[str] = []

    @flow(name="within", flow_run_name="within")
    def within(request: InWorkspace) -> dict[str, Any]:
        """Looks while it runs."""
        seen.extend(sorted(run.name for run in running_flows(place)))
        return {}

    @flow(name="around", flow_run_name="around")
    def around(request: InWorkspace) -> dict[str, Any]:
        """Has a flow in it."""
        return within(request)

    run_of_deployment(around, {"workspace": str(place.root)})
    assert seen == ["around", "within"]
    assert running_flows(place) == []


@pytest.mark.parametrize(
    ("request_", "line"),
    [
        pytest.param({"ray": 7}, "named failed: ray is 7: input should be a valid string", id="bad value"),
        pytest.param({}, "named failed: the disk is full: free some", id="failed work"),
    ],
)
def test_failed_run_of_a_deployment_prints_one_line(
    request_: dict[str, Any],
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:

    @flow(name="named", flow_run_name="named")
    def named(request: InWorkspace) -> dict[str, Any]:
        """Fails."""
        raise RunFailure("the disk is full: free some")

    with pytest.raises((RunFailure, UserError)):
        run_of_deployment(named, {"workspace": str(tmp_path / "workspace"), **request_})
    assert [each for each in capsys.readouterr().err.splitlines() if each.startswith("named failed")] == [line]
