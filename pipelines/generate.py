"""From a spec to shards: each range of the permuted order becomes one shard a split, anywhere, in any order.

A shard's bytes follow from (spec, range) alone, so a crash costs only the ranges that were
not finished, and they come out the same on any machine.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.families.grid import STRATUM, Grid, Problems
from pipelines.spec import CorpusSpec
from pipelines.split import split_numbers
from storage.location import Location
from storage.manifest import SPLITS, ShardRecord
from storage.order import Permutation, UInt64s, derive_key
from storage.shard import Shard, open_shard

GENERATOR_VERSION = 1

# A block's arrays fit the cache; two blocks make a row group, which queries read faster.
_BLOCK = 1 << 16
_ROW_GROUP = 1 << 17


@dataclass(frozen=True)
class RangeTask:
    """Rows [first, first + rows) of the permuted order, as one unit of work."""

    number: int
    first: int
    rows: int

    @property
    def paths(self) -> list[str]:
        """The shards that this task may write, in the manifest's order."""
        return [self.shard_path(split) for split in SPLITS]

    def shard_path(self, split: str) -> str:
        """Where this range's shard of one split lies below the corpus."""
        return f"data/split={split}/{STRATUM}-{self.number:06d}.parquet"


def range_tasks(spec: CorpusSpec) -> list[RangeTask]:
    """The corpus as tasks of `rows_per_shard` rows, the last one shorter."""
    total, step = spec.total_rows, spec.rows_per_shard
    return [RangeTask(number, first, min(step, total - first)) for number, first in enumerate(range(0, total, step))]


def generate_range(spec: CorpusSpec, folder: Location, task: RangeTask) -> list[ShardRecord]:
    """Write the shards of one range below `folder`; a split without rows there has no shard."""
    pa.set_cpu_count(1)
    grid = Grid(spec)
    with ExitStack() as stack:
        shards: dict[int, Shard] = {}
        for split, table in _row_groups(grid, task):
            if split not in shards:
                name = SPLITS[split]
                shards[split] = stack.enter_context(
                    open_shard(folder, task.shard_path(name), split=name, stratum=STRATUM, layout=grid.layout)
                )
            shards[split].writer.write(table)
    return [shards[split].record for split in sorted(shards)]


def regenerate(spec: CorpusSpec, ids: UInt64s) -> tuple[Grid, Problems]:
    """The problems at positions `ids` [n] of the permuted order, computed anew from the spec."""
    grid = Grid(spec)
    return grid, grid.problems(_permutation(spec)(ids))


def canonical_hashes(spec: CorpusSpec, ids: UInt64s) -> UInt64s:
    """Hashes of the canonical classes of rows `ids`, uint64 [n]; equal for orders of one problem."""
    grid, problems = regenerate(spec, ids)
    return grid.canonical(problems)


def _permutation(spec: CorpusSpec) -> Permutation:
    return Permutation(spec.size, derive_key(spec.seed, "row order"))


def _row_groups(grid: Grid, task: RangeTask) -> Iterator[tuple[int, pa.Table]]:
    """Row groups of each split as they fill up, and what is left at the end."""
    waiting: list[list[tuple[UInt64s, Problems]]] = [[] for _ in SPLITS]
    tables: list[list[pa.Table]] = [[] for _ in SPLITS]

    def build(split: int) -> None:
        ids = np.concatenate([part for part, _ in waiting[split]])
        tables[split].append(grid.table(ids, Problems.concatenate([part for _, part in waiting[split]])))
        waiting[split].clear()

    def rows(parts: list[tuple[UInt64s, Problems]]) -> int:
        return sum(len(ids) for ids, _ in parts)

    for ids, problems, splits in _blocks(grid, task):
        for split in range(len(SPLITS)):
            chosen = np.flatnonzero(splits == split)
            waiting[split].append((ids.take(chosen), problems.take(chosen)))
            if rows(waiting[split]) >= _BLOCK // 2:
                build(split)
            if sum(table.num_rows for table in tables[split]) >= _ROW_GROUP - _BLOCK // 2:
                yield split, pa.concat_tables(tables[split])
                tables[split].clear()
    for split in range(len(SPLITS)):
        if rows(waiting[split]):
            build(split)
        if tables[split]:
            yield split, pa.concat_tables(tables[split])


def _blocks(grid: Grid, task: RangeTask) -> Iterator[tuple[UInt64s, Problems, np.ndarray]]:
    permutation = _permutation(grid.spec)
    for first in range(task.first, task.first + task.rows, _BLOCK):
        ids = np.arange(first, min(first + _BLOCK, task.first + task.rows), dtype=np.uint64)
        problems = grid.problems(permutation(ids))
        splits = split_numbers(grid.canonical(problems), grid.spec.validation, grid.spec.test)
        yield ids, problems, splits
