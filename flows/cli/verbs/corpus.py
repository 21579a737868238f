"""The commands of `numerate corpus`: generate, describe, leakage, verify and migrate."""

from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter

from flows.cli.command_factory import DEFAULTS, FlowOptions, flow_commands, print_result, request_command, run_flow
from flows.common.parameters import GenerateRequest, LeakageRequest, MigrateRequest, VerifyRequest
from flows.common.presets import CORPUS_PRESETS
from flows.common.progress import counted
from pipelines.generation.describe import describe
from pipelines.spec.corpus import CorpusSpec

corpus_app = App(name="corpus", help="Corpora of arithmetic problems.")

flow_commands(corpus_app, "corpus generate")


def _verify_flag(name: str) -> Parameter:
    """A flag with the help text of the request's field."""
    return Parameter(negative="", help=VerifyRequest.model_fields[name].description)


def _describe(request: GenerateRequest, as_json: bool, verbose: bool) -> None:
    from flows.cli.description import corpus_json, corpus_text

    description = describe(request.spec(CorpusSpec))
    print_result(corpus_json(description), as_json, corpus_text(description))


request_command(
    corpus_app,
    "describe",
    CORPUS_PRESETS,
    "Describe a corpus without writing it: rows, columns, bytes, examples.\n\n"
    "Example: `numerate corpus describe billion`",
    _describe,
)


@corpus_app.command
def leakage(train: str, held_out: str, /, *, options: FlowOptions = DEFAULTS) -> None:
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
        Corpus.open(name, options.workspace)
    request = LeakageRequest(train=train, held_out=held_out, **options.workspace_and_ray)
    leaks: LeakFound | None = None
    try:
        result = run_flow("flows.corpus_leakage.corpus_leakage", request, options.verbose)
    except LeakFound as failure:
        leaks, result = failure, failure.result
    from flows.corpus_leakage import leakage_text

    print_result(result, options.as_json, leakage_text(result))
    if leaks:
        raise leaks


@corpus_app.command
def verify(
    corpus: str = "notebook",
    /,
    *,
    deep: Annotated[bool, _verify_flag("deep")] = False,
    repair: Annotated[bool, _verify_flag("repair")] = False,
    options: FlowOptions = DEFAULTS,
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

    request = VerifyRequest(corpus=corpus, deep=deep, repair=repair, **options.workspace_and_ray)
    examine(request.folder())
    try:
        result = run_flow("flows.verify_corpus.verify_corpus", request, options.verbose)
    except CorpusDamaged as failure:
        faults = [asdict(fault) for fault in failure.faults]
        print_result({"faults": faults}, options.as_json, "\n".join(_fault_lines(faults)))
        raise
    repaired, shards, rows = result["repaired"], counted(result["shards"], "shard"), counted(result["rows"], "row")
    summary = (
        f"corpus {result['corpus']}: {shards}, {rows}, {result['bytes']:,} bytes: "
        f"{'repaired' if repaired else 'no faults'}{', recomputed' if result['recomputed'] else ''}"
    )
    print_result(result, options.as_json, "\n".join([*_fault_lines(repaired), summary]))


def _fault_lines(faults: list[dict[str, str]]) -> list[str]:
    return [f"{fault['path']}: {fault['text']}" for fault in faults]


@corpus_app.command
def migrate(corpus: str = "notebook", /, *, options: FlowOptions = DEFAULTS) -> None:
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

    request = MigrateRequest(corpus=corpus, **options.workspace_and_ray)
    old_spec(request.folder())
    print_result(run_flow("flows.verify_corpus.migrate_corpus", request, options.verbose), options.as_json)
