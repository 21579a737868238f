"""The commands of `numerate corpus`: generate, describe, leakage, verify and migrate."""

import json
from dataclasses import asdict
from typing import Annotated, Any

from cyclopts import App, Parameter
from pydantic import BaseModel

from flows.cli.command_factory import Cluster, Json, Verbose, WorkspaceUri, flow_commands, request_command, run_flow
from flows.common.parameters import WORKSPACE, GenerateRequest, LeakageRequest, MigrateRequest, VerifyRequest
from flows.common.presets import CORPUS_PRESETS
from flows.common.progress import counted
from pipelines.spec.corpus import CorpusSpec

corpus_app = App(name="corpus", help="Corpora of arithmetic problems.")

flow_commands(corpus_app, "corpus generate")


def _flag(model: type[BaseModel], name: str) -> Parameter:
    """A flag with the help text of the model's field."""
    return Parameter(negative="", help=model.model_fields[name].description)


def _fault_lines(faults: list[dict[str, str]]) -> str:
    return "\n".join(f"{fault['path']}: {fault['text']}" for fault in faults)


def _describe(request: GenerateRequest, as_json: bool, verbose: bool) -> None:
    from flows.cli.description import corpus_json, corpus_text

    corpus = request.spec(CorpusSpec)
    print(json.dumps(corpus_json(corpus), indent=2) if as_json else corpus_text(corpus))


request_command(
    corpus_app,
    "describe",
    CORPUS_PRESETS,
    "Describe a corpus without writing it: rows, columns, bytes, examples.\n\n"
    "Example: `numerate corpus describe billion`",
    _describe,
)


@corpus_app.command
def leakage(
    train: str,
    held_out: str,
    /,
    *,
    workspace: WorkspaceUri = WORKSPACE,
    ray: Cluster = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Check that no problem in one corpus's train split appears, in any order, in another's validation or test split.

    It compares the problems themselves. If problems leak, it shows the first ten and fails.

    Example: `numerate corpus leakage arithmetic addition`

    Parameters
    ----------
    train
        Corpus whose train split is checked: its name, or its path or URI, with a slash.
    held_out
        Corpus whose validation and test splits are held out; may be the same.
    """
    from pipelines.split.leakage import LeakFound
    from storage.datasets.corpus import Corpus

    for name in (train, held_out):
        Corpus.open(name, workspace)
    try:
        result = run_flow(
            "flows.corpus_leakage.corpus_leakage",
            LeakageRequest(train=train, held_out=held_out, workspace=workspace, ray=ray),
            verbose,
        )
    except LeakFound as leaks:
        _print_leakage(leaks.result, as_json)
        raise
    _print_leakage(result, as_json)


def _print_leakage(result: dict[str, Any], as_json: bool) -> None:
    from flows.corpus_leakage import leakage_text

    print(json.dumps(result, indent=2) if as_json else leakage_text(result))


@corpus_app.command(name="verify")
def verify(
    corpus: str = "notebook",
    /,
    *,
    deep: Annotated[bool, _flag(VerifyRequest, "deep")] = False,
    repair: Annotated[bool, _flag(VerifyRequest, "repair")] = False,
    workspace: WorkspaceUri = WORKSPACE,
    ray: Cluster = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare a corpus with its manifest, byte by byte, and repair it if requested.

    Prints one line per fault. The exit code is 1 if faults remain.

    Example: `numerate corpus verify notebook --deep`

    Parameters
    ----------
    corpus
        Name of the corpus, or a path or URI of its folder.
    """
    from pipelines.generation.verify import CorpusDamaged, examine

    request = VerifyRequest(corpus=corpus, deep=deep, repair=repair, workspace=workspace, ray=ray)
    examine(request.folder())
    try:
        result = run_flow("flows.verify_corpus.verify_corpus", request, verbose)
    except CorpusDamaged as failure:
        faults = [asdict(fault) for fault in failure.faults]
        print(json.dumps({"faults": faults}, indent=2) if as_json else _fault_lines(faults))
        raise
    if as_json:
        print(json.dumps(result, indent=2))
        return
    if result["mended"]:
        print(_fault_lines(result["mended"]))
    shards, rows = counted(result["shards"], "shard"), counted(result["rows"], "row")
    print(
        f"corpus {result['corpus']}: {shards}, {rows}, {result['bytes']:,} bytes: "
        f"{'repaired' if result['mended'] else 'no faults'}{', recomputed' if result['recomputed'] else ''}"
    )


@corpus_app.command(name="migrate")
def migrate(
    corpus: str = "notebook",
    /,
    *,
    workspace: WorkspaceUri = WORKSPACE,
    ray: Cluster = "",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Migrate a corpus of an older schema version to the current one, with the same ids and problems.

    Reserved problems are now always in the test split, so a few rows may change their split. Tokens of the old version
    no longer match and are removed.

    Example: `numerate corpus migrate notebook`

    Parameters
    ----------
    corpus
        Name of the corpus, or a path or URI of its folder.
    """
    from pipelines.generation.migrate import old_spec

    request = MigrateRequest(corpus=corpus, workspace=workspace, ray=ray)
    old_spec(request.folder())
    result = run_flow("flows.verify_corpus.migrate_corpus", request, verbose)
    if as_json:
        print(json.dumps(result, indent=2))
