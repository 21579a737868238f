"""Uploads a publication to the Hugging Face hub; files that the hub already has, by their hash, are not sent again.

Many files are sent in several commits, and finished commits survive a later failure. The last commit contains the
card and the file that marks a complete copy. Until then the card says that the repository is unfinished.
"""

import hashlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flows.common.progress import human, say
from flows.hub.cards import unfinished_card
from flows.hub.client import explained, token_of_user
from flows.hub.contents import CARD, Publication, PublishedFile
from storage.errors import RunFailure, UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

# A failed commit is repeated. The limits keep the number of requests low and the loss small. Files from an object store
# also have to fit in memory.
_COMMIT_FILES, _COMMIT_BYTES = 100, 2 << 30
# Files that the hub itself adds to a new repository.
_HUBS_OWN = (".gitattributes", CARD)


@dataclass(frozen=True)
class Sent:
    """Result of an upload."""

    url: str
    files: int
    bytes: int
    existing: int
    """Number of files that the hub already had."""


def publish(
    publication: Publication, repository: str, *, private: bool = False, commit_files: int = _COMMIT_FILES
) -> Sent:
    """Upload the publication and return a summary; after a failure, the same call continues.

    Raises `UserError` for a missing or rejected token and for a repository with other content, `RunFailure` if the hub
    fails or a file is damaged.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.utils import disable_progress_bars

    # Use Git LFS, whose failures are tested. The Xet protocol cannot be tested without the hub.
    constants.HF_HUB_DISABLE_XET = True

    if not sys.stderr.isatty():
        disable_progress_bars()
    api, token = HfApi(), token_of_user()
    try:
        return _Push(api, publication, repository, private, commit_files).run()
    except (UserError, RunFailure):
        raise
    except Exception as error:
        # No cause: a traceback of the client may show the header with the token.
        raise explained(error, api.endpoint, repository, token) from None


@dataclass(frozen=True)
class _Push:
    """One attempt to fill a repository."""

    api: "HfApi"
    publication: Publication
    repository: str
    private: bool
    commit_files: int

    def run(self) -> Sent:
        """Send the missing files."""
        publication = self.publication
        self._check_card()
        url = self._url_of_repository()
        existing = self._existing_files()
        self._check_content(existing)
        first = [file for file in publication.first if not _same(existing.get(file.path), file)]
        last = [file for file in publication.last if not _same(existing.get(file.path), file)]
        *earlier, final = list(_batches(first, self.commit_files)) or [[]]
        done = 0
        notice = PublishedFile.of(CARD, unfinished_card(publication.what).encode())
        for number, batch in enumerate(earlier):
            replaces_card = not number and publication.marker not in existing
            self._commit([*batch, notice] if replaces_card else batch, f"Add {len(batch)} files, upload not finished")
            done += len(batch)
            say(f"sent {done:,} of {len(first):,} files, {human(sum(file.size for file in first[:done]))}B")
        if first or last:
            # Always send the card: the notice may have replaced it.
            other_files = [file for file in last if file.path != CARD]
            card = next(file for file in publication.last if file.path == CARD)
            self._commit([*final, *other_files, card], f"Add {publication.what}")
        sent = [*first, *last]
        return Sent(url, len(sent), sum(file.size for file in sent), len(publication.files) - len(sent))

    def _check_card(self) -> None:
        """Raise `UserError` if the hub would reject the card, which is sent last."""
        from huggingface_hub import RepoCard

        try:
            RepoCard(self.publication.card).validate(repo_type=self.publication.kind)
        except ValueError as error:
            try:
                text = "; ".join(each["message"] for each in json.loads(str(error))["errors"])
            except (ValueError, KeyError, TypeError):
                text = " ".join(str(error).split())
            raise UserError(f"the hub rejects the card ({text}): use a licence that it knows with --license") from error

    def _url_of_repository(self) -> str:
        """URL of the repository, which is created if it is missing."""
        from huggingface_hub.errors import RepositoryNotFoundError

        kind = self.publication.kind
        try:
            info = self.api.repo_info(self.repository, repo_type=kind)
        except RepositoryNotFoundError:
            return str(self.api.create_repo(self.repository, repo_type=kind, private=self.private or None))
        if self.private and not info.private:
            raise UserError(
                f"{self.repository} already exists and is public, --private does not change this: make it private in "
                "its settings, or choose another repository"
            )
        return f"{self.api.endpoint}/{'datasets/' if kind == 'dataset' else ''}{self.repository}"

    def _existing_files(self) -> "dict[str, RepoFile]":
        """Files in the repository, by path."""
        from huggingface_hub.hf_api import RepoFile

        tree = self.api.list_repo_tree(self.repository, recursive=True, repo_type=self.publication.kind)
        return {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}

    def _check_content(self, existing: "dict[str, RepoFile]") -> None:
        """Raise `UserError` if the repository contains, or is being filled with, other content."""
        ours = {file.path: file for file in self.publication.files}
        marker = ours[self.publication.marker]
        if marker.path in existing:
            conflicts = [] if _same(existing[marker.path], marker) else [marker.path]
        else:
            replaced = {file.path for file in self.publication.last} | set(_HUBS_OWN)
            conflicts = [
                path
                for path, entry in existing.items()
                if path not in replaced and not (path in ours and _same(entry, ours[path]))
            ]
        if conflicts:
            raise UserError(
                f"{self.repository} contains something other than {self.publication.what} ({conflicts[0]} differs): "
                "choose another repository, or delete this one"
            )

    def _commit(self, files: Sequence[PublishedFile], message: str) -> None:
        from huggingface_hub import CommitOperationAdd

        operations = []
        for file in files:
            operation = CommitOperationAdd(file.path, file.content())
            # The hash is known; otherwise the client would read the file again.
            operation.upload_info.sha256 = bytes.fromhex(file.sha256)
            operations.append(operation)
        self.api.create_commit(self.repository, operations, commit_message=message, repo_type=self.publication.kind)


def _batches(files: Sequence[PublishedFile], most_files: int) -> Iterator[list[PublishedFile]]:
    """Group files into batches of limited size; a file that exceeds `_COMMIT_BYTES` is a batch of its own."""
    batch: list[PublishedFile] = []
    for file in files:
        if batch and (len(batch) == most_files or sum(each.size for each in batch) + file.size > _COMMIT_BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _same(entry: "RepoFile | None", file: PublishedFile) -> bool:
    """Whether the hub has this file; small files are compared by Git's own hash."""
    if entry is None or entry.size != file.size:
        return False
    if entry.lfs:
        return bool(entry.lfs.sha256 == file.sha256)
    content = file.content()
    data = content.read_bytes() if isinstance(content, Path) else content
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())
