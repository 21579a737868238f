"""Finds orphaned flow runs, which no process works on, and marks them Crashed or Cancelled.

Tags show to whom a run belongs, because the server of a team also has the runs of other people.
"""

from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed

from flows.server.run_tags import is_gone

_LEFT = "'numerate serve' ended during this run: start the run again to resume it"
_UNDER_WAY = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
)
_PAGE = 200


async def end_left_runs(client: PrefectClient, mark: str, *, own_server: bool) -> list[UUID]:
    """End every run that is marked as running but has no process; requires that no runner is active.

    On a shared server, only runs with the tag `mark` and their subflows are checked.
    """
    tags = None if own_server else FlowRunFilterTags(all_=[mark])
    ended: list[UUID] = []
    for run in await _under_way(client, FlowRunFilter(state=_UNDER_WAY, tags=tags)):
        if run.id not in ended and await _is_left(client, run):
            ended += await _end(client, run)
    return ended


async def _under_way(client: PrefectClient, wanted: FlowRunFilter) -> list[FlowRun]:
    """All matching runs; the server returns them in pages."""
    runs: list[FlowRun] = []
    while page := await client.read_flow_runs(flow_run_filter=wanted, limit=_PAGE, offset=len(runs)):
        runs += page
    return runs


async def _is_left(client: PrefectClient, run: FlowRun) -> bool:
    """Whether a run has no process. Runs of a worker belong to the worker, and subflows follow their parent run."""
    if run.parent_task_run_id:
        task = await client.read_task_run(run.parent_task_run_id)
        outer = await client.read_flow_run(task.flow_run_id) if task.flow_run_id else None
        return outer is None or outer.state is None or outer.state.is_final()
    if run.deployment_id:
        return run.work_pool_name is None
    return is_gone(run.tags)


async def _end(client: PrefectClient, run: FlowRun) -> list[UUID]:
    """End a run, after its subflows."""
    ended = []
    within = FlowRunFilter(state=_UNDER_WAY, parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    for inner in await _under_way(client, within):
        ended += await _end(client, inner)
    await client.set_flow_run_state(run.id, _end_of(run), force=True)
    return [*ended, run.id]


def _end_of(run: FlowRun) -> State:
    cancelling = run.state is not None and run.state.is_cancelling()
    return Cancelled(message=_LEFT) if cancelling else Crashed(message=_LEFT)
