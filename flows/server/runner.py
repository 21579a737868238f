"""The process of `numerate serve` that registers the deployments and starts their flow runs.

On SIGTERM it cancels the running flow runs and ends. It also ends when its parent ends, even if that is killed.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import suppress
from typing import Any
from uuid import UUID

import anyio
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import DeploymentStatus
from prefect.deployments.runner import EntrypointType
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.runner import runner as runner_module
from prefect.runner._process_manager import ProcessManager

from flows.common.engines import Served, end_quietly, note_served
from flows.common.progress import say
from flows.registry import FLOWS, TAG, RegisteredFlow
from flows.server.app import end_with
from flows.server.orphaned_runs import end_orphaned_runs
from flows.server.run_tags import workspace_tag
from flows.server.settings import configured_api
from model.config.training import STOP_SECONDS
from storage.errors import UserError
from storage.workspace import Workspace

# Time for a run after its training has stopped, to shut down Ray and print its last messages.
_END_SECONDS, _POLL_SECONDS = 15.0, 0.5


class PatientProcesses(ProcessManager):
    """Processes of flow runs, with enough time to stop for a training to write a checkpoint.

    Prefect's own implementation kills a cancelled run after 30 s, whatever is configured.
    """

    async def kill(self, flow_run_id: UUID, grace_seconds: float = 30, *, force: bool = False) -> None:
        """Stop a run, and kill it if it does not end in time; `force` kills it at once."""
        handle = self.get(flow_run_id)
        if handle and not force:
            with suppress(ProcessLookupError):
                handle.graceful_kill()
            with anyio.move_on_after(STOP_SECONDS + _END_SECONDS):
                while handle.is_alive():
                    await anyio.sleep(_POLL_SECONDS)
                return
        await super().kill(flow_run_id, force=True)


class _Runner(Runner):
    async def cancel_all(self) -> None:
        """Cancel all runs in parallel: Prefect's implementation waits for one run after the other."""
        active = self._process_manager.flow_run_ids()
        await asyncio.gather(
            *(self._cancel_run(run, "the runner is shutting down") for run in active), return_exceptions=True
        )


async def run_deployments(workspace: Workspace, own_server: bool, at_once: int) -> None:
    """Serve every flow until SIGTERM; with `own_server`, no other process runs flows on the server.

    Raises `UserError` if another workspace or a work pool serves deployments of the same names.
    """
    tag = workspace_tag(workspace)
    async with get_client() as client:
        if not own_server:
            await refuse_others(client, tag)
        await end_orphaned_runs(client, tag, own_server=own_server)
    # Prefect has no setting for this.
    runner_module.ProcessManager = PatientProcesses  # type: ignore[misc]
    # Runs above the limit stay Scheduled, without a process.
    runner = _Runner(name=f"numerate {workspace.root.name}", pause_on_shutdown=False, limit=at_once)
    for registered in FLOWS:
        deployment = await registered.flow().ato_deployment(
            registered.name,
            parameters=parameters_of(registered, workspace),
            description=registered.description,
            # Runs inherit the tags.
            tags=[TAG, *registered.tags, tag],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        await runner.aadd_deployment(deployment)
    stop = asyncio.Event()
    running = asyncio.create_task(runner.start())
    while not runner.started and not running.done():
        await asyncio.sleep(0.05)
    # Set only now, because the runner installs its own handler when it starts.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    auth = os.environ.get("PREFECT_API_AUTH_STRING", "") if own_server else ""
    note_served(workspace, Served(configured_api().removesuffix("/api"), os.getpid(), own_server, auth))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await runner.astop()
        await running
    finally:
        async with get_client() as client:
            await end_orphaned_runs(client, tag, own_server=own_server)


def parameters_of(registered: RegisteredFlow, workspace: Workspace) -> dict[str, Any]:
    """Default parameters of a deployment in a workspace, for a quick run and for the form."""
    request = registered.form.model_copy(update={"workspace": str(workspace.root)})
    return {"request": request.model_dump(mode="json")}


async def refuse_others(client: PrefectClient, tag: str) -> None:
    """Raise `UserError` if one of the deployments would replace one that somebody else serves."""
    for registered in FLOWS:
        with suppress(ObjectNotFound):
            existing = await client.read_deployment_by_name(f"{registered.name}/{registered.name}")
            name = f"'{registered.name}' at {configured_api()}"
            if existing.work_pool_name:
                raise UserError(
                    f"{name} is deployed to the work pool '{existing.work_pool_name}': start a worker of that pool, "
                    "or unset PREFECT_API_URL to use a server of your own"
                )
            if existing.status == DeploymentStatus.READY and tag not in existing.tags:
                user = next((other for other in existing.tags if "@" in other), "another user")
                raise UserError(
                    f"{name} is served by {user}: end that 'numerate serve' and wait one minute, or unset "
                    "PREFECT_API_URL to use a server of your own"
                )


def main() -> None:
    """Run the runner's process, with the arguments from `flows.server.serve`."""
    end_quietly()
    options = json.loads(sys.argv[1])
    end_with(options["parent"])
    try:
        asyncio.run(run_deployments(Workspace.open(options["workspace"]), options["own_server"], options["at_once"]))
    except UserError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
