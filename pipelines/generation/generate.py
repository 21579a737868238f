"""Generates shards from a spec: each range of the permuted order becomes one shard per split and width.

A shard's bytes depend only on (spec, range), so ranges can be generated in any order on any machine. A crash costs only
unfinished ranges, which are then generated identically.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.problems.components import Component, components
from pipelines.problems.family import Block, Family
from pipelines.spec.corpus import CorpusSpec
from pipelines.split.reserved import splits_of
from storage.datasets.manifest import SPLITS, ShardRecord
from storage.datasets.shard import ContentHash, Shard, open_shard
from storage.order import UInt64s
from storage.places.place import Location

# The versions that last changed rows or splits of all families, and later those of single ones.
CHANGED_ALL = 5
_CHANGED = {"marks": 6}

# Classes of problem length in characters; each shard holds one of them and is in a folder of that name.
WIDTHS = np.array([1 << power for power in range(4, 15)])
_CLASS_OF_LENGTH = np.searchsorted(WIDTHS, np.arange(WIDTHS[-1] + 1)).astype(np.uint8)

# Maximum size of a row group in rows and in bytes: queries read smaller groups more slowly.
_GROUP_ROWS = 1 << 17
_GROUP_BYTES = 1 << 26


def generator_version(identity: Mapping[str, Any]) -> int:
    """The version that last changed rows of a corpus, from the identity of its spec.

    Corpora of other families stay valid when a version changes one family.
    """
    families = [part.get("family") for part in identity.get("mixture") or [identity]]
    return max(CHANGED_ALL, *(_CHANGED.get(family, 0) for family in families))


@dataclass(frozen=True)
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
    layout, shards = task.component.family(spec).layout, dict[Stratum, Shard]()
    with ExitStack() as stack:

        def write(stratum: Stratum, group: pa.Table) -> None:
            if stratum not in shards:
                path = stratum.path(task.number)
                shard = open_shard(
                    folder, path, split=stratum.split, stratum=stratum.name, layout=layout, former=former
                )
                shards[stratum] = stack.enter_context(shard)
            shards[stratum].write(group)

        sizes = _each_row_group(spec, task, write)
    return [shards[stratum].record._replace(**size._asdict()) for stratum, size in sizes.items()]


def contents_of_range(spec: CorpusSpec, task: RangeTask, *, former: bool = False) -> list[ShardRecord]:
    """The records that `generate_range` returns, computed without writing: `bytes` is 0 and `sha256` is empty."""
    schema = task.component.family(spec).layout.schema
    hashes = defaultdict[Stratum, ContentHash](lambda: ContentHash(schema, former=former))
    sizes = _each_row_group(spec, task, lambda stratum, group: hashes[stratum].update(group))
    return [
        ShardRecord(
            path=stratum.path(task.number),
            split=stratum.split,
            stratum=stratum.name,
            bytes=0,
            sha256="",
            content=hashes[stratum].hexdigest(),
            **size._asdict(),
        )
        for stratum, size in sizes.items()
    ]


def sample_rows(spec: CorpusSpec, component: Component, rows: int) -> tuple[pa.Table, NDArray[np.uint8]]:
    """The first rows of a component's permuted order, and their split numbers, uint8 [n]."""
    family = component.family(spec)
    task = RangeTask(0, component, 0, min(rows, component.rows))
    tables, splits = [], []
    for ids, problems, numbers in _blocks(spec, family, task):
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
        for _, _, splits in _blocks(spec, component.family(spec), task):
            found |= {SPLITS[split] for split in np.unique(splits)}
            if found.issuperset(spec.kept_splits):
                return found
    return found


def _order(stratum: Stratum) -> tuple[int, int]:
    return SPLITS.index(stratum.split), stratum.width


class _Size(NamedTuple):
    """Rows of a shard, characters of its longest problem, and digits of its longest answer."""

    rows: int = 0
    problem_length: int = 0
    answer_digits: int = 0


def _each_row_group(
    spec: CorpusSpec, task: RangeTask, write: Callable[[Stratum, pa.Table], None]
) -> dict[Stratum, _Size]:
    """Calls `write` with every row group of a range; returns the sizes of the shards in the manifest's order."""
    pa.set_cpu_count(1)
    sizes = defaultdict[Stratum, _Size](_Size)
    for stratum, group in _row_groups(spec, task):
        write(stratum, group)
        size = sizes[stratum]
        longest_problem = pc.max(pc.binary_length(group["problem"])).as_py()
        longest_answer = pc.max(group["answer_digits"]).as_py()
        sizes[stratum] = _Size(
            size.rows + group.num_rows,
            max(size.problem_length, longest_problem),
            max(size.answer_digits, longest_answer),
        )
    return {stratum: sizes[stratum] for stratum in sorted(sizes, key=_order)}


def _row_groups(spec: CorpusSpec, task: RangeTask) -> Iterator[tuple[Stratum, pa.Table]]:
    """Yields the row groups of each stratum when they are full, and the remaining rows at the end."""
    family = task.component.family(spec)
    waiting = defaultdict[Stratum, list[tuple[UInt64s, Block]]](list)
    tables = defaultdict[Stratum, list[pa.Table]](list)
    table_rows = family.block_rows // 2

    def build(stratum: Stratum) -> None:
        """Turns the waiting rows of a stratum into a table."""
        ids, blocks = zip(*waiting.pop(stratum), strict=True)
        tables[stratum].append(family.table(np.concatenate(ids), Block.concatenate(blocks)))

    def is_full(group: list[pa.Table]) -> bool:
        """Whether another table would make the row group too large."""
        rows = sum(table.num_rows for table in group)
        return rows + table_rows >= _GROUP_ROWS or sum(table.nbytes for table in group) >= _GROUP_BYTES

    for ids, problems, splits in _blocks(spec, family, task):
        for stratum, chosen in _strata(family, problems, splits, task.component.problems.family):
            if stratum.split not in spec.kept_splits:
                continue
            waiting[stratum].append((ids.take(chosen), problems.take(chosen)))
            if sum(len(part) for part, _ in waiting[stratum]) >= table_rows:
                build(stratum)
                if is_full(tables[stratum]):
                    yield stratum, pa.concat_tables(tables.pop(stratum))
    for stratum in sorted({*waiting, *tables}, key=_order):
        if stratum in waiting:
            build(stratum)
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


def _blocks(spec: CorpusSpec, family: Family, task: RangeTask) -> Iterator[tuple[UInt64s, Block, NDArray[np.uint8]]]:
    """Yields the ids, problems and split numbers of a range, block by block."""
    offset = np.uint64(task.component.first)
    for first in range(task.first, task.first + task.rows, family.block_rows):
        positions = np.arange(first, min(first + family.block_rows, task.first + task.rows), dtype=np.uint64)
        problems = family.problems(positions)
        splits = splits_of(family.canonical(problems), spec.split_key, spec.validation, spec.test)
        yield positions + offset, problems, splits
