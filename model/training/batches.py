"""The batches of one split, in an order that does not depend on the number of ranks.

All rows of a batch have the same layout.
"""

from collections.abc import Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.config.training import TrainingSpec
from model.tokenizer import ID_TYPES, TokenLayout
from storage.datasets.arrow_buffers import string_buffers
from storage.datasets.manifest import Dataset
from storage.order import derive_key
from storage.reading.lanes import LANES, LanePlan
from storage.reading.reader import BucketReader, ElasticReader, StratifiedReader
from storage.reading.subset import KeptRows, gathered_rows, kept_rows

# Folder inside the token dataset that caches the rows each predicate keeps.
_SUBSETS = ".subsets"
# Below this share of the rows, nobody has to do anything about what is left out.
_FEW = 0.01


class _Piece(NamedTuple):
    path: str
    rows: int
    """Number of rows that are read from the shard."""
    kept: KeptRows | None


class Rare(NamedTuple):
    """Problems that are oversampled."""

    predicate: str
    """SQL predicate over the corpus's columns."""
    share: float
    """Share of each batch that these problems fill."""


@dataclass(frozen=True)
class Batches:
    """Batches of a split; all rows of a batch have one layout."""

    layouts: tuple[TokenLayout, ...]
    reader: BucketReader
    left_out: str = ""
    """Description of the rows that no batch contains; empty if every layout is used."""

    @classmethod
    def of(
        cls, tokens: Dataset, split: str, batch_size: int, seed: int, where: str = "", rare: Rare | None = None
    ) -> "Batches":
        """Batches of the rows that match the SQL predicate `where` (empty: all rows), with `rare` rows in every batch.

        Layouts with fewer rows than a batch are left out. Raises `UserError` if no layout has enough rows for a batch.
        """
        selection = _Selection(tokens, split, seed, where)
        buckets = selection.buckets(batch_size)
        readers = []
        for layout in buckets:
            extra = rare and selection.rare_reader(layout, batch_size, rare)
            reader = selection.reader(layout, batch_size - (extra.plan.batch_size if extra else 0))
            readers.append(StratifiedReader(reader, extra) if extra else reader)
        return cls(tuple(buckets), BucketReader(tuple(readers)), selection.left_out(buckets, batch_size))

    @property
    def steps_per_epoch(self) -> int:
        """Batches in one pass over the split."""
        return self.reader.order.steps_per_epoch


@dataclass(frozen=True)
class Stage:
    """The batches of the steps from step `first` onwards."""

    first: int
    batches: Batches


def stages_of(tokens: Dataset, spec: TrainingSpec, oversampled: str = "") -> list[Stage]:
    """The stages of a training: the curriculum, then one stage for the remaining steps.

    Problems that match the SQL predicate `oversampled` fill `spec.oversample_share` of every batch.
    """
    rare = Rare(oversampled, spec.oversample_share) if oversampled else None
    stages, first = [], 0
    for where, steps in [*((stage.where, stage.steps) for stage in spec.curriculum), (spec.where, 0)]:
        stages.append(Stage(first, Batches.of(tokens, "train", spec.batch_size, spec.seed, where, rare)))
        first += steps
    return stages


def batches_from(
    stages: list[Stage], step: int, *, rank: int = 0, ranks: int = 1
) -> Iterator[tuple[Stage, int, NDArray[np.integer]]]:
    """Yields the stage, the index of the layout in it, and this rank's rows, for batch `step` and all later ones."""
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        if following and step >= following.first:
            continue
        with closing(stage.batches.reader.batches(step - stage.first, rank=rank, ranks=ranks)) as batches:
            while not following or step < following.first:
                yield stage, *next(batches)
                step += 1


def held_rows(
    tokens: Dataset, split: str, size: int, seed: int, where: str = "", *, rank: int = 0, ranks: int = 1
) -> list[tuple[TokenLayout, NDArray[np.integer], int]]:
    """About `size` rows of a split, in proportion to the rows of each layout.

    Returns for each layout this rank's rows [n, width] and the number of rows of all ranks together. Raises
    `UserError` if no layout has 64 rows.
    """
    selection = _Selection(tokens, split, seed, where)
    buckets = selection.buckets(LANES)
    total, parts = sum(buckets.values()), []
    for layout, rows in buckets.items():
        share = max(1, round(size * rows / max(1, total) / LANES))
        number = max(1, min(share, rows // LANES)) * LANES
        batches = selection.reader(layout, number).batches(0, rank=rank, ranks=ranks)
        parts.append((layout, next(batches).copy(), number))
        batches.close()
    return parts


def layouts_of(tokens: Dataset) -> tuple[TokenLayout, ...]:
    """The layouts of a corpus's token rows, narrowest first."""
    layouts = {TokenLayout(**layout) for layout in tokens.manifest.spec["layouts"].values()}
    return tuple(sorted(layouts, key=lambda layout: (layout.width, layout.problem)))


def id_type(tokens: Dataset) -> np.dtype:
    """Data type of the ids in a corpus's token rows."""
    return ID_TYPES[tokens.manifest.spec.get("token_bytes", 1)]


def token_rows(tokens: pa.Array, dataset: Dataset) -> NDArray[np.integer]:
    """Token ids [n, width] of the values of the column `tokens`, which have one layout."""
    data, _ = string_buffers(tokens.cast(pa.binary()))
    return data.reshape(len(tokens), -1).view(id_type(dataset))


@dataclass(frozen=True)
class _Selection:
    """The rows of a split that match a predicate, in an order drawn from a seed."""

    tokens: Dataset
    split: str
    seed: int
    where: str

    @cached_property
    def pieces(self) -> dict[TokenLayout, list[_Piece]]:
        """The shards of the split, grouped by layout, narrowest layout first."""
        tokens, shards = self.tokens, self.tokens.of_split(self.split)
        by_stratum = {name: TokenLayout(**layout) for name, layout in tokens.manifest.spec["layouts"].items()}
        pieces: dict[TokenLayout, list[_Piece]] = {layout: [] for layout in layouts_of(tokens)}
        kept = kept_rows(tokens, shards, self.where, tokens.location / _SUBSETS) if self.where else {}
        for shard, path in zip(shards, tokens.paths_of(shards), strict=True):
            rows = kept.get(shard.path)
            pieces[by_stratum[shard.stratum]].append(_Piece(path, rows.rows if rows else shard.rows, rows))
        return pieces

    @cached_property
    def rows(self) -> dict[TokenLayout, int]:
        """Number of rows of each layout."""
        return {layout: sum(piece.rows for piece in pieces) for layout, pieces in self.pieces.items()}

    def buckets(self, least: int) -> dict[TokenLayout, int]:
        """The layouts with at least `least` rows; if there are none, the layout with the most rows."""
        largest = max(self.rows, key=lambda layout: self.rows[layout])
        return {layout: rows for layout, rows in self.rows.items() if rows >= least or layout == largest}

    def left_out(self, kept: Collection[TokenLayout], least: int) -> str:
        """Description of the rows of all other layouts; empty if they have none."""
        missing = {layout: rows for layout, rows in self.rows.items() if layout not in kept and rows}
        if not missing:
            return ""
        left, total = sum(missing.values()), sum(self.rows.values())
        part = f" where {self.where}" if self.where else ""
        widths = ", ".join(f"{rows:,} rows of {layout.width} tokens" for layout, rows in missing.items())
        advice = f": {'lower batch_size or use' if least > LANES else 'use'} a larger corpus"
        return (
            f"{left:,} of {total:,} rows of {self.split}{part} are left out: {widths}; a batch needs {least:,} rows of "
            f"one width{advice if left >= _FEW * total else ''}"
        )

    def reader(self, layout: TokenLayout, batch_size: int) -> ElasticReader:
        """A reader of a layout's rows."""
        pieces = self.pieces[layout]
        key = derive_key(self.seed, "rows", layout.problem, layout.answer)
        plan = LanePlan(tuple(piece.rows for piece in pieces), batch_size, key)
        kept = tuple(piece.kept for piece in pieces if piece.kept)
        return self._reader(layout, tuple(piece.path for piece in pieces), plan, kept)

    def rare_reader(self, layout: TokenLayout, batch_size: int, rare: Rare) -> ElasticReader | None:
        """A reader of a layout's rare rows; None if they cannot fill their share of one batch."""
        tokens = self.tokens
        taken = max(1, min(round(rare.share * batch_size / LANES), batch_size // LANES - 1)) * LANES
        strata = {name for name, values in tokens.manifest.spec["layouts"].items() if TokenLayout(**values) == layout}
        shards = [shard for shard in tokens.of_split(self.split) if shard.stratum in strata]
        predicate = f"({rare.predicate}\n) AND ({self.where}\n)" if self.where else rare.predicate
        path, rows = gathered_rows(tokens, shards, predicate, tokens.location / _SUBSETS, "tokens")
        if rows < taken or batch_size == LANES:
            return None
        key = derive_key(self.seed, "rare rows", layout.problem, layout.answer)
        return self._reader(layout, (str(path),), LanePlan((rows,), taken, key))

    def _reader(
        self, layout: TokenLayout, paths: tuple[str, ...], plan: LanePlan, kept: tuple[KeptRows, ...] = ()
    ) -> ElasticReader:
        kind = id_type(self.tokens)
        row_bytes = layout.width * kind.itemsize
        return ElasticReader(paths, plan, row_bytes, kept=kept, kind=kind, below=self.tokens.location)
