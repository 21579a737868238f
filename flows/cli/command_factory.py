"""Turns a flow into a command: the request's model gives the options, and Prefect is configured first."""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from cyclopts import App, Parameter
from pydantic import BaseModel

from flows.cli.options import AnyModel, options_of, resolve
from flows.common.parameters import InWorkspace
from flows.registry import COMMANDS, RegisteredFlow, flow_at
from storage.workspace import Workspace

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
Place = Annotated[
    str,
    Parameter(name="--workspace", help="Folder that holds corpora, tokenizers and runs, or s3://, gs:// or az:// URI."),
]
Cluster = Annotated[str, Parameter(name="--ray", help=InWorkspace.model_fields["ray"].description)]
Verbose = Annotated[bool, Parameter(name="--verbose", negative="", help="Show Prefect's own log.")]


def flow_verbs(parent: App, *commands: str) -> None:
    """Add the commands of these registered flows, named by their words; the last word is the command's own."""
    for command in commands:
        _flow_verb(parent, COMMANDS[command])


def _flow_verb(parent: App, registered: RegisteredFlow) -> None:
    def action(spec: str, options: Any, as_json: bool, verbose: bool) -> None:
        """Run the flow, and print its result with --json."""
        result = run_flow(registered.entrypoint, requested(registered.presets, spec, options), verbose)
        if as_json:
            print(json.dumps(result, indent=2))

    text = f"{registered.description}\n\nExample: `{registered.example}`"
    spec_verb(parent, registered.command.split()[-1], registered.presets, text, action)


def spec_verb(
    parent: App, verb: str, presets: Mapping[str, BaseModel], text: str, action: Callable[[str, Any, bool, bool], None]
) -> None:
    """Add a command that takes a preset or a spec file, and each of its fields as an option."""

    def command(spec: str = "notebook", /, *, options: Any = None, as_json: Any = False, verbose: Any = False) -> None:
        """The command; its help text is set below."""
        action(spec, options, as_json, verbose)

    command.__doc__ = (
        f"{text}\n\nParameters\n----------\nspec\n    A preset ({', '.join(presets)}) "
        "or a YAML or JSON file with these parameters; options change single ones."
    )
    model = type(next(iter(presets.values())))
    command.__annotations__.update(
        options=Annotated[options_of(model) | None, Parameter(name="*")], as_json=Json, verbose=Verbose
    )
    parent.command(command, name=verb)


def requested(presets: Mapping[str, AnyModel], spec: str, options: Any) -> AnyModel:
    """The request from a preset or file and the options; raises `UserError` if it is invalid."""
    return resolve(type(next(iter(presets.values()))), spec, presets, options)


def run_flow(entrypoint: str, request: InWorkspace, verbose: bool) -> Any:
    """Run the flow with this dotted name in the request's workspace, recorded by Prefect; returns the flow's result."""
    from flows.common.engines import connect_prefect

    workspace = (Workspace.create if request.writes else Workspace.open)(request.workspace)
    if request.ray:
        from flows.cluster.connect import check_address

        check_address(request.ray)
    connect_prefect(workspace, verbose=verbose)
    return flow_at(entrypoint)(request)
