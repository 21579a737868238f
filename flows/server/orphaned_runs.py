"""Finds orphaned flow runs, which no process works on, and marks them Crashed or Cancelled.

Tags show to whom a run belongs, because the server of a team also has the runs of other people.
"""

from typing import Any
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

from flows.server.run_tags import process_has_ended

_REASON = "'numerate serve' ended during this run: start the run again to resume it"
_ACTIVE = FlowRunFilterState(
    type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
)
_PAGE = 200


async def end_orphaned_runs(client: PrefectClient, tag: str, *, own_server: bool) -> list[UUID]:
    """End every run that is marked as running but has no process; requires that no runner is active.

    On a shared server, only runs with the tag and their subflows are checked.
    """
    tags = None if own_server else FlowRunFilterTags(all_=[tag])
    ended: list[UUID] = []
    for run in await _all_runs(client, FlowRunFilter(state=_ACTIVE, tags=tags)):
        if run.id not in ended and await _is_orphaned(client, run):
            ended += await _end(client, run)
    return ended


async def _all_runs(client: PrefectClient, matching: FlowRunFilter) -> list[FlowRun]:
    """All matching runs; the server returns them in pages."""
    runs: list[FlowRun] = []
    while page := await client.read_flow_runs(flow_run_filter=matching, limit=_PAGE, offset=len(runs)):
        runs += page
    return runs


async def _is_orphaned(client: PrefectClient, run: FlowRun) -> bool:
    """Whether a run has no process. Runs of a worker belong to the worker, and subflows follow their parent run."""
    if run.parent_task_run_id:
        task = await client.read_task_run(run.parent_task_run_id)
        outer = await client.read_flow_run(task.flow_run_id) if task.flow_run_id else None
        return outer is None or outer.state is None or outer.state.is_final()
    if run.deployment_id:
        return run.work_pool_name is None
    return process_has_ended(run.tags)


async def _end(client: PrefectClient, run: FlowRun) -> list[UUID]:
    """End a run, after its subflows."""
    ended = []
    subflows = FlowRunFilter(state=_ACTIVE, parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[run.id]))
    for subflow in await _all_runs(client, subflows):
        ended += await _end(client, subflow)
    is_cancelling = run.state is not None and run.state.is_cancelling()
    final_state: State[Any] = Cancelled(message=_REASON) if is_cancelling else Crashed(message=_REASON)
    await client.set_flow_run_state(run.id, final_state, force=True)
    return [*ended, run.id]
