"""The figure of errors on validation during a training, by what makes problems hard."""

import duckdb
from matplotlib.axes import Axes

from flows.reports.figures import LINES, svg

_LABELS = {"column_total": "largest column total", "carry_bound": "bound of carries", "depth": "depth of brackets"}
# Values in one figure, as ranges with about equally many problems.
_RANGES = len(LINES)


def validation_figure(connection: duckdb.DuckDBPyConnection, run: str) -> str:
    """Share of wrong validation problems by step for ranges of each difficulty, as SVG; empty if there are none."""
    rows = connection.execute(
        "WITH of_run AS (SELECT * FROM validation_errors WHERE run = $run), "
        "sizes AS (SELECT difficulty, value, any_value(problems) AS problems FROM of_run GROUP BY ALL), "
        "ranges AS (SELECT difficulty, value, (sum(problems) OVER (PARTITION BY difficulty ORDER BY value) - 1) "
        "* $ranges // sum(problems) OVER (PARTITION BY difficulty) AS range FROM sizes), "
        "shares AS (SELECT difficulty, range, step, min(value) AS low, max(value) AS high, sum(wrong) AS wrong, "
        "sum(problems) AS problems FROM of_run JOIN ranges USING (difficulty, value) GROUP BY ALL) "
        "SELECT difficulty, low, high, list(step ORDER BY step), "
        # No error is drawn as half of one, since the axis is logarithmic.
        "list(100 * greatest(wrong, 0.5) / problems ORDER BY step) FROM shares GROUP BY ALL ORDER BY ALL",
        {"run": run, "ranges": _RANGES},
    ).fetchall()
    names = sorted({name for name, *_ in rows})
    if not names:
        return ""

    # At least one power of ten is a labelled tick.
    limits = (min(8.0, *(min(shares) / 1.5 for *_, shares in rows)), 130.0)

    def draw(*panels: Axes) -> None:
        for name, axes in zip(names, panels, strict=True):
            lines = [(low, high, steps, shares) for of, low, high, steps, shares in rows if of == name]
            for (low, high, steps, shares), color in zip(lines, LINES, strict=False):
                axes.plot(steps, shares, color=color, label=str(low) if low == high else f"{low} to {high}")
            axes.set(xlabel="step", yscale="log", ylim=limits, title=_LABELS.get(name, name))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
            axes.legend(frameon=False, fontsize=8)
        panels[0].set_ylabel("wrong on validation, %")

    return svg(draw, "Errors on validation against training steps", axes=len(names))
