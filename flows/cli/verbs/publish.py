"""The commands of `numerate publish`, which push a corpus or a trained encoder to the Hugging Face hub."""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from flows.cli.command_factory import Json, Place
from flows.common.parameters import WORKSPACE
from storage.workspace import Workspace

if TYPE_CHECKING:
    from flows.hub.contents import Publication

publish_app = App(
    name="publish",
    help="Push to the Hugging Face hub: a corpus as a dataset, a trained encoder as a model.\n\n"
    "The token comes from HF_TOKEN, or from 'hf auth login'. An interrupted push continues with the same command.",
)

To = Annotated[str, Parameter(name="--to", help="Repository as ORG/REPO; it is created if it does not exist.")]
DryRun = Annotated[
    bool, Parameter(negative="", help="List the files with their sizes and show the card; send nothing.")
]
Licence = Annotated[str, Parameter(name="--license", help="Licence identifier of the hub, such as cc0-1.0.")]
Private = Annotated[bool, Parameter(negative="", help="Make a newly created repository private.")]


@publish_app.command(name="corpus")
def publish_corpus(
    name: str,
    /,
    *,
    to: To,
    dry_run: DryRun = False,
    licence: Licence = "unknown",
    private: Private = False,
    workspace: Place = WORKSPACE,
    as_json: Json = False,
) -> None:
    """Push a corpus as a dataset: its Parquet files unchanged, its manifest, and a card generated from the manifest.

    Each file is compared with the manifest's hash before it is sent. Manifest and card are sent last.

    Example: `numerate publish corpus notebook --to ada/sums --license cc0-1.0 --dry-run`

    Parameters
    ----------
    name
        Name of the corpus, or a path or file:// URI of its folder.
    """
    from flows.hub.client import checked_repository
    from flows.hub.contents import checked_licence, corpus_publication

    repository, licence = checked_repository(to), checked_licence(licence)
    publication = corpus_publication(Workspace.open(workspace), name, repository, licence)
    _pushed(publication, repository, dry_run, private, as_json)


@publish_app.command(name="model")
def publish_model(
    name: str,
    /,
    *,
    to: To,
    checkpoint: Literal["best", "last"] = "best",
    dry_run: DryRun = False,
    licence: Licence = "unknown",
    private: Private = False,
    workspace: Place = WORKSPACE,
    as_json: Json = False,
) -> None:
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
    from flows.hub.client import checked_repository
    from flows.hub.contents import checked_licence, model_publication

    repository, licence = checked_repository(to), checked_licence(licence)
    publication = model_publication(Workspace.open(workspace), name, repository, licence, checkpoint)
    _pushed(publication, repository, dry_run, private, as_json)


def _pushed(publication: "Publication", repository: str, dry_run: bool, private: bool, as_json: bool) -> None:
    """Push the publication, or list it with --dry-run. Results go to standard output, remarks to standard error."""
    from flows.hub.upload import publish

    found = {"what": publication.what, "repository": repository, "kind": publication.kind, "dry_run": dry_run}
    if dry_run:
        files = [{"path": file.path, "bytes": file.size} for file in publication.files]
        if as_json:
            totals = {"files": files, "bytes": publication.size}
            print(json.dumps({**found, **totals, "card": publication.card, "remarks": publication.remarks}, indent=2))
        else:
            print(_listing(publication, repository))
            _remark(publication)
        return
    sent = publish(publication, repository, private=private)
    if as_json:
        print(json.dumps({**found, **asdict(sent), "remarks": publication.remarks}, indent=2))
        return
    what = (
        f"{sent.files:,} files of {sent.bytes:,} bytes sent, {sent.found:,} already there"
        if sent.files
        else "up to date"
    )
    print(f"{publication.what}: {what}: {sent.url}")
    _remark(publication)


def _remark(publication: "Publication") -> None:
    for text in publication.remarks:
        print(f"remark: {text}", file=sys.stderr)


def _listing(publication: "Publication", repository: str) -> str:
    """All files with their sizes, the total size and the card."""
    sizes = [f"{file.size:,}" for file in publication.files]
    total = f"{publication.size:,}"
    widest = max(map(len, (*sizes, total)))
    lines = [f"{size:>{widest}}  {file.path}" for size, file in zip(sizes, publication.files, strict=True)]
    lines.append(f"{total:>{widest}}  bytes in {len(sizes):,} files for the {publication.kind} {repository}")
    return "\n".join([*lines, "", publication.card.rstrip()])
