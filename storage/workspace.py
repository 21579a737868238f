"""Paths in a workspace, the folder that contains all corpora, tokenizers, runs and the SQL catalog."""

import re
from dataclasses import dataclass

from storage.errors import UserError
from storage.places.disk import LocalLocation, cached
from storage.places.opening import open_location
from storage.places.place import Location

_LONGEST_SHOWN = 60
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


def is_name(text: str) -> bool:
    """Whether the text is valid as the name of a workspace folder and of a SQL view."""
    return bool(_NAME.fullmatch(text))


def checked_name(name: str, what: str) -> str:
    """Returns `name` if it is valid for a folder and a SQL view; raises `UserError` otherwise."""
    if not is_name(name):
        shown = name if len(name) <= _LONGEST_SHOWN else f"{name[:_LONGEST_SHOWN]}…"
        raise UserError(
            f"{what} name {shown!r} is not usable: use at most 64 lower-case letters, digits, '-' and '_', "
            "and start with a letter or a digit"
        )
    return name


@dataclass(frozen=True)
class Workspace:
    """The folder that contains corpora, tokenizers, runs and the SQL catalog."""

    root: Location

    @classmethod
    def open(cls, uri: str = "./workspace") -> "Workspace":
        """Returns the workspace without accessing it."""
        return cls(open_location(uri))

    @classmethod
    def create(cls, uri: str = "./workspace") -> "Workspace":
        """Returns the workspace after a test write; raises `UserError` if it is not writable."""
        workspace = cls.open(uri)
        try:
            (workspace.root / ".writable").write(b"")
        except OSError as error:
            raise UserError(
                f"workspace {workspace.root} can't be written ({error.strerror}): name another with --workspace"
            ) from error
        (workspace.root / ".writable").remove()
        return workspace

    def corpus(self, name: str) -> Location:
        return self.root / "corpora" / checked_name(name, "corpus")

    def corpus_at(self, name: str) -> Location:
        """Folder of a corpus: a path or URI if `name` contains a slash, otherwise a name in this workspace."""
        return open_location(name, "corpus") if "/" in name else self.corpus(name)

    def tokenizer(self, name: str) -> Location:
        return self.root / "tokenizers" / checked_name(name, "tokenizer")

    def tokens(self, corpus: str, tokenizer: str) -> Location:
        """Folder of a corpus's token dataset."""
        return self.corpus(corpus) / "tokens" / checked_name(tokenizer, "tokenizer")

    def run(self, name: str) -> Location:
        """Folder of a training run."""
        return self.root / "runs" / checked_name(name, "run")

    def comparison(self, name: str) -> Location:
        """Folder of a comparison of several runs."""
        return self.root / "comparisons" / checked_name(name, "comparison")

    @property
    def catalog(self) -> LocalLocation:
        """The DuckDB file with views over the workspace; DuckDB can open it only on a disk."""
        return self.on_disk / "catalog.duckdb"

    @property
    def on_disk(self) -> LocalLocation:
        """A writable local folder: the root, or a folder in the user's cache if the root is remote or read-only."""
        if isinstance(self.root, LocalLocation):
            if not self.root.path.exists() or self.root.can_be_written():
                return self.root
            return cached(f"file-{self.root.name}", str(self.root))
        scheme, _, rest = str(self.root).partition("://")
        return cached(f"{scheme}-{rest.partition('/')[0]}", str(self.root))
