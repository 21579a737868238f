"""The decorator for all flows: tags, retries of transient failures, and ending together with `numerate serve`.

Each flow runs as one Prefect task, because every further task costs 0.1 s. Ray does the parallel work.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, get_type_hints

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.runtime import flow_run
from pydantic import ValidationError

from flows.common.engines import end_quietly, served
from flows.common.parameters import InWorkspace
from flows.common.progress import say
from flows.server.app import end_with
from flows.server.run_tags import process_tag, workspace_tag
from storage.errors import RunFailure, TransientFailure, UserError
from storage.parameters import one_line
from storage.workspace import Workspace

_RETRIES, _RETRY_SECONDS = 2, [5.0, 30.0]

Request = TypeVar("Request", bound=InWorkspace)
Result = dict[str, Any]


def flow(*, name: str, flow_run_name: str) -> Callable[[Callable[[Request], Result]], prefect.Flow[[Request], Result]]:
    """Prefect's `@flow` for a function of a request; `flow_run_name` may use its fields, as in '{request.name}'."""

    def decorate(work: Callable[[Request], Result]) -> prefect.Flow[[Request], Result]:
        kind: type[Request] = get_type_hints(work)["request"]
        with_retries = prefect.task(
            name=name,
            task_run_name=flow_run_name,
            retries=_RETRIES,
            retry_delay_seconds=_RETRY_SECONDS,
            retry_condition_fn=_is_transient,
            cache_policy=NO_CACHE,
            persist_result=False,
        )(work)

        def run_name() -> str:
            """Name of the run; the name of the flow if the request is invalid."""
            try:
                return flow_run_name.format(request=_checked(kind, flow_run.parameters["request"]))
            except (UserError, KeyError):
                return name

        # Prefect's validation error would have many lines.
        @prefect.flow(name=name, flow_run_name=run_name, persist_result=False, validate_parameters=False)
        @wraps(work)
        def run(request: Request) -> Result:
            """Run the work; its tags show other processes that it is running."""
            with _one_line_errors():
                request = _checked(kind, request)
                _tag_and_watch(Workspace.open(request.workspace))
                try:
                    return with_retries(request)
                except TransientFailure as failure:
                    # The task has no retries left, so a surrounding flow must not retry it either.
                    raise RunFailure(str(failure)) from failure

        return run

    return decorate


def _checked(kind: type[Request], request: Any) -> Request:
    """Validate the values of a form; raises `UserError` with a one-line message if they are invalid."""
    try:
        return kind.model_validate(request)
    except ValidationError as error:
        raise UserError(one_line(error)) from error


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """In runs of deployments, print a one-line error for the runner or worker; the API keeps the traceback."""
    context = FlowRunContext.get()
    if not (context and context.flow_run and context.flow_run.deployment_id):
        yield
        return
    end_quietly()
    try:
        yield
    except Exception as failure:
        text = str(failure) if isinstance(failure, UserError | RunFailure) else f"{type(failure).__name__}: {failure}"
        say(f"{flow_run.name} failed: {text.splitlines()[0]}")
        raise


def _tag_and_watch(workspace: Workspace) -> None:
    """Tag the flow run with its workspace and process, and end it when the runner that started it ends."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    run = context.flow_run
    if workspace_tag(workspace) not in run.tags:
        with get_client(sync_client=True) as client:
            client.update_flow_run(run.id, tags=[*run.tags, workspace_tag(workspace), process_tag()])
    runner = served(workspace).runner
    if runner and runner == os.getppid() and run.parent_task_run_id is None:
        end_with(runner)


def _is_transient(task: Any, run: Any, state: Any) -> bool:
    """Whether a retry may help: true if a worker was lost, false for a mistake in the request."""
    try:
        state.result()
    except TransientFailure as failure:
        say(f"{failure}; retrying")
        return True
    except BaseException:
        return False
    return False
