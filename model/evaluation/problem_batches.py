"""The problems of an evaluation, read batch by batch from a corpus and its tokens."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.config.evaluation import EvaluationSpec
from model.evaluation.rewriting.trace import Trace
from model.training.batches import token_rows
from storage.datasets.manifest import SPLITS, Dataset, ShardRecord
from storage.errors import RunFailure
from storage.sql.database import connect, parquet_source

_BATCH_ROWS = 1 << 15

CanonicalHashes = Callable[[NDArray[np.uint64]], NDArray[np.uint64]]
# Selects the problems that are fair to score, from their facts and the hashes of their canonical forms, uint64 [n].
Fair = Callable[[pa.Table, NDArray[np.uint64]], NDArray[np.bool_]]

# Columns of a prediction that describe its problem; null if the problem's family does not have the column.
FACTS = {
    "problem": pa.string(),
    "answer": pa.string(),
    "operators": pa.string(),
    **dict.fromkeys(("terms", "digits", "answer_digits", "carries", "depth"), pa.int32()),
    "negative": pa.bool_(),
    "kind": pa.string(),
    **dict.fromkeys(("column_total", "largest_carry", "carry_bound"), pa.int32()),
    "draw": pa.string(),
}


@dataclass(frozen=True)
class ProblemSet:
    """Problems to evaluate a model on."""

    corpus: Dataset
    tokens: Dataset
    """The corpus, encoded with the model's tokenizer."""
    canonical: CanonicalHashes
    """Maps ids, uint64 [n], to hashes of canonical forms, uint64 [n]."""
    suite: str = ""
    """Name of the suite, if the corpus is one."""
    fair: Fair | None = None
    """Selects the problems that are scored; None scores all."""


class ProblemBatch(NamedTuple):
    """Problems of one stratum."""

    family: str
    width: int
    facts: pa.Table
    """Columns id and those of `FACTS`, [n]."""
    rows: NDArray[np.integer]
    """Token rows, [n, width]."""
    slots: int
    canonical: NDArray[np.uint64]
    """Hashes of the canonical forms, [n]."""

    @property
    def ids(self) -> NDArray[np.uint64]:
        """Indices of the rows in the corpus's order, [n]."""
        return self.facts.column("id").to_numpy().view(np.uint64)

    def where(self, kept: NDArray[np.bool_]) -> "ProblemBatch":
        """The problems for which `kept` [n] is True."""
        return self._replace(
            facts=self.facts.filter(pa.array(kept)), rows=self.rows[kept], canonical=self.canonical[kept]
        )


class ScoredBatch(NamedTuple):
    """A model's answers to n problems."""

    batch: ProblemBatch
    facts: dict[str, pa.Array]
    """Replaces the columns problem and answer, if an operand is masked."""
    prediction: pa.Array
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float32]
    traces: Sequence[Trace] = ()
    """How each problem was rewritten; empty if it was not."""


def stream(problems: ProblemSet, spec: EvaluationSpec) -> Iterator[ProblemBatch]:
    """Batches of problems from a corpus and its tokens.

    Raises `RunFailure` if the two datasets do not hold the same rows in the same order.
    """
    corpus, tokens = problems.corpus, problems.tokens
    left = _limits(corpus, spec)
    shards = zip(_shards(corpus, spec.split), _shards(tokens, spec.split), strict=True)
    for text_shard, token_shard in shards:
        take = min(left[text_shard.stratum], text_shard.rows)
        if not take:
            continue
        left[text_shard.stratum] -= take
        text = _read(corpus, text_shard, take)
        coded = _read(tokens, token_shard, take)
        if not text.column("id").equals(coded.column("id")):
            raise RunFailure(
                f"shard {token_shard.path} does not contain the rows of its corpus: encode the corpus again"
            )
        facts = pa.table({"id": text.column("id"), **{name: _fact(text, name) for name in FACTS}})
        rows = token_rows(coded.column("tokens").combine_chunks(), tokens)
        slots = tokens.manifest.spec["layouts"][token_shard.stratum]["answer"]
        family, _, width = text_shard.stratum.rpartition("-")
        for first in range(0, take, _BATCH_ROWS):
            batch = facts.slice(first, _BATCH_ROWS)
            hashes = problems.canonical(batch.column("id").to_numpy().view(np.uint64))
            yield ProblemBatch(family, int(width), batch, rows[first : first + _BATCH_ROWS], slots, hashes)


def _shards(dataset: Dataset, split: str) -> list[ShardRecord]:
    """The shards of a split, or of all splits."""
    return [shard for name in (SPLITS if split == "all" else (split,)) for shard in dataset.of_split(name)]


def _limits(corpus: Dataset, spec: EvaluationSpec) -> dict[str, int]:
    """Number of evaluated problems per stratum: all, or the limit divided in proportion to the rows."""
    rows: dict[str, int] = {}
    for shard in _shards(corpus, spec.split):
        rows[shard.stratum] = rows.get(shard.stratum, 0) + shard.rows
    total = sum(rows.values())
    if not spec.limit or spec.limit >= total:
        return rows
    bounds = [spec.limit * size // total for size in accumulate(rows.values(), initial=0)]
    return {stratum: end - start for stratum, (start, end) in zip(rows, pairwise(bounds), strict=True)}


def _fact(text: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in text.column_names:
        return pa.chunked_array([pa.nulls(text.num_rows, FACTS[name])])
    return text.column(name).cast(FACTS[name])


def _read(dataset: Dataset, shard: ShardRecord, rows: int) -> pa.Table:
    source = parquet_source([str(dataset.verified(shard))], options=", hive_partitioning = false")
    with connect(dataset.location) as connection:
        return connection.sql(f"SELECT * FROM {source} LIMIT {rows}").to_arrow_table()
