"""The commands of `numerate submit`: run a stage as a job on a Ray cluster, from any machine that can reach it."""

import json
import shlex
import sys
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from pydantic import BaseModel, Field

from flows.cli.command_factory import print_result, request_command, run_flow
from flows.common.parameters import EndToEndRequest, InWorkspace, OfCorpus, TrainRequest
from flows.common.progress import say
from flows.registry import COMMANDS
from storage.errors import UserError
from storage.workspace import Workspace

if TYPE_CHECKING:
    from flows.cluster.jobs import Job, Jobs

_INTERRUPTED = 130
# Exit code of a shell that cannot find a command.
_NOT_FOUND = 127

submit_app = App(
    name="submit",
    help="Submit a stage to a Ray cluster as a job and follow it. The same command again follows the same job.\n\n"
    "Example: `numerate submit train --workspace /shared/numerate --address http://head:8265`",
)


class _Submission(BaseModel):
    """Options of the submission."""

    address: str = Field(
        "", description="URL of the job server; empty means that of RAY_ADDRESS, or else http://127.0.0.1:8265."
    )
    python: str = Field(
        "python",
        description="Python interpreter on the cluster, with Numerate's dependencies: a path, or a name on its PATH.",
    )
    gpus: float = Field(
        0.0, description="GPUs of the job's own process, for evaluation; training workers have their own."
    )
    detach: bool = Field(False, description="Submit the job without following it.")
    stop: bool = Field(False, description="Stop the job that the same command submitted.")
    status: bool = Field(False, description="Print the status of the job only.")


@submit_app.command(show=False)
def execute(stage: str, request: str, /) -> None:
    """Run a stage inside a job, on the job's own cluster."""
    try:
        registered, values = COMMANDS[stage], json.loads(request)
        in_job = type(registered.form).model_validate({**values, "ray": "auto"})
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError("execute runs inside a job only, with a stage and its request as JSON: use 'submit'") from error
    print_result(run_flow(registered.entrypoint, in_job, False), as_json=True)


def _submit(stage: str, request: InWorkspace, as_json: bool, options: _Submission | None) -> None:
    """Start, follow, show or stop the job, and exit with the job's exit code if it has failed."""
    options = options or _Submission()
    _check(request, options)
    from flows.cluster.jobs import Jobs, entrypoint_of, job_name

    request = _with_resolved_names(request)
    values = request.model_dump(mode="json", exclude_defaults=True, exclude={"ray"})
    name, jobs = job_name(stage, {**values, "workspace": request.workspace}), Jobs(options.address)
    if options.status or options.stop:
        attempts = jobs.attempts(name)
        if not attempts:
            option = "--stop" if options.stop else "--status"
            raise UserError(f"{jobs.address} has no job for this stage and request: submit it without {option}")
        job = jobs.stop(attempts[-1].id) if options.stop and not attempts[-1].ended else attempts[-1]
        _show(job, as_json)
        return
    job, new = jobs.start(name, entrypoint_of(options.python, stage, values), options.gpus)
    say(f"job {job.id}: {'submitted' if new else 'exists, ' + job.status.lower()}, {jobs.address}")
    if not options.detach:
        job = _follow(jobs, job, as_json)
    _show(job, as_json)
    if job.exit_code == _NOT_FOUND:
        say(f"the cluster's head node has no interpreter {options.python!r}: set the right one with --python")
    if job.exit_code:
        sys.exit(job.exit_code)


def _with_resolved_names(request: InWorkspace) -> InWorkspace:
    """The same request with names and workspace in canonical form, so that equivalent requests are the same job."""
    changes = {"workspace": str(Workspace.open(request.workspace).root)}
    if isinstance(request, TrainRequest | EndToEndRequest):
        changes["name"] = request.run_name
    if isinstance(request, OfCorpus):
        changes["tokenizer"] = request.tokenizer_name
    return request.model_copy(update=changes)


def _check(request: InWorkspace, options: _Submission) -> None:
    if request.ray:
        raise UserError(f"ray is {request.ray!r}: omit it, because a job runs on the cluster that it is submitted to")
    if "://" not in request.workspace and not request.workspace.startswith("/"):
        raise UserError(
            f"workspace {request.workspace!r} is relative: give the absolute path on the cluster's nodes, "
            "such as --workspace /shared/numerate"
        )
    if options.detach + options.stop + options.status > 1:
        raise UserError("--detach, --stop and --status contradict each other: use one of them")


def _follow(jobs: "Jobs", job: "Job", as_json: bool) -> "Job":
    """Follow the job until it ends; an interruption stops only the following."""
    stream = sys.stderr if as_json else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    try:
        return jobs.follow(job.id, write, lambda line: say(f"warning: {line}"))
    except KeyboardInterrupt:
        again = shlex.join(["numerate", *sys.argv[1:]])
        say(f"\njob {job.id} continues: follow it again with '{again}', stop it with '{again} --stop'")
        sys.exit(_INTERRUPTED)


def _show(job: "Job", as_json: bool) -> None:
    if as_json:
        print_result(asdict(job), as_json)
    else:
        say(f"job {job.id}: {job.status.lower()}{f' ({job.message})' if job.status == 'FAILED' else ''}")


_GROUPS = {
    "corpus": App(name="corpus", help="Corpora of arithmetic problems."),
    "tokenizer": App(name="tokenizer", help="Tokenizers."),
}
for _group in _GROUPS.values():
    submit_app.command(_group)
for _stage, _registered in COMMANDS.items():
    _help = (
        f"Submit 'numerate {_stage}' to a Ray cluster, and follow the job.\n\n"
        f"Example: `numerate submit {_stage} --workspace /shared/numerate`"
    )
    request_command(
        _GROUPS.get(_stage.split()[0], submit_app),
        _stage.split()[-1],
        _registered.presets,
        _help,
        partial(_submit, _stage),
        Annotated[_Submission | None, Parameter(name="*", negative="")],
    )
