"""Turns a flow into a command: the request's model gives the options, and Prefect is configured first."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

from cyclopts import App, Parameter

from flows.cli.options import AnyModel, options_of, resolve
from flows.common.parameters import WORKSPACE, InWorkspace
from flows.registry import COMMANDS, RegisteredFlow, flow_at
from storage.workspace import Workspace

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
WorkspaceUri = Annotated[
    str,
    Parameter(name="--workspace", help="Folder that holds corpora, tokenizers and runs, or s3://, gs:// or az:// URI."),
]
Verbose = Annotated[bool, Parameter(name="--verbose", negative="", help="Show Prefect's own log.")]


@Parameter(name="*")
@dataclass(frozen=True)
class FlowOptions:
    """Options of every command that runs a flow."""

    workspace: WorkspaceUri = WORKSPACE
    ray: Annotated[str, Parameter(name="--ray", help=InWorkspace.model_fields["ray"].description)] = ""
    as_json: Json = False
    verbose: Verbose = False

    @property
    def workspace_and_ray(self) -> dict[str, str]:
        """The fields of a request."""
        return {"workspace": self.workspace, "ray": self.ray}


DEFAULTS = FlowOptions()


def flow_commands(parent: App, *commands: str) -> None:
    """Add the commands of these registered flows, named by their words; the last word is the command's own."""
    for command in commands:
        registered = COMMANDS[command]
        text = f"{registered.description}\n\nExample: `{registered.example}`"
        request_command(parent, command.split()[-1], registered.presets, text, partial(_run_and_print, registered))


def request_command(
    parent: App,
    name: str,
    presets: Mapping[str, AnyModel],
    text: str,
    action: Callable[[AnyModel, bool, Any], None],
    extra: Any = Verbose,
) -> None:
    """Add a command that takes a preset or a spec file, and each of its fields as an option.

    `action` gets the request, whether JSON is requested, and the value of the option with the annotation `extra`.
    """
    model = type(next(iter(presets.values())))

    def command(spec: str = "notebook", /, *, options: Any = None, as_json: Any = False, extra: Any = False) -> None:
        action(resolve(model, spec, presets, options), as_json, extra)

    command.__doc__ = (
        f"{text}\n\nParameters\n----------\nspec\n    A preset ({', '.join(presets)}) "
        "or a YAML or JSON file with these parameters; options change single ones."
    )
    command.__annotations__.update(
        options=Annotated[options_of(model) | None, Parameter(name="*")], as_json=Json, extra=extra
    )
    parent.command(command, name=name)


def _run_and_print(registered: RegisteredFlow, request: InWorkspace, as_json: bool, verbose: Any) -> None:
    print_result(run_flow(registered.entrypoint, request, bool(verbose)), as_json)


def run_flow(entrypoint: str, request: InWorkspace, verbose: bool) -> Any:
    """Run the flow with this dotted name in the request's workspace, recorded by Prefect; returns the flow's result."""
    from flows.common.engines import connect_prefect

    workspace = (Workspace.create if request.writes else Workspace.open)(request.workspace)
    if request.ray:
        from flows.cluster.connect import check_address

        check_address(request.ray)
    connect_prefect(workspace, verbose=verbose)
    return flow_at(entrypoint)(request)


def print_result(result: Any, as_json: bool, text: str = "") -> None:
    """Print the result as JSON, or else its text if there is any."""
    if as_json:
        print(json.dumps(result, indent=2))
    elif text:
        print(text)
