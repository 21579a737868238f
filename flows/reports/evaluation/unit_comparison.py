"""Comparison of encoders with and without a symbolic unit: a table and learning curves, from SQL views."""

from typing import NamedTuple

import duckdb
from markupsafe import Markup
from matplotlib.axes import Axes

from flows.reports.figures import INK, SECOND, svg
from flows.reports.pages import rendered
from model.comparison.tables import named, order_of

_COLORS = {"none": "#888888", "residue": INK, "primes": "#7fa8d8", "nalu": SECOND}
_LINES = ("-", ":", "--", "-.")


class Kind(NamedTuple):
    """Runs with the same encoder, unit and setting of the unit."""

    encoder: str
    unit: str
    applied: str
    runs: int

    @property
    def text(self) -> str:
        """Name of the unit and its setting."""
        return named(self.unit, self.applied)


def comparisons_of(connection: duckdb.DuckDBPyConnection, run: str) -> list[str]:
    """Names of the comparisons that include a run."""
    rows = connection.execute("SELECT DISTINCT comparison FROM comparisons WHERE run = ? ORDER BY 1", [run])
    return [name for (name,) in rows.fetchall()]


def compared(connection: duckdb.DuckDBPyConnection, comparison: str, run: str) -> Markup:
    """A comparison as HTML, for the page of one of its runs."""
    rows = connection.execute(
        "SELECT encoder, unit, applied, evaluation_corpus, operator, count(*), median(exact_match), min(exact_match), "
        "max(exact_match) FROM comparisons WHERE comparison = ? "
        "GROUP BY encoder, unit, applied, evaluation_corpus, operator "
        "ORDER BY encoder, unit != 'none', unit, applied DESC",
        [comparison],
    ).fetchall()
    lines: dict[Kind, dict[tuple[str, str], tuple[float, ...]]] = {}
    for encoder, unit, applied, evaluated, operator, runs, *spread in rows:
        lines.setdefault(Kind(encoder, unit, applied, runs), {})[evaluated, operator] = tuple(spread)
    columns = sorted({column for cells in lines.values() for column in cells}, key=lambda c: (c[0], order_of(c[1])))
    return rendered("units.html", own=run, columns=columns, lines=lines, curves=_curves(connection, comparison))


def _curves(connection: duckdb.DuckDBPyConnection, comparison: str) -> str:
    """Median exact match over seeds by number of training problems, for each operator, as SVG."""
    points = connection.execute(
        "SELECT operator, encoder, unit, problems_seen, 100 * median(exact_match) FROM comparison_curves "
        "WHERE comparison = ? GROUP BY ALL ORDER BY ALL",
        [comparison],
    ).fetchall()
    if not points:
        return ""
    operators = sorted({operator for operator, *_ in points}, key=order_of)
    encoders = sorted({encoder for _, encoder, *_ in points})
    pairs = sorted({(encoder, unit) for _, encoder, unit, *_ in points}, key=lambda kind: (kind[1] != "none", kind))

    def draw(*axes: Axes) -> None:
        for panel, operator in zip(axes, operators, strict=True):
            for encoder, unit in pairs:
                points_of_kind = [point[3:] for point in points if point[:3] == (operator, encoder, unit)]
                if points_of_kind:
                    panel.plot(
                        *zip(*points_of_kind, strict=True),
                        color=_COLORS.get(unit, INK),
                        linestyle=_LINES[encoders.index(encoder) % len(_LINES)],
                        label=f"{encoder}, {named(unit, 'on')}",
                    )
            panel.set(xscale="log", ylim=(-3, 103), title=operator.replace("*", "×"), xlabel="problems seen")
            if panel is not axes[0]:
                panel.set_yticklabels([])
        axes[0].set_ylabel("exact match, %")
        figure = axes[0].get_figure()
        assert figure is not None
        handles, labels = max((panel.get_legend_handles_labels() for panel in axes), key=lambda rows: len(rows[1]))
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=7)

    return svg(draw, "Exact match against problems seen, by kind of problem", axes=len(operators), height=3.2)
