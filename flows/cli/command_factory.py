"""Turns a flow into a command: the request's model gives the options, and Prefect is configured first."""

import json
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Annotated, Any

from cyclopts import App, Parameter
from pydantic import BaseModel

from flows.cli.options import AnyModel, options_of, resolve
from flows.common.parameters import InWorkspace
from storage.workspace import Workspace

Json = Annotated[bool, Parameter(name="--json", negative="", help="Print the result as JSON.")]
Place = Annotated[
    str,
    Parameter(name="--workspace", help="Folder that holds corpora, tokenizers and runs, or s3://, gs:// or az:// URI."),
]
Cluster = Annotated[str, Parameter(name="--ray", help=InWorkspace.model_fields["ray"].description)]
Verbose = Annotated[bool, Parameter(name="--verbose", negative="", help="Show Prefect's own log.")]


def flow_verb(parent: App, verb: str, flow: str, presets: Mapping[str, InWorkspace], text: str) -> None:
    """Add a command that runs the flow `module:function` on a request of the presets' type."""

    def action(spec: str, options: Any, as_json: bool, verbose: bool) -> None:
        """Run the flow, and print its result with --json."""
        result = run_flow(flow, requested(presets, spec, options), verbose)
        if as_json:
            print(json.dumps(result, indent=2))

    spec_verb(parent, verb, presets, text, action)


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


def run_flow(flow: str, request: InWorkspace, verbose: bool) -> Any:
    """Run the flow `module:function` in the request's workspace, recorded by Prefect; returns the flow's result."""
    from flows.common.engines import connect_prefect

    workspace = (Workspace.create if request.writes else Workspace.open)(request.workspace)
    if request.ray:
        from flows.cluster.connect import check_address

        check_address(request.ray)
    connect_prefect(workspace, verbose=verbose)
    module, function = flow.split(":")
    return getattr(import_module(f"flows.{module}"), function)(request)
