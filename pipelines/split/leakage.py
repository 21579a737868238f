"""Checks whether one corpus trains on problems that another corpus holds out, from the problem texts themselves.

Every problem's text is read from its shard. Its canonical form is hashed under a key that no corpus uses for its split.
Equal hashes are then compared exactly. The check does not rely on manifests, on the generator's hashes, or on the
absence of collisions.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.generation.fanout import Progress, each_result
from pipelines.split.canonical import Canonical
from pipelines.split.hash_set import HashSet
from pipelines.split.parse import canonical_form, text_hashes
from storage.datasets.manifest import Dataset, Manifest, ShardRecord
from storage.errors import RunFailure
from storage.order import UInt64s

HELD_OUT = ("validation", "test")

_MOST_EXAMPLES = 10
_CANONICAL = Canonical("compared for leakage, and split by nobody")
_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class Leak:
    """A training problem, and the equivalent held-out problem, possibly in another order."""

    train: str
    train_shard: str
    held_out: str
    held_out_split: str
    held_out_shard: str


@dataclass(frozen=True)
class Leakage:
    """How many problems were compared, how many training problems are held out, and the first examples.

    `collisions` counts problems with equal hashes that are different.
    """

    train_rows: int
    held_out_rows: int
    leaks: int
    collisions: int
    examples: tuple[Leak, ...]


class LeakFound(RunFailure):
    """A corpus trains on problems that another holds out; `result` is the flow's report as JSON values."""

    def __init__(self, text: str, result: dict[str, Any]) -> None:
        super().__init__(text)
        self.result = result


def find_leaks(train: Dataset, held_out: Dataset, *, in_flight: int, progress: Progress = lambda rows: None) -> Leakage:
    """Compares the train split of one corpus with the validation and test splits of another, or of itself.

    It needs about 55 bytes of memory per held-out problem: 1.1 GB for the 20 million of a billion rows. Raises
    `RunFailure` if a shard is missing or damaged, or contains an invalid problem.
    """
    train_shards = train.of_split("train")
    held_out_shards = tuple(shard for split in HELD_OUT for shard in held_out.of_split(split))
    for corpus, shards in ((held_out, held_out_shards), (train, train_shards)):
        for shard in shards:
            corpus.checked(shard)
    hashes: dict[str, UInt64s] = {}
    for shard, shard_hashes in each_result(partial(_hashes, held_out), held_out_shards, in_flight=in_flight):
        hashes[shard.path] = shard_hashes
        progress(shard.rows)
    values, rows = np.unique(np.concatenate([hashes[shard.path] for shard in held_out_shards]), return_index=True)
    shared = (HashSet.of(values), rows.astype(np.uint32))
    results: dict[str, Leakage] = {}
    worker = partial(_leaks, train, held_out, held_out_shards)
    for shard, leakage in each_result(worker, train_shards, in_flight=in_flight, shared=shared):
        results[shard.path] = leakage
        progress(shard.rows)
    ordered = [results[shard.path] for shard in train_shards]
    return Leakage(
        train_rows=sum(leakage.train_rows for leakage in ordered),
        held_out_rows=sum(map(len, hashes.values())),
        leaks=sum(leakage.leaks for leakage in ordered),
        collisions=sum(leakage.collisions for leakage in ordered),
        examples=tuple(leak for leakage in ordered for leak in leakage.examples)[:_MOST_EXAMPLES],
    )


def differences(train: Manifest, held_out: Manifest) -> list[str]:
    """Differences of the manifests that allow leakage from one corpus to the other, one phrase each."""
    phrases = []
    keys = [str(manifest.spec.get("split_key")) for manifest in (train, held_out)]
    if keys[0] != keys[1]:
        phrases.append(f"the split keys differ ({keys[0]!r} and {keys[1]!r})")
    shares = [sum(manifest.spec.get(split, 0.0) for split in HELD_OUT) for manifest in (train, held_out)]
    if shares[0] < shares[1]:
        phrases.append(f"the second holds out more ({shares[0]:.4g} and {shares[1]:.4g} of its problems)")
    return phrases


def _hashes(corpus: Dataset, shard: ShardRecord) -> UInt64s:
    """Canonical hashes of a shard's problems in order, uint64 [n]."""
    with _named(corpus, shard):
        return np.concatenate([text_hashes(problems, _CANONICAL) for problems in _problems(corpus, shard)])


def _leaks(
    train: Dataset,
    held_out: Dataset,
    held_out_shards: Sequence[ShardRecord],
    shard: ShardRecord,
    hashes: HashSet,
    rows: NDArray[np.uint32],
) -> Leakage:
    """The leakage of one train shard.

    `rows` [m] is the row of each hash's problem, counted over all `held_out_shards`.
    """
    texts, matched_rows = list[str](), [np.zeros(0, np.uint32)]
    with _named(train, shard):
        for problems in _problems(train, shard):
            matching, positions = hashes.find(text_hashes(problems, _CANONICAL))
            texts += problems.take(pa.array(matching)).to_pylist()
            matched_rows.append(rows.take(positions))
    others, number = np.unique(np.concatenate(matched_rows), return_inverse=True)
    matches = _at(held_out, held_out_shards, others)
    forms = [canonical_form(match) for match, _ in matches]
    leaks = [
        (text, matches[match])
        for text, match in zip(texts, number, strict=True)
        if canonical_form(text) == forms[match]
    ]
    examples = tuple(
        Leak(text, shard.path, match, other.split, other.path) for text, (match, other) in leaks[:_MOST_EXAMPLES]
    )
    held_out_rows = sum(other.rows for other in held_out_shards)
    return Leakage(shard.rows, held_out_rows, len(leaks), len(texts) - len(leaks), examples)


def _at(corpus: Dataset, shards: Sequence[ShardRecord], rows: NDArray[np.uint32]) -> list[tuple[str, ShardRecord]]:
    """The problems at ascending `rows`, counted over all `shards`, each with its shard."""
    problems, ends = list[tuple[str, ShardRecord]](), np.cumsum([shard.rows for shard in shards])
    for shard, end, inside in zip(shards, ends, np.split(rows, np.searchsorted(rows, ends[:-1])), strict=True):
        if len(inside):
            with _named(corpus, shard):
                texts = pa.chunked_array(list(_problems(corpus, shard)))
            problems += [(text, shard) for text in texts.take(pa.array(inside - (end - shard.rows))).to_pylist()]
    return problems


def _problems(corpus: Dataset, shard: ShardRecord) -> Iterator[pa.Array]:
    """Yields the problem texts of a shard by batch; raises `RunFailure` if the row count differs from the manifest."""
    pa.set_cpu_count(1)
    with (corpus.location / shard.path).opened() as file, pq.ParquetFile(file) as parquet:
        if parquet.metadata.num_rows != shard.rows:
            raise RunFailure(f"it has {parquet.metadata.num_rows:,} rows instead of {shard.rows:,}")
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=["problem"], use_threads=False):
            yield batch.column(0)


@contextmanager
def _named(corpus: Dataset, shard: ShardRecord) -> Iterator[None]:
    """Converts errors of the block into a one-line `RunFailure` that names the shard."""
    try:
        yield
    except (RunFailure, OSError, pa.ArrowException) as error:
        raise RunFailure(
            f"shard {corpus.location / shard.path} is damaged ({str(error).splitlines()[0]}): "
            "delete it and run the same 'numerate corpus generate' command again"
        ) from error
