"""The commands of `numerate publish`, which push a corpus or a trained encoder to the Hugging Face hub."""

import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter

from flows.cli.command_factory import Json, WorkspaceUri, print_result
from flows.common.parameters import WORKSPACE
from flows.common.progress import counted
from storage.workspace import Workspace

if TYPE_CHECKING:
    from flows.hub.contents import Publication

publish_app = App(
    name="publish",
    help="Push to the Hugging Face hub: a corpus as a dataset, a trained encoder as a model.\n\n"
    "The token comes from HF_TOKEN, or from 'hf auth login'. An interrupted push continues with the same command.",
)


@Parameter(name="*", negative="")
@dataclass(frozen=True)
class Target:
    """Where to push, and what to do there."""

    to: Annotated[str, Parameter(help="Repository as ORG/REPO; it is created if it does not exist.")]
    dry_run: Annotated[bool, Parameter(help="List the files with their sizes and show the card; send nothing.")] = False
    licence: Annotated[str, Parameter(name="--license", help="Licence identifier of the hub, such as cc0-1.0.")] = (
        "unknown"
    )
    private: Annotated[bool, Parameter(help="Make a newly created repository private.")] = False
    workspace: WorkspaceUri = WORKSPACE
    as_json: Json = False

    def check(self) -> None:
        """Raise `UserError` for an invalid repository or licence."""
        from flows.hub.client import check_repository
        from flows.hub.contents import check_licence

        check_repository(self.to)
        check_licence(self.licence)


@publish_app.command(name="corpus")
def publish_corpus(name: str, /, *, target: Target) -> None:
    """Push a corpus as a dataset: its Parquet files unchanged, its manifest, and a card generated from the manifest.

    Each file is compared with the manifest's hash before it is sent. Manifest and card are sent last.

    Example: `numerate publish corpus notebook --to ada/sums --license cc0-1.0 --dry-run`

    Parameters
    ----------
    name
        Name of the corpus, or a path or file:// URI of its folder.
    """
    from flows.hub.contents import corpus_publication

    target.check()
    _push(corpus_publication(Workspace.open(target.workspace), name, target.to, target.licence), target)


@publish_app.command(name="model")
def publish_model(name: str, /, *, checkpoint: Literal["best", "last"] = "best", target: Target) -> None:
    """Push a trained encoder as a model: weights, configuration, tokenizer, and a card with the measured results.

    A downloaded copy can solve problems: `numerate solve --run ./FOLDER "12+34"`.

    Example: `numerate publish model notebook --to ada/sums-encoder --license mit`

    Parameters
    ----------
    name
        Name of the run.
    checkpoint
        Checkpoint to publish.
    """
    from flows.hub.contents import model_publication

    target.check()
    _push(model_publication(Workspace.open(target.workspace), name, target.to, target.licence, checkpoint), target)


def _push(publication: "Publication", target: Target) -> None:
    """Push the publication, or list it with --dry-run. Results go to standard output, remarks to standard error."""
    from flows.hub.upload import publish

    result: dict[str, Any] = {
        "what": publication.what,
        "repository": target.to,
        "kind": publication.kind,
        "dry_run": target.dry_run,
    }
    if target.dry_run:
        result["files"] = [{"path": file.path, "bytes": file.size} for file in publication.files]
        result |= {"bytes": publication.size, "card": publication.card}
        text = _listing(publication, target.to)
    else:
        sent = publish(publication, target.to, private=target.private)
        result |= asdict(sent)
        counts = f"{counted(sent.files, 'file')} of {sent.bytes:,} bytes sent, {sent.existing:,} already there"
        text = f"{publication.what}: {counts if sent.files else 'up to date'}: {sent.url}"
    print_result({**result, "remarks": publication.remarks}, target.as_json, text)
    if not target.as_json:
        for remark in publication.remarks:
            print(f"remark: {remark}", file=sys.stderr)


def _listing(publication: "Publication", repository: str) -> str:
    """All files with their sizes, the total size and the card."""
    sizes = [f"{file.size:,}" for file in publication.files]
    total = f"{publication.size:,}"
    widest = max(map(len, (*sizes, total)))
    lines = [f"{size:>{widest}}  {file.path}" for size, file in zip(sizes, publication.files, strict=True)]
    lines.append(f"{total:>{widest}}  bytes in {counted(len(sizes), 'file')} for the {publication.kind} {repository}")
    return "\n".join([*lines, "", publication.card.rstrip()])
