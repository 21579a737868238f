"""A corpus as pages show it: some of its problems, how long its answers are, and how far carries run."""

from typing import Any, NamedTuple

import duckdb
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flows.reports.figures import INK, SECOND, svg
from storage.datasets.corpus import Corpus
from storage.datasets.manifest import Dataset
from storage.workspace import Workspace

# Of a corpus, for its picture, and of its problems, for a reader.
_DRAWN_ROWS, _SAMPLES = 100_000, 10


class Sample(NamedTuple):
    """A corpus as a page shows it."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    """Some of its problems, in these columns."""
    figure: str
    """How hard they are, as SVG."""


def sample_of(workspace: Workspace, dataset: Dataset, *wanted: str) -> Sample:
    """Problems of a corpus's train split, or where it has none of its test split; of the `wanted` columns its own."""
    relation = Corpus(workspace, dataset).relation("train" if dataset.manifest.split_rows["train"] else "test")
    columns = [column for column in wanted if column in relation.columns]
    rows = relation.limit(_SAMPLES).select(", ".join(columns)).fetchall()
    return Sample(columns, rows, difficulty_figure(relation.limit(_DRAWN_ROWS)))


def difficulty_figure(problems: duckdb.DuckDBPyRelation) -> str:
    """Problems of a relation by the digits of their answers and, where they are known, by their longest carries."""
    columns = [
        (name, label, color)
        for name, label, color in (
            ("answer_digits", "digits of the answer", INK),
            ("carries", "longest run of carries", SECOND),
            ("depth", "nested brackets", SECOND),
        )
        if name in problems.columns and problems.filter(f"{name} IS NOT NULL").limit(1).fetchall()
    ][:2]
    counts = [
        problems.filter(f"{name} IS NOT NULL").aggregate(f"{name}, count(*)", name).order("1").fetchall()
        for name, _, _ in columns
    ]

    def draw(*found: Axes) -> None:
        """Bars for each column."""
        for axes, (_, label, color), rows in zip(found, columns, counts, strict=True):
            axes.bar([row[0] for row in rows], [row[1] for row in rows], color=color)
            axes.set(xlabel=label, ylabel="problems")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(draw, "Problems by the length of their answers and by carries", axes=len(columns), height=2.6)
