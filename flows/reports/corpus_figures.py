"""A picture of a corpus: how long its answers are, and how far carries run."""

import duckdb
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from flows.reports.drawing import INK, SECOND, svg


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
