"""Describes a corpus from a few of its rows before anything is written."""

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from pipelines.generation.build import corpus_bytes
from pipelines.generation.generate import range_tasks, sample_rows
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import SPLITS

_EXAMPLE_COLUMNS = ("split", "family", "problem", "answer")


@dataclass(frozen=True)
class Description:
    """Rows, columns, size and examples of a corpus that does not need to exist."""

    spec: CorpusSpec
    tasks: int
    bytes: int
    columns: dict[str, str]
    """Arrow type by column name; of all families together."""
    examples: list[dict[str, str]]
    """Split, family, text and answer of each problem."""

    @property
    def rows(self) -> int:
        """Rows of the corpus; with `only_test`, the average over split keys."""
        return sum(self.split_rows.values()) if self.spec.only_test else self.spec.total_rows

    @property
    def split_rows(self) -> dict[str, int]:
        """Rows per split, averaged over split keys."""
        held_out = {"validation": self.spec.validation, "test": self.spec.test}
        shares = {"train": 1 - sum(held_out.values()), **held_out}
        parts = zip(self.spec.parts, self.spec.part_rows, strict=True)
        listed = sum(count for part, count in parts if part.family == "listed")
        rows = {split: round((self.spec.total_rows - listed) * shares[split]) for split in SPLITS}
        rows["test"] += listed
        return {split: count if split in self.spec.kept_splits else 0 for split, count in rows.items()}


def describe(spec: CorpusSpec, examples: int = 10) -> Description:
    """Describes a corpus; the size is measured in memory on a block of each component."""
    columns = dict[str, str]()
    for component in components(spec):
        columns |= column_types(component.family(spec).layout.schema)
    columns |= {"split": "string", "family": "string", "width": "int64"}
    return Description(
        spec=spec,
        tasks=len(range_tasks(spec)),
        bytes=round(corpus_bytes(spec)),
        columns=columns,
        examples=first_problems(spec, examples),
    )


def first_problems(spec: CorpusSpec, examples: int) -> list[dict[str, str]]:
    """Split, family, text and answer of the first problems of each component, `examples` in total.

    With `only_test`, there can be fewer.
    """
    problems, parts = list[dict[str, str]](), components(spec)
    # Number of rows to search per kept row, with a margin for chance.
    scarcity = 1 + math.ceil(4 / spec.test) if spec.only_test else 1
    for number, component in enumerate(parts):
        wanted = (number + 1) * examples // len(parts) - number * examples // len(parts)
        table, splits = sample_rows(spec, component, max(1, wanted * scarcity))
        kept = np.flatnonzero(np.isin(splits, [SPLITS.index(split) for split in spec.kept_splits]))[:wanted]
        for row, split in zip(table.take(pa.array(kept)).to_pylist(), splits[kept], strict=True):
            values = {**row, "split": SPLITS[split], "family": component.problems.family}
            problems.append({name: values[name] for name in _EXAMPLE_COLUMNS})
    return problems


def column_types(schema: pa.Schema) -> dict[str, str]:
    """Arrow type by column name; dictionary-encoded text counts as text."""
    types = {field.name: field.type for field in schema}
    return {name: str(kind.value_type if pa.types.is_dictionary(kind) else kind) for name, kind in types.items()}
