"""A corpus on a page: sample problems, lengths of answers, and lengths of carry chains."""

from typing import Any, NamedTuple

import duckdb
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flows.reports.figures import INK, SECOND, svg
from storage.datasets.corpus import Corpus
from storage.datasets.manifest import Dataset
from storage.workspace import Workspace

# Number of rows for the figure, and of sample problems.
_DRAWN_ROWS, _SAMPLES = 100_000, 10


class Sample(NamedTuple):
    columns: list[str]
    rows: list[tuple[Any, ...]]
    """Sample problems, in these columns."""
    figure: str
    """Difficulty of the problems, as SVG."""


def sample_of(workspace: Workspace, dataset: Dataset, *requested: str) -> Sample:
    """A sample of the train split, or of the test split if there is no train split; `wanted` columns that exist."""
    relation = Corpus(workspace, dataset).relation("train" if dataset.manifest.split_rows["train"] else "test")
    columns = [column for column in requested if column in relation.columns]
    rows = relation.limit(_SAMPLES).select(", ".join(columns)).fetchall()
    return Sample(columns, rows, difficulty_figure(relation.limit(_DRAWN_ROWS)))


def difficulty_figure(problems: duckdb.DuckDBPyRelation) -> str:
    """Number of problems by digits of the answer and, if known, by the longest run of carries or the depth."""
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

    def draw(*panels: Axes) -> None:
        for axes, (_, label, color), rows in zip(panels, columns, counts, strict=True):
            axes.bar([row[0] for row in rows], [row[1] for row in rows], color=color)
            axes.set(xlabel=label, ylabel="problems")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(draw, "Problems by the length of their answers and by carries", axes=len(columns), height=2.6)
