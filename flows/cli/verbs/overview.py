"""The verbs that look rather than make: the workspace's status, the machine's, and completion for the shell."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Annotated, Literal, get_args

import docstring_parser
from cyclopts import App, Parameter

from flows.cli.command_factory import Json, Place
from flows.common.parameters import WORKSPACE
from storage.errors import UserError
from storage.workspace import Workspace

Shell = Literal["bash", "zsh", "fish"]


def status(*, workspace: Place = WORKSPACE, as_json: Json = False) -> None:
    """Show the workspace at a glance: what lies in it, what runs, what is broken and the command that mends it.

    It takes a few seconds at most: sizes of shards are compared, and none is opened. As this is an account and no
    test, the exit code is 0 even where something is broken; 'numerate corpus verify' is one that fails.

    Example: `numerate status`
    """
    from flows.diagnostics.status import status_of

    found = status_of(workspace)
    if as_json:
        print(found.json())
        return
    from flows.cli.status_text import status_text

    status_text(found)


def report(run: str, /, *, workspace: Place = WORKSPACE, as_json: Json = False) -> None:
    """Write the page of a run from what lies in the workspace: corpus, tokenizer, training, evaluations, comparisons.

    It is one file that needs no network. Evaluations write it too; nothing is computed anew.

    Example: `numerate report notebook`

    Parameters
    ----------
    run
        Name of the run, or of an encoder that comes with Numerate.
    """
    from flows.reports.run_page import write_run_page
    from model.runs.pretrained import own_or_shipped

    place = Workspace.open(workspace)
    page = write_run_page(place, own_or_shipped(place, run))
    print(json.dumps({"page": str(page)}) if as_json else f"report: {page}")


def doctor(
    *,
    deep: Annotated[bool, Parameter(negative="", help="Also start a Ray and a Prefect server, and end them.")] = False,
    workspace: Place = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Check this machine, and say what to do: Python, packages, disk, memory, cores, GPU, Ray, Prefect, ports.

    Each line says ok, warning or problem. The exit code is 1 where there is a problem, 0 with warnings alone.

    Example: `numerate doctor --deep`
    """
    from flows.diagnostics.doctor import findings
    from flows.diagnostics.doctor import report as tell

    tell(findings(Workspace.open(workspace), deep=deep), as_json=as_json)


def register(app: App) -> None:
    """Add the verbs to the command."""
    app.command(report)
    app.command(status)
    app.command(doctor)
    completion = App(name="completion", help="Completion of verbs and options for your shell.")
    app.command(completion)
    for shell in get_args(Shell):
        _print_verb(app, completion, shell)

    @completion.command
    def install(shell: Shell | None = None, /, *, as_json: Json = False) -> None:
        """Write the completion where your shell looks for it; a new shell then has it.

        A line that loads it is added to the shell's own start-up file, where it needs one.

        Example: `numerate completion install bash`

        Parameters
        ----------
        shell
            bash, zsh or fish; without one the shell that runs this.
        """
        from cyclopts.completion.detect import ShellDetectionError

        try:
            with _docstrings_parsed_once():
                place = app.install_completion(shell=shell)
        except ShellDetectionError as error:
            raise UserError("the shell that runs this is none of bash, zsh and fish: name the one you use") from error
        print(json.dumps({"file": str(place)}) if as_json else f"completion: {_in_home(place)}, open a new shell")


def _print_verb(app: App, completion: App, shell: Shell) -> None:
    """Add the verb that prints one shell's completion."""

    def print_script(*, as_json: Json = False) -> None:
        """The verb; its help is set below."""
        with _docstrings_parsed_once():
            script = app.generate_completion(shell=shell)
        print(json.dumps({"shell": shell, "script": script}) if as_json else script)

    loads = {"fish": "numerate completion fish | source"}.get(shell, f'eval "$(numerate completion {shell})"')
    print_script.__doc__ = f"Print the completion for {shell}.\n\nExample: `{loads}`"
    completion.command(print_script, name=shell)


@contextmanager
def _docstrings_parsed_once() -> Iterator[None]:
    """In the block, cyclopts parses each docstring once instead of once for every option: five times as fast."""
    parse = docstring_parser.parse_from_object
    docstring_parser.parse_from_object = cache(parse)
    try:
        yield
    finally:
        docstring_parser.parse_from_object = parse


def _in_home(place: Path) -> str:
    return str(place).replace(str(Path.home()), "~", 1)
