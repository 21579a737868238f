"""Generates shards from a spec: each range of the permuted order becomes one shard per split and width.

A shard's bytes depend only on (spec, range), so ranges can be generated in any order on any machine. A crash costs only
unfinished ranges, which are then generated identically.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.problems.components import Component, components
from pipelines.problems.family import Block, Family
from pipelines.spec.corpus import CorpusSpec
from pipelines.split.reserved import splits_of
from storage.datasets.manifest import SPLITS, ShardRecord
from storage.datasets.shard import ContentHash, Layout, Shard, open_shard
from storage.order import UInt64s
from storage.places.place import Location

GENERATOR_VERSION = 5

# Classes of problem length in characters; each shard holds one of them and is in a folder of that name.
WIDTHS = np.array([1 << power for power in range(4, 15)])
_CLASS_OF_LENGTH = np.searchsorted(WIDTHS, np.arange(WIDTHS[-1] + 1)).astype(np.uint8)

# Maximum size of a row group in rows and in bytes: queries read smaller groups more slowly.
_GROUP_ROWS = 1 << 17
_GROUP_BYTES = 1 << 26

Groups = Iterator[tuple["Stratum", pa.Table]]


@dataclass(frozen=True, order=True)
class Stratum:
    """The common values of all rows of a shard: split, family and width class."""

    split: str
    family: str
    width: int

    @property
    def name(self) -> str:
        """Name without the split, as in the manifest."""
        return f"{self.family}-{self.width}"

    def path(self, number: int) -> str:
        """Relative path of the shard of range `number`; DuckDB reads columns from the folder names."""
        return f"data/split={self.split}/family={self.family}/width={self.width}/{number:06d}.parquet"


@dataclass(frozen=True)
class RangeTask:
    """Rows [first, first + rows) of one component's permuted order, as one unit of work."""

    number: int
    component: Component
    first: int
    rows: int

    @property
    def paths(self) -> list[str]:
        """The shards that this task can write."""
        family = self.component.problems.family
        return [Stratum(split, family, int(width)).path(self.number) for split in SPLITS for width in WIDTHS]


def range_tasks(spec: CorpusSpec) -> list[RangeTask]:
    """Divides the corpus into tasks of `rows_per_shard` rows; the last task of each component can be shorter."""
    step, tasks = spec.rows_per_shard, list[RangeTask]()
    for component in components(spec):
        for first in range(0, component.rows, step):
            tasks.append(RangeTask(len(tasks), component, first, min(step, component.rows - first)))
    return tasks


def generate_range(spec: CorpusSpec, folder: Location, task: RangeTask, *, former: bool = False) -> list[ShardRecord]:
    """Writes the shards of one range below `folder`; a stratum without rows has no shard.

    `former` is passed to their `ContentHash`.
    """
    pa.set_cpu_count(1)
    family = task.component.family(spec)
    lengths: dict[Stratum, tuple[int, int]] = {}
    with ExitStack() as stack:
        shards: dict[Stratum, Shard] = {}
        for stratum, table in _row_groups(spec, task):
            if stratum not in shards:
                place = open_shard(
                    folder,
                    stratum.path(task.number),
                    split=stratum.split,
                    stratum=stratum.name,
                    layout=family.layout,
                    former=former,
                )
                shards[stratum], lengths[stratum] = stack.enter_context(place), (0, 0)
            shards[stratum].write(table)
            lengths[stratum] = tuple(map(max, lengths[stratum], _longest(table)))  # type: ignore[assignment]
    return [
        shards[stratum].record._replace(problem_length=lengths[stratum][0], answer_digits=lengths[stratum][1])
        for stratum in sorted(shards, key=_order)
    ]


class Contents(NamedTuple):
    """The content of a shard, independent of its writer, with the fields of the manifest's line."""

    split: str
    stratum: str
    rows: int
    content: str
    problem_length: int
    answer_digits: int

    @classmethod
    def of(cls, shard: ShardRecord) -> "Contents":
        """The contents in a line of the manifest."""
        return cls(*(getattr(shard, name) for name in cls._fields))


def contents_of_range(spec: CorpusSpec, task: RangeTask, *, former: bool = False) -> dict[str, Contents]:
    """Computes the contents of each shard of a range by path, in the manifest's order, without writing.

    `former` is passed to their `ContentHash`.
    """
    pa.set_cpu_count(1)
    schema = task.component.family(spec).layout.schema
    hashes: dict[Stratum, ContentHash] = {}
    counts: dict[Stratum, tuple[int, int, int]] = {}
    for stratum, table in _row_groups(spec, task):
        hashes.setdefault(stratum, ContentHash(schema, former=former)).update(table)
        rows, *longest = counts.get(stratum, (0, 0, 0))
        counts[stratum] = (rows + table.num_rows, *map(max, longest, _longest(table)))
    found = {}
    for stratum in sorted(hashes, key=_order):
        rows, *longest = counts[stratum]
        found[stratum.path(task.number)] = Contents(
            stratum.split, stratum.name, rows, hashes[stratum].hexdigest(), *longest
        )
    return found


def sample_table(spec: CorpusSpec, component: Component, rows: int) -> tuple[pa.Table, Layout]:
    """The first rows of a component's permuted order, with all splits and widths, and their storage layout."""
    table, _ = sample_rows(spec, component, rows)
    return table, component.family(spec).layout


def sample_rows(spec: CorpusSpec, component: Component, rows: int) -> tuple[pa.Table, NDArray[np.uint8]]:
    """The first rows of a component's permuted order, and their split numbers, uint8 [n]."""
    family = component.family(spec)
    task = RangeTask(0, component, 0, min(rows, component.rows))
    tables, splits = [], []
    for ids, problems, numbers in _blocks(spec, task):
        tables.append(family.table(ids, problems))
        splits.append(numbers)
    return pa.concat_tables(tables).combine_chunks(), np.concatenate(splits)


def canonical_hashes(spec: CorpusSpec, ids: UInt64s) -> UInt64s:
    """Hashes of the canonical forms of rows `ids`, uint64 [n]; equal for all orders of one problem."""
    hashes = np.empty(len(ids), np.uint64)
    for component in components(spec):
        first = np.uint64(component.first)
        rows = np.flatnonzero((ids >= first) & (ids < first + np.uint64(component.rows)))
        if rows.size:
            family = component.family(spec)
            hashes[rows] = family.canonical(family.problems(ids.take(rows) - first))
    return hashes


def first_splits(spec: CorpusSpec, rows: int) -> set[str]:
    """The splits of the components' first rows, of about `rows` rows in total; stops when all kept splits occur."""
    found: set[str] = set()
    for component in components(spec):
        task = RangeTask(0, component, 0, min(component.rows, max(1, rows * component.rows // spec.total_rows)))
        for _, _, splits in _blocks(spec, task):
            found |= {SPLITS[split] for split in np.unique(splits)}
            if found.issuperset(spec.kept_splits):
                return found
    return found


def _order(stratum: Stratum) -> tuple[int, int]:
    return SPLITS.index(stratum.split), stratum.width


def _longest(table: pa.Table) -> tuple[int, int]:
    """Characters of the longest problem, and digits of the longest answer."""
    lengths = pc.max(pc.binary_length(table.column("problem")))
    return lengths.as_py(), pc.max(table.column("answer_digits")).as_py()


def _row_groups(spec: CorpusSpec, task: RangeTask) -> Groups:
    """Yields the row groups of each stratum when they are full, and the remaining rows at the end."""
    family = task.component.family(spec)
    waiting: dict[Stratum, list[tuple[UInt64s, Block]]] = {}
    tables: dict[Stratum, list[pa.Table]] = {}

    def build(stratum: Stratum) -> None:
        """Turns the waiting rows of a stratum into a table."""
        ids = np.concatenate([part for part, _ in waiting[stratum]])
        table = family.table(ids, Block.concatenate([part for _, part in waiting[stratum]]))
        tables.setdefault(stratum, []).append(table)
        waiting[stratum].clear()

    def rows(parts: list[tuple[UInt64s, Block]]) -> int:
        """Number of waiting rows."""
        return sum(len(ids) for ids, _ in parts)

    def full(group: list[pa.Table]) -> bool:
        """Whether another block would make the row group too large."""
        size = sum(table.num_rows for table in group)
        return size + block // 2 >= _GROUP_ROWS or sum(table.nbytes for table in group) >= _GROUP_BYTES

    block = family.block_rows
    for ids, problems, splits in _blocks(spec, task):
        for stratum, chosen in _strata(family, problems, splits, task.component.problems.family):
            if stratum.split not in spec.kept_splits:
                continue
            waiting.setdefault(stratum, []).append((ids.take(chosen), problems.take(chosen)))
            if rows(waiting[stratum]) >= block // 2:
                build(stratum)
                if full(tables[stratum]):
                    yield stratum, pa.concat_tables(tables[stratum])
                    tables[stratum].clear()
    for stratum in sorted(waiting, key=_order):
        if rows(waiting[stratum]):
            build(stratum)
        if tables[stratum]:
            yield stratum, pa.concat_tables(tables[stratum])


def _strata(
    family: Family, problems: Block, splits: NDArray[np.uint8], name: str
) -> Iterator[tuple[Stratum, NDArray[np.intp]]]:
    """Yields the rows of a block by stratum."""
    lengths = family.text_lengths(problems)
    # Split and width class combine to one small number per row.
    classes = _CLASS_OF_LENGTH[lengths] * np.uint8(len(SPLITS)) + splits
    for number in np.flatnonzero(np.bincount(classes)):
        width, split = divmod(int(number), len(SPLITS))
        yield Stratum(SPLITS[split], name, int(WIDTHS[width])), np.flatnonzero(classes == number)


def _blocks(spec: CorpusSpec, task: RangeTask) -> Iterator[tuple[UInt64s, Block, NDArray[np.uint8]]]:
    family = task.component.family(spec)
    offset = np.uint64(task.component.first)
    for first in range(task.first, task.first + task.rows, family.block_rows):
        positions = np.arange(first, min(first + family.block_rows, task.first + task.rows), dtype=np.uint64)
        problems = family.problems(positions)
        splits = splits_of(family.canonical(problems), spec.split_key, spec.validation, spec.test)
        yield positions + offset, problems, splits
