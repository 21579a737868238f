"""Builds whole datasets: checks the request, generates missing shards and commits. Valid shards are not rebuilt."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from math import ceil
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from model.tokenizer import Tokenizer, TokenLayout, check_tokens
from pipelines.generation.fanout import Notes, Progress, Task, each_result, make_shards
from pipelines.generation.generate import first_splits, generate_range, generator_version, range_tasks, sample_rows
from pipelines.problems.components import Component, components
from pipelines.spec.corpus import UNFINISHED, CorpusSpec
from pipelines.tokens.encode import (
    ENCODER_VERSION,
    EncodeJob,
    encode_rows,
    encode_shard,
    encode_tasks,
    in_tokens,
    shard_layout,
    with_tokens,
)
from storage.datasets.manifest import (
    SCHEMA_VERSION,
    SPLITS,
    Dataset,
    Revision,
    ShardRecord,
    commit,
    committed,
    hash_of,
    load,
)
from storage.datasets.shard import Layout
from storage.errors import RunFailure, UserError
from storage.places.disk import being_written
from storage.places.place import Location
from storage.reading.subset import sql_types
from storage.sql.scan import PARTITIONS

_SAMPLE_ROWS = 1 << 16
# Rows that are searched for each split: at least the first number, and enough to expect 40 rows of the rarest split.
_FIRST_ROWS, _EXPECTED_ROWS = 1 << 20, 40
_DISK_MARGIN = 1.05


def build_corpus(
    spec: CorpusSpec,
    folder: Location,
    *,
    in_flight: int,
    progress: Progress = lambda rows: None,
    finished: Progress | None = None,
) -> tuple[Dataset, bool]:
    """Returns the corpus at `folder` and whether shards were generated; missing or truncated shards are repaired.

    `progress` is called with the number of generated rows, `finished` (by default `progress`) with the rows of an
    earlier call. With `in_flight=0`, everything runs in this process, without Ray. Raises `UserError` if `folder`
    contains another corpus or a split would be empty, `RunFailure` if the disk is too small.
    """
    what = f"corpus {spec.name!r}"

    def make(existing: Dataset | None) -> Dataset:
        known, former = (existing.shards, existing.manifest.former_identity) if existing else ((), "")
        return make_corpus(
            spec, folder, known, former=former, in_flight=in_flight, progress=progress, finished=finished
        )

    return _complete(folder, what, lambda _: corpus_identity(spec), make, partial(_check_splits, spec))


def make_corpus(
    spec: CorpusSpec,
    folder: Location,
    known: Sequence[ShardRecord],
    *,
    former: str = "",
    in_flight: int,
    progress: Progress = lambda rows: None,
    finished: Progress | None = None,
) -> Dataset:
    """Generates every range that is not `known` or not complete on disk, and commits the corpus.

    The caller has locked the folder. `former` is the identity of a corpus of schema version 2, which is kept. Raises
    `RunFailure` if the disk is too small, or if a known shard is generated with other rows.
    """
    what, identity, seen = f"corpus {spec.name!r}", corpus_identity(spec), Revision.at(folder, former)
    tasks, notes = range_tasks(spec), _notes(folder, identity, former)
    _check_disk(folder, what, tasks, lambda: corpus_bytes(spec))
    notes.adopt(known, tasks)
    (folder / UNFINISHED).write(yaml.safe_dump(spec.model_dump(mode="json", exclude_defaults=True)).encode())
    worker = partial(generate_range, spec, folder, former=bool(former))
    shards = make_shards(worker, tasks, notes, in_flight=in_flight, progress=progress, finished=finished)
    contents = {shard.path: shard.content for shard in shards}
    if changed := [shard.path for shard in known if contents.get(shard.path, shard.content) != shard.content]:
        raise RunFailure(
            f"the regenerated rows of shard {folder / changed[0]} differ from the manifest: "
            f"run 'numerate corpus verify {spec.name} --deep --repair'"
        )
    dataset = commit(
        folder,
        kind="corpus",
        name=spec.name,
        generator_version=identity["generator_version"],
        spec=identity,
        shards=shards,
        base=seen,
    )
    notes.clear()
    return dataset


def corpus_identity(spec: CorpusSpec) -> dict[str, Any]:
    """The spec that the manifest of a corpus stores."""
    identity = spec.identity()
    return {**identity, "generator_version": generator_version(identity)}


@contextmanager
def locked(folder: Location, what: str) -> Iterator[None]:
    """Locks a dataset's folder; partial files are deleted before and after the block."""
    with folder.exclusive(what):
        folder.sweep()
        try:
            yield
        finally:
            folder.sweep()


@contextmanager
def protected(folder: Location, what: str, *, write: bool) -> Iterator[None]:
    """Reads or (`write`) writes a dataset's folder while no other process writes it; raises `UserError` otherwise.

    A read-only folder is not locked, nor an object store when only reading: that would require write permission.
    """
    if write or (folder.can_be_written() and not folder.remote):
        with locked(folder, what):
            yield
        return
    if folder.is_locked():
        raise being_written(what)
    yield


def build_tokens(
    corpus: Dataset,
    tokenizer: Tokenizer,
    folder: Location,
    *,
    in_flight: int,
    progress: Progress = lambda rows: None,
    finished: Progress | None = None,
) -> tuple[Dataset, bool]:
    """Returns the corpus's token dataset at `folder` and whether shards were encoded; incomplete shards are repaired.

    The tokenizer can be that of another corpus: every tokenizer covers all characters of a problem. With `in_flight=0`,
    everything runs in this process, without Ray.
    """
    what = f"the tokens of corpus {corpus.manifest.name!r}"

    def identity(existing: Dataset) -> dict[str, Any]:
        layouts = token_layouts(corpus.shards) if tokenizer.group == 1 else layouts_in(existing)
        return tokens_identity(corpus, tokenizer, layouts)

    def make(existing: Dataset | None) -> Dataset:
        former = existing.manifest.former_identity if existing else ""
        seen = Revision.at(folder, former)
        layouts = layouts_in(existing) if existing else _layouts(corpus, tokenizer, in_flight)
        spec = tokens_identity(corpus, tokenizer, layouts)
        tasks, notes = encode_tasks(corpus.shards), _notes(folder, spec, former)
        _check_disk(folder, "the tokens", tasks, lambda: _token_bytes(corpus, tokenizer, layouts))
        notes.adopt(existing.shards if existing else (), tasks)
        worker = partial(encode_shard, EncodeJob(corpus.location, folder, tokenizer, layouts, bool(former)))
        shards = make_shards(worker, tasks, notes, in_flight=in_flight, progress=progress, finished=finished)
        dataset = commit(
            folder,
            kind="tokens",
            name=corpus.manifest.name,
            generator_version=ENCODER_VERSION,
            spec=spec,
            shards=shards,
            base=seen,
        )
        notes.clear()
        return dataset

    return _complete(folder, what, identity, make)


def tokens_identity(corpus: Dataset, tokenizer: Tokenizer, layouts: dict[str, TokenLayout]) -> dict[str, Any]:
    """The spec that the manifest of a token dataset stores; bytes per token only if there is more than one."""
    size = tokenizer.id_type.itemsize
    return {
        "corpus": corpus.manifest.identity,
        "tokenizer": tokenizer.identity,
        "layouts": {stratum: layout.model_dump() for stratum, layout in layouts.items()},
        "encoder_version": ENCODER_VERSION,
        **({"token_bytes": size} if size > 1 else {}),
    }


def spec_of(corpus: Dataset) -> CorpusSpec:
    """The spec in a corpus's manifest."""
    return CorpusSpec.of_identity(corpus.manifest.name, corpus.manifest.spec)


def token_layouts(shards: Sequence[ShardRecord]) -> dict[str, TokenLayout]:
    """For every stratum, the narrowest row that holds its problems and answers, with one token per character.

    For other tokenizers, the shards' lengths must be counted in tokens (`in_tokens`).
    """
    widest: dict[str, tuple[int, int]] = {}
    for shard in shards:
        problem, answer = widest.get(shard.stratum, (1, 1))
        widest[shard.stratum] = max(problem, shard.problem_length), max(answer, shard.answer_digits)
    for problem, answer in widest.values():
        check_tokens(problem, answer + 1)
    return {stratum: TokenLayout(problem=problem, answer=answer + 1) for stratum, (problem, answer) in widest.items()}


def layouts_in(tokens: Dataset) -> dict[str, TokenLayout]:
    """The layouts of a token dataset by stratum, from its manifest."""
    return {stratum: TokenLayout(**layout) for stratum, layout in tokens.manifest.spec.get("layouts", {}).items()}


def _complete(
    folder: Location,
    what: str,
    identity: Callable[[Dataset], dict[str, Any]],
    make: Callable[[Dataset | None], Dataset],
    check: Callable[[], None] = lambda: None,
) -> tuple[Dataset, bool]:
    """Returns the complete dataset at `folder`, and whether `make` made it from the existing, incomplete one or None.

    `check` runs before the folder is locked. Raises `UserError` if the existing dataset has another `identity`.
    """

    def existing() -> Dataset | None:
        if not committed(folder):
            return None
        dataset = load(folder, what)
        if dataset.manifest.spec_hash != hash_of(identity(dataset)):
            raise UserError(
                f"{what} exists with another configuration ({folder}): choose another name, or delete that folder"
            )
        return dataset

    dataset = existing()
    if dataset and dataset.is_complete():
        return dataset, False
    check()
    with locked(folder, what):
        # The previous holder of the lock may have completed it.
        dataset = existing()
        if dataset and dataset.is_complete():
            return dataset, False
        return make(dataset), True


def _notes(folder: Location, identity: dict[str, Any], former: str) -> Notes:
    """Progress notes of a dataset; another schema version has other content hashes, so its notes are invalid."""
    return Notes(folder, hash_of([SCHEMA_VERSION, bool(former), identity]))


def _layouts(corpus: Dataset, tokenizer: Tokenizer, in_flight: int) -> dict[str, TokenLayout]:
    """The layouts of a corpus's token dataset, from the lengths of its problems and answers in tokens."""
    if tokenizer.group == 1:
        return token_layouts(corpus.shards)
    measure = partial(in_tokens, corpus.location, tokenizer)
    with closing(each_result(measure, corpus.shards, in_flight=in_flight)) as results:
        return token_layouts([measured for _, measured in results])


def predicate_columns_of(spec: CorpusSpec) -> dict[str, str]:
    """Names and SQL types of the columns that a predicate can use on a corpus's tokens, before they exist."""
    columns = {"file_row_number": "BIGINT", **PARTITIONS}
    for component in components(spec):
        layout = shard_layout(
            component.family(spec).layout.schema, TokenLayout(problem=1, answer=2), np.dtype(np.uint8)
        )
        columns = sql_types(layout.schema) | columns
    return columns


def corpus_bytes(spec: CorpusSpec) -> float:
    """Estimated size of a corpus on disk in bytes, measured on a block of each component."""
    return _estimated_bytes(spec, lambda component, table: (table, component.family(spec).layout))


def _token_bytes(corpus: Dataset, tokenizer: Tokenizer, layouts: dict[str, TokenLayout]) -> float:
    """Estimated size of a token dataset on disk in bytes."""
    widest = TokenLayout(
        problem=max(layout.problem for layout in layouts.values()),
        answer=max(layout.answer for layout in layouts.values()),
    )

    def encoded(component: Component, table: pa.Table) -> tuple[pa.Table, Layout]:
        tokens = encode_rows(table, tokenizer, widest)
        return with_tokens(table, tokens), shard_layout(table.schema, widest, tokenizer.id_type)

    return _estimated_bytes(spec_of(corpus), encoded)


def _estimated_bytes(spec: CorpusSpec, columns: Callable[[Component, pa.Table], tuple[pa.Table, Layout]]) -> float:
    """Estimated bytes of all rows in kept splits, from the stored `columns` and their layout for some of these rows."""
    total = 0.0
    for component in components(spec):
        table, splits = sample_rows(spec, component, _SAMPLE_ROWS)
        kept = np.isin(splits, [SPLITS.index(split) for split in spec.kept_splits])
        if kept.any():
            stored, layout = columns(component, table.filter(pa.array(kept)))
            sink = io.BytesIO()
            with pq.ParquetWriter(sink, layout.schema, **layout.options()) as writer:
                writer.write_table(stored)
            total += component.rows / len(kept) * len(sink.getvalue())
    return total


def _check_disk(folder: Location, what: str, tasks: Sequence[Task], size: Callable[[], float]) -> None:
    """Raises `RunFailure` if the disk has no room for the files of `tasks`, `size` bytes in total, that are missing."""
    free = folder.free_bytes()
    if free is None:
        return
    needed = size() * _DISK_MARGIN
    if needed > free:
        # Check every file only if it matters: there can be millions.
        needed -= sum(max(0, (folder / path).size()) for task in tasks for path in task.paths) * _DISK_MARGIN
    if needed > free:
        raise RunFailure(
            f"{what} needs {needed / 1e6:,.1f} MB more at {folder}, but only {free / 1e6:,.1f} MB are free: "
            "free some space or name another --workspace"
        )


def _check_splits(spec: CorpusSpec) -> None:
    shares = {"train": 1 - spec.validation - spec.test, "validation": spec.validation, "test": spec.test}
    rarest = min(shares[split] for split in spec.kept_splits)
    rows = min(spec.total_rows, max(_FIRST_ROWS, ceil(_EXPECTED_ROWS / rarest)))
    occurring = first_splits(spec, rows)
    if missing := [name for name in spec.kept_splits if name not in occurring]:
        raise UserError(
            f"corpus {spec.name!r} has {spec.total_rows:,} rows, and none of the first {rows:,} is in "
            f"{', '.join(missing)}: raise rows or the shares of these splits"
        )
