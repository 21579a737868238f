"""The process of `numerate serve` that starts flow runs: it registers the deployments and waits for runs of them.

It ends in order by SIGTERM, with the runs that are under way cancelled, and with its parent however that ends.
"""

import asyncio
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterState, FlowRunFilterStateType
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.deployments.runner import EntrypointType
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.states import Cancelled, Crashed

from flows.serving.deployments import DEPLOYMENTS, TAG, flow_of, parameters_of
from flows.serving.server import end_with
from flows.session import Served, configured_api, end_quietly, note_served
from flows.stage import turn_of
from storage.location import Workspace

_LEFT = "'numerate serve' ended while this was under way: start it again, it goes on where it ended"
_UNDER_WAY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]


async def run_deployments(workspace: Workspace, own_server: bool, at_once: int) -> None:
    """Serve every flow until SIGTERM comes; nobody else runs anything on a server of our own."""
    async with get_client() as client:
        if own_server:
            await end_left_runs(client)
        await _limit(client, turn_of(workspace), at_once, anew=own_server)
    runner = Runner(name=f"numerate {workspace.root.name}", pause_on_shutdown=False, limit=None)
    for deployment in DEPLOYMENTS:
        made = await flow_of(deployment).ato_deployment(
            deployment.name,
            parameters=parameters_of(deployment, workspace),
            description=deployment.description,
            tags=[TAG, *deployment.tags],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
        await runner.aadd_deployment(made)
    stop = asyncio.Event()
    running = asyncio.create_task(runner.start())
    while not runner.started and not running.done():
        await asyncio.sleep(0.05)
    # Only now, as the runner sets a handler of its own when it starts.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    url = configured_api().removesuffix("/api")
    note_served(workspace, Served(url, os.getpid()))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await runner.astop()
        await running
    finally:
        async with get_client() as client:
            if own_server:
                await end_left_runs(client)


async def end_left_runs(client: PrefectClient) -> list[UUID]:
    """Give every run of a deployment that says that it is under way, though nothing works on it, its end.

    Only where no runner is at work on this server.
    """
    wanted = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_UNDER_WAY)))
    ended = []
    for run in await client.read_flow_runs(flow_run_filter=wanted):
        if run.deployment_id or run.parent_task_run_id or _is_gone(run):
            await client.set_flow_run_state(run.id, _end_of(run), force=True)
            ended.append(run.id)
    return ended


def _end_of(run: FlowRun) -> State:
    cancelling = run.state is not None and run.state.is_cancelling()
    return Cancelled(message=_LEFT) if cancelling else Crashed(message=_LEFT)


def _is_gone(run: FlowRun) -> bool:
    """Whether the process of a run that was started from the command line is there no more."""
    for tag in run.tags:
        name, _, number = tag.partition(":")
        if name == "process" and number.isdigit():
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                return True
            except PermissionError:
                return False
    return False


async def _limit(client: PrefectClient, name: str, at_once: int, *, anew: bool) -> None:
    """Let so many runs work in the workspace at once; `anew` forgets whoever held a turn before."""
    if anew:
        with suppress(ObjectNotFound):
            await client.delete_global_concurrency_limit_by_name(name)
    await client.upsert_global_concurrency_limit_by_name(name, at_once)


def main() -> None:
    """The runner's process: takes what `flows.serving.serve` hands it."""
    end_quietly()
    wanted = json.loads(sys.argv[1])
    threading.Thread(target=end_with, args=(wanted["parent"],), daemon=True).start()
    asyncio.run(run_deployments(Workspace.open(wanted["workspace"]), wanted["own_server"], wanted["at_once"]))


if __name__ == "__main__":
    main()
