"""Migrates a corpus of schema version 1: regenerates its rows from its spec and swaps the folders by one rename.

Ids, problems and order stay the same. Splits differ for problems that are reserved now, because reserved problems are
always test. The old corpus is untouched until the swap, and the new one is complete from then on. A killed migration
continues when it is started again.
"""

from dataclasses import dataclass

from pipelines.generation.build import build_corpus, locked
from pipelines.generation.fanout import Progress
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import Dataset, committed, load
from storage.datasets.schema_version import SCHEMA_VERSION, head_of, known_spec
from storage.errors import RunFailure, UserError
from storage.places.place import Location

_OLD_VERSION = 1


@dataclass(frozen=True)
class Migration:
    """A migrated corpus, and the old one's rows per split and names of token datasets."""

    corpus: Dataset
    old_split_rows: dict[str, int]
    old_tokens: tuple[str, ...]

    @property
    def moved(self) -> int:
        """Rows that have moved to the test split."""
        return self.corpus.manifest.split_rows["test"] - self.old_split_rows["test"]


def old_spec(folder: Location) -> CorpusSpec | None:
    """The spec of a corpus of the old version in present form; None if the corpus has the present version.

    Raises `UserError` if there is no corpus, `RunFailure` if its spec is lost.
    """
    what = f"corpus {folder.name!r}"
    if not committed(folder):
        raise UserError(f"{what} does not exist ({folder}): create it first with 'numerate corpus generate'")
    head = head_of((folder / "manifest.json").read())
    if head.get("schema_version") != _OLD_VERSION:
        load(folder, what)
        return None
    spec = known_spec(head)
    if spec is None or head.get("kind") != "corpus":
        raise RunFailure(
            f"{folder / 'manifest.json'} is damaged and the corpus's spec is lost: run "
            "'numerate corpus generate' with the same parameters under another name"
        )
    return CorpusSpec.of_identity(str(head["name"]), spec)


def migrate(folder: Location, *, in_flight: int, progress: Progress = lambda rows: None) -> Migration | None:
    """Migrates the corpus at `folder`; if it is already migrated, deletes left-over files and returns None.

    The old corpus, including its tokens, is deleted at the end. Raises `UserError` in an object store, `RunFailure` if
    the disk is too small for both.
    """
    what, other = f"corpus {folder.name!r}", folder.parent / f".{folder.name}.migrating"
    with locked(folder, what):
        spec = old_spec(folder)
        if spec is not None and folder.remote:
            raise UserError(
                f"{folder} is in an object store, where a folder can't be replaced in one step: migrate it "
                "on a local disk"
            )
        if spec is None:
            # A migration was killed after the swap: the other folder is the old corpus.
            other.remove()
            return None
        head = head_of((folder / "manifest.json").read())
        corpus, _ = build_corpus(spec, other, in_flight=in_flight, progress=progress)
        if corpus.manifest.rows != head["rows"]:
            raise RunFailure(
                f"{what} has {head['rows']:,} rows in its manifest, but {corpus.manifest.rows:,} after migration to "
                f"schema version {SCHEMA_VERSION}, so its manifest is damaged: generate the corpus under another name"
            )
        tokens = tuple((folder / "tokens").children())
        # The new folder's lock moves with it.
        with locked(other, what):
            other.exchange(folder)
            other.remove()
    return Migration(load(folder, what), head["split_rows"], tokens)
