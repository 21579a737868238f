"""Contents of a published corpus or encoder: files, their order, and the card.

The card and the files that mark a complete corpus or run come last, so an incomplete copy can be recognised.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from flows.hub.cards import UNKNOWN_LICENCE
from storage.datasets.manifest import Dataset, ShardRecord, load
from storage.errors import UserError
from storage.places.disk import LocalLocation
from storage.workspace import Workspace

CARD = "README.md"

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")


@dataclass(frozen=True)
class PublishedFile:
    """A file of a publication; `content` returns its bytes, or its local path, after a check of the hash."""

    path: str
    size: int
    sha256: str
    content: Callable[[], bytes | Path]

    @classmethod
    def of(cls, path: str, data: bytes) -> "PublishedFile":
        """A file with its content in memory."""
        return cls(path, len(data), hashlib.sha256(data).hexdigest(), lambda: data)


@dataclass(frozen=True)
class Publication:
    """All files of a repository; `marker` is the path of the file in `last` that identifies the content."""

    kind: Literal["dataset", "model"]
    what: str
    first: tuple[PublishedFile, ...]
    last: tuple[PublishedFile, ...]
    marker: str
    card: str
    remarks: tuple[str, ...]

    @property
    def files(self) -> tuple[PublishedFile, ...]:
        """All files, in the order of the upload."""
        return (*self.first, *self.last)

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


def check_licence(licence: str) -> None:
    """Raise `UserError` unless `licence` can be a name of a licence at Hugging Face."""
    if not _LICENCE.fullmatch(licence):
        raise UserError(
            f"--license {licence!r} is not a licence name of the hub: use one such as cc0-1.0, mit or apache-2.0"
        )


def corpus_publication(workspace: Workspace, name: str, repository: str, licence: str = UNKNOWN_LICENCE) -> Publication:
    """A corpus as a dataset: its unchanged shards, followed by its manifest and card.

    Raises `UserError` if there is no such corpus, and `RunFailure` if a shard is missing or truncated.
    """
    from flows.hub.dataset_card import corpus_card

    folder = workspace.corpus_at(name)
    corpus = load(folder, f"corpus {name!r}")
    if corpus.manifest.kind != "corpus":
        raise UserError(f"{name!r} contains {corpus.manifest.kind}, not problems: use the folder of a corpus")
    for shard in corpus.shards:
        corpus.checked(shard)
    card = corpus_card(corpus, repository, licence)
    return Publication(
        kind="dataset",
        what=f"corpus {corpus.manifest.name!r}",
        first=tuple(
            PublishedFile(shard.path, shard.bytes, shard.sha256, partial(_verified, corpus, shard))
            for shard in corpus.shards
        ),
        last=(
            PublishedFile.of(corpus.manifest.list_name, corpus.list_location.read()),
            PublishedFile.of("manifest.json", (folder / "manifest.json").read()),
            PublishedFile.of(CARD, card.encode()),
        ),
        marker="manifest.json",
        card=card,
        remarks=_licence_remarks(licence),
    )


def model_publication(
    workspace: Workspace, name: str, repository: str, licence: str = UNKNOWN_LICENCE, checkpoint: str = "best"
) -> Publication:
    """A run as a model: the files that `numerate model export` writes, and the card.

    Raises `UserError` if there is no such run or it has no checkpoint.
    """
    from flows.common.parameters import request_text
    from flows.hub.model_card import model_card
    from model.network.parameter_counts import parameter_table
    from model.runs.pretrained import exported_files
    from model.runs.run_config import load_run
    from model.tokenizer import Tokenizer

    run = workspace.run(name)
    entry, files = exported_files(run, name, checkpoint)
    config = load_run(run)
    if text := request_text(config):
        files["request.yaml"] = text
    parameters = sum(parameter_table(config.training.encoder, Tokenizer(files["tokenizer.model"])).values())
    card = model_card(config, parameters, entry.step, files, repository, licence)
    weights, index = f"checkpoints/{entry.file}", "checkpoints/index.json"
    others = [PublishedFile.of(path, data) for path, data in sorted(files.items()) if path != weights]
    remarks = _licence_remarks(licence)
    if not any(path.endswith("report.json") for path in files):
        no_results = f"the card has no results: run 'numerate evaluate --name {name}' first to include them"
        remarks = (no_results, *remarks)
    return Publication(
        kind="model",
        what=f"run {name!r}",
        first=(PublishedFile.of(weights, files[weights]),),
        last=(*others, PublishedFile.of(CARD, card.encode())),
        marker=index,
        card=card,
        remarks=remarks,
    )


def _verified(corpus: Dataset, shard: ShardRecord) -> bytes | Path:
    """Local path or bytes of a shard; raises `RunFailure` if its hash differs from the manifest."""
    location = corpus.verified(shard)
    return location.path if isinstance(location, LocalLocation) else location.read()


def _licence_remarks(licence: str) -> tuple[str, ...]:
    return ("no licence is stated: state one with --license, such as cc0-1.0",) if licence == UNKNOWN_LICENCE else ()
