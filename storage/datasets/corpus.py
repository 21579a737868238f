"""Opens a corpus by name and streams a split as Arrow batches or a DuckDB relation."""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from storage.datasets.manifest import Dataset, load
from storage.errors import UserError
from storage.sql.database import connect
from storage.sql.scan import corpus_query
from storage.workspace import Workspace


@dataclass(frozen=True)
class Corpus:
    """A committed corpus of a workspace."""

    workspace: Workspace
    dataset: Dataset

    @classmethod
    def open(cls, name: str, workspace: str = "./workspace") -> "Corpus":
        """Opens a corpus by its name, path or `file://` URI; raises `UserError` if there is no such corpus."""
        opened = Workspace.open(workspace)
        dataset = load(opened.corpus_at(name), f"corpus {name!r}")
        if dataset.manifest.kind != "corpus":
            raise UserError(f"{name!r} holds {dataset.manifest.kind}, not problems: name the folder of a corpus")
        return cls(opened, dataset)

    def relation(self, split: str = "train") -> duckdb.DuckDBPyRelation:
        """A lazy DuckDB relation over one split, on a connection of its own.

        It has the columns of `numerate sql`. Raises `RunFailure` for a missing or truncated shard.
        """
        connection, shards = connect(self.dataset.location, threads=2, memory="1GB"), self.dataset.of_split(split)
        for shard in shards:
            self.dataset.checked(shard)
        return connection.sql(corpus_query(connection, self.dataset, shards))

    def batches(self, split: str = "train", rows: int = 1 << 16) -> Iterator[pa.RecordBatch]:
        """Yields record batches of at most `rows` rows, in the order of the corpus."""
        yield from self.relation(split).to_arrow_reader(rows)
