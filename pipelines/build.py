"""Whole datasets: check, make what is missing, commit. What is committed is never made again."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from model.tokenizer import Tokenizer, TokenizerCard, TokenLayout
from pipelines.encode import (
    ENCODER_VERSION,
    EncodeJob,
    encode_rows,
    encode_shard,
    encode_tasks,
    shard_layout,
    with_tokens,
)
from pipelines.families.grid import Grid
from pipelines.fanout import Notes, Progress, Task, make_shards
from pipelines.generate import GENERATOR_VERSION, canonical_hashes, generate_range, range_tasks, regenerate
from pipelines.spec import CorpusSpec
from pipelines.split import split_numbers
from storage.errors import RunFailure, UserError
from storage.location import Location
from storage.manifest import SPLITS, Dataset, commit, committed, hash_of, load
from storage.shard import Layout

_SAMPLE_ROWS = 1 << 16
_FIRST_ROWS = 1 << 20
_DISK_MARGIN = 1.05


def build_corpus(
    spec: CorpusSpec, folder: Location, *, in_flight: int, progress: Progress = lambda rows: None
) -> tuple[Dataset, bool]:
    """The corpus at `folder`, and whether anything of it was made now; missing or cut shards are mended.

    Raises `UserError` if another corpus has that place, `RunFailure` if the disk is too small.
    """
    identity = {**spec.identity(), "generator_version": GENERATOR_VERSION}
    found = _found(folder, f"corpus {spec.name!r}", hash_of(identity))
    if found and found.whole():
        return found, False
    _check_splits(spec)
    with folder.exclusive(f"corpus {spec.name!r}"), _swept(folder):
        tasks, notes = range_tasks(spec), Notes(folder, hash_of(identity))
        _check_disk(folder, f"corpus {spec.name!r}", tasks, lambda: spec.total_rows * corpus_bytes_per_row(spec))
        notes.adopt(found.shards if found else (), tasks)
        worker = partial(generate_range, spec, folder)
        shards = make_shards(worker, tasks, notes, in_flight=in_flight, progress=progress)
        dataset = commit(
            folder,
            kind="corpus",
            name=spec.name,
            generator_version=GENERATOR_VERSION,
            spec=identity,
            shards=shards,
        )
        notes.clear()
    return dataset, True


def build_tokens(
    corpus: Dataset,
    tokenizer: Tokenizer,
    card: TokenizerCard,
    folder: Location,
    *,
    in_flight: int,
    progress: Progress = lambda rows: None,
) -> tuple[Dataset, bool]:
    """The corpus's token rows at `folder`, and whether any were made now; missing or cut shards are mended.

    Raises `UserError` if the tokenizer doesn't belong to the corpus.
    """
    name = corpus.manifest.name
    if card.corpus_identity != corpus.manifest.identity:
        raise UserError(
            f"the tokenizer was trained on corpus {card.corpus!r} ({card.corpus_identity[:12]}), not on this "
            f"{name!r} ({corpus.manifest.identity[:12]}): run 'numerate tokenizer train' for it under another name"
        )
    layout = token_layout(spec_of(corpus))
    spec = {
        "corpus": corpus.manifest.identity,
        "tokenizer": tokenizer.identity,
        "layout": layout.model_dump(),
        "encoder_version": ENCODER_VERSION,
    }
    found = _found(folder, f"the tokens of corpus {name!r}", hash_of(spec))
    if found and found.whole():
        return found, False
    with folder.exclusive(f"the tokens of corpus {name!r}"), _swept(folder):
        tasks, notes = encode_tasks(corpus.shards), Notes(folder, hash_of(spec))
        rows = corpus.manifest.rows
        _check_disk(folder, "the tokens", tasks, lambda: rows * _token_bytes_per_row(corpus, tokenizer, layout))
        notes.adopt(found.shards if found else (), tasks)
        worker = partial(encode_shard, EncodeJob(corpus.location, folder, tokenizer, layout))
        shards = make_shards(worker, tasks, notes, in_flight=in_flight, progress=progress)
        dataset = commit(folder, kind="tokens", name=name, generator_version=ENCODER_VERSION, spec=spec, shards=shards)
        notes.clear()
    return dataset, True


def spec_of(corpus: Dataset) -> CorpusSpec:
    """The spec that a corpus was made from, out of its manifest."""
    values: dict[str, Any] = {k: v for k, v in corpus.manifest.spec.items() if k != "generator_version"}
    return CorpusSpec(name=corpus.manifest.name, **values)


def token_layout(spec: CorpusSpec) -> TokenLayout:
    """The narrowest row that holds every problem of the corpus and its answer."""
    problem, answer = Grid(spec).widest_text()
    return TokenLayout(problem=problem, answer=answer + 1)


def corpus_bytes_per_row(spec: CorpusSpec) -> float:
    """Bytes on disk that a row will take, measured on a block of the corpus itself."""
    grid, table = _sample(spec)
    return _encoded_bytes(table, grid.layout) / table.num_rows


def _token_bytes_per_row(corpus: Dataset, tokenizer: Tokenizer, layout: TokenLayout) -> float:
    _, table = _sample(spec_of(corpus))
    columns = with_tokens(table, encode_rows(table, tokenizer, layout))
    return _encoded_bytes(columns, shard_layout(table.schema, layout)) / table.num_rows


def _sample(spec: CorpusSpec) -> tuple[Grid, pa.Table]:
    ids = np.arange(min(_SAMPLE_ROWS, spec.total_rows), dtype=np.uint64)
    grid, problems = regenerate(spec, ids)
    return grid, grid.table(ids, problems)


def _encoded_bytes(table: pa.Table, layout: Layout) -> int:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, layout.schema, **layout.options()) as writer:
        writer.write_table(table)
    return len(sink.getvalue())


def _found(folder: Location, what: str, spec_hash: str) -> Dataset | None:
    if not committed(folder):
        return None
    dataset = load(folder, what)
    if dataset.manifest.spec_hash != spec_hash:
        raise UserError(
            f"{what} exists with another configuration ({folder}): choose another name, or delete that folder"
        )
    return dataset


@contextmanager
def _swept(folder: Location) -> Iterator[None]:
    """Without half-written files, before the block and after it."""
    folder.sweep()
    try:
        yield
    finally:
        folder.sweep()


def _check_disk(folder: Location, what: str, tasks: Sequence[Task], needed: Callable[[], float]) -> None:
    lying = sum(max(0, (folder / path).size()) for task in tasks for path in task.paths)
    missing = needed() * _DISK_MARGIN - lying
    if missing > folder.free_bytes():
        raise RunFailure(
            f"{what} needs {missing / 1e6:,.1f} MB more at {folder}, {folder.free_bytes() / 1e6:,.1f} MB are free: "
            "free some space or name another --workspace"
        )


def _check_splits(spec: CorpusSpec) -> None:
    ids = np.arange(min(_FIRST_ROWS, spec.total_rows), dtype=np.uint64)
    found = np.unique(split_numbers(canonical_hashes(spec, ids), spec.validation, spec.test))
    missing = [name for number, name in enumerate(SPLITS) if number not in found]
    if missing:
        raise UserError(
            f"corpus {spec.name!r} has {spec.total_rows:,} rows, and of the first {len(ids):,} none is in "
            f"{', '.join(missing)}: take more rows or larger shares"
        )
