"""The batches of one split: which rows of which width, in an order that any number of ranks shares."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.tokenizer import TokenLayout
from storage.lanes import LANES, LanePlan
from storage.manifest import Dataset, ShardRecord
from storage.order import derive_key
from storage.reader import BucketReader, ElasticReader


@dataclass(frozen=True)
class Batches:
    """Batches of a split, all rows of a batch of one layout."""

    layouts: tuple[TokenLayout, ...]
    reader: BucketReader

    @classmethod
    def of(cls, tokens: Dataset, split: str, batch_size: int, seed: int) -> "Batches":
        """Raises `UserError` where no layout has rows for a batch; layouts with fewer rows are left out."""
        buckets = _buckets(tokens, split, batch_size)
        readers = [_reader(tokens, layout, shards, batch_size, seed) for layout, shards in buckets.items()]
        return cls(tuple(buckets), BucketReader(tuple(readers)))

    @property
    def rows(self) -> int:
        """Rows of all its layouts."""
        return sum(sum(reader.plan.counts) for reader in self.reader.readers)

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass."""
        return self.reader.order.steps_per_epoch


def held_rows(
    tokens: Dataset, split: str, size: int, seed: int, *, rank: int = 0, ranks: int = 1
) -> list[tuple[TokenLayout, NDArray[np.uint8], int]]:
    """About `size` rows of a split, of each layout its share: this rank's rows [n, width], and how many all have.

    Raises `UserError` where no layout has 64 rows.
    """
    buckets = _buckets(tokens, split, LANES)
    total, found = sum(map(_rows, buckets.values())), []
    for layout, shards in buckets.items():
        share = max(1, round(size * _rows(shards) / max(1, total) / LANES))
        held = max(1, min(share, _rows(shards) // LANES)) * LANES
        batches = _reader(tokens, layout, shards, held, seed).batches(0, rank=rank, ranks=ranks)
        found.append((layout, next(batches).copy(), held))
        batches.close()
    return found


def layouts_of(tokens: Dataset) -> tuple[TokenLayout, ...]:
    """The layouts of a corpus's token rows, the narrowest first."""
    layouts = {TokenLayout(**layout) for layout in tokens.manifest.spec["layouts"].values()}
    return tuple(sorted(layouts, key=lambda layout: (layout.width, layout.problem)))


def _buckets(tokens: Dataset, split: str, least: int) -> dict[TokenLayout, list[ShardRecord]]:
    """The shards of a split by the layout of their rows, the narrowest first, where they hold `least` rows.

    Where no layout holds so many it is the one with the most rows.
    """
    by_stratum = {name: TokenLayout(**layout) for name, layout in tokens.manifest.spec["layouts"].items()}
    found: dict[TokenLayout, list[ShardRecord]] = {layout: [] for layout in layouts_of(tokens)}
    for shard in tokens.of_split(split):
        found[by_stratum[shard.stratum]].append(shard)
    largest = max(found, key=lambda layout: _rows(found[layout]))
    return {layout: shards for layout, shards in found.items() if _rows(shards) >= least or layout == largest}


def _rows(shards: list[ShardRecord]) -> int:
    return sum(shard.rows for shard in shards)


def _reader(
    tokens: Dataset, layout: TokenLayout, shards: list[ShardRecord], batch_size: int, seed: int
) -> ElasticReader:
    key = derive_key(seed, "rows", layout.problem, layout.answer)
    plan = LanePlan(tuple(shard.rows for shard in shards), batch_size, key)
    return ElasticReader(tuple(str(tokens.checked(shard)) for shard in shards), plan, layout.width)
