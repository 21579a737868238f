"""Commands that report: status of the workspace, page of a run, check of the machine, and shell completion."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

import docstring_parser
from cyclopts import App, Parameter

from flows.cli.command_factory import Json, WorkspaceUri, print_result
from flows.common.parameters import WORKSPACE
from storage.errors import UserError
from storage.workspace import Workspace

Shell = Literal["bash", "zsh", "fish"]


def status(*, workspace: WorkspaceUri = WORKSPACE, as_json: Json = False) -> None:
    """Show the workspace: its contents, running work, and what is broken with the command that repairs it.

    Takes a few seconds at most: it compares the sizes of shards and opens none. It is a report and not a test, so the
    exit code is 0 even if something is broken; 'numerate corpus verify' fails for a damaged corpus.

    Example: `numerate status`
    """
    from flows.cli.status_text import print_status
    from flows.diagnostics.status import status_of

    state = status_of(workspace)
    if as_json:
        print_result(asdict(state), as_json)
    else:
        print_status(state)


def report(run: str, /, *, workspace: WorkspaceUri = WORKSPACE, as_json: Json = False) -> None:
    """Write the page of a run from existing results: corpus, tokenizer, training, evaluations, comparisons.

    The page is one file that needs no network. Evaluations also write it. Nothing is recomputed.

    Example: `numerate report notebook`

    Parameters
    ----------
    run
        Name of the run, or of an encoder that comes with Numerate.
    """
    from flows.reports.run_page import write_run_page
    from model.runs.pretrained import resolve_run

    opened = Workspace.open(workspace)
    page = write_run_page(opened, resolve_run(opened, run))
    print_result({"page": str(page)}, as_json, f"report: {page}")


def doctor(
    *,
    deep: Annotated[bool, Parameter(negative="", help="Also start and stop a Ray and a Prefect server.")] = False,
    workspace: WorkspaceUri = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Check this machine and suggest remedies: Python, packages, disk, memory, cores, GPU, Ray, Prefect, ports.

    Each line says ok, warning or problem. The exit code is 1 if there is a problem, and 0 if there are only warnings.

    Example: `numerate doctor --deep`
    """
    from flows.diagnostics.doctor import findings, print_findings

    print_findings(findings(Workspace.open(workspace), deep=deep), as_json=as_json)


def add_completion(app: App) -> None:
    """Add the commands of `numerate completion`."""
    completion = App(name="completion", help="Shell completion of commands and options.")
    app.command(completion)
    for shell in get_args(Shell):
        _add_print_command(app, completion, shell)

    @completion.command
    def install(shell: Shell | None = None, /, *, as_json: Json = False) -> None:
        """Install the completion for your shell; it works in new shells.

        If the shell needs it, a line that loads the completion is added to its start-up file.

        Example: `numerate completion install bash`

        Parameters
        ----------
        shell
            bash, zsh or fish; without it, the shell that runs this command.
        """
        from cyclopts.completion.detect import ShellDetectionError

        try:
            with _docstrings_parsed_once():
                file = app.install_completion(shell=shell)
        except ShellDetectionError as error:
            raise UserError("the current shell is not bash, zsh or fish: name your shell") from error
        short = str(file).replace(str(Path.home()), "~", 1)
        print_result({"file": str(file)}, as_json, f"completion: {short}, open a new shell")


def _add_print_command(app: App, completion: App, shell: Shell) -> None:
    """Add the command that prints one shell's completion."""

    def print_script(*, as_json: Json = False) -> None:
        with _docstrings_parsed_once():
            script = app.generate_completion(shell=shell)
        print_result({"shell": shell, "script": script}, as_json, script)

    loads = {"fish": "numerate completion fish | source"}.get(shell, f'eval "$(numerate completion {shell})"')
    print_script.__doc__ = f"Print the completion for {shell}.\n\nExample: `{loads}`"
    completion.command(print_script, name=shell)


@contextmanager
def _docstrings_parsed_once() -> Iterator[None]:
    """Let cyclopts parse each docstring once instead of once per option, which is five times as fast."""
    parse = docstring_parser.parse_from_object
    docstring_parser.parse_from_object = cache(parse)
    try:
        yield
    finally:
        docstring_parser.parse_from_object = parse
