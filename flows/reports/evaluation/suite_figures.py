"""Figures of the suites: exact match over the lengths of both operands, and over kinds of edge cases and lengths."""

from typing import NamedTuple

import duckdb
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from flows.reports.figures import SECOND, heat, svg

# Longer lengths are drawn in ranges, so that a cell has enough problems and a figure not too many cells.
_MOST_CELLS = 20


class Cell(NamedTuple):
    """The problems of one colour in a figure."""

    row: int
    column: int
    problems: int
    correct: int


def step_of(longest: int) -> int:
    """How many lengths a cell spans."""
    return -(-longest // _MOST_CELLS)


def grid_cells(connection: duckdb.DuckDBPyConnection, operator: str, step: int) -> list[Cell]:
    """Of the table `asked` the problems with an operator, by the lengths of the second and of the first operand.

    A cell spans `step` lengths of each and counts from 0.
    """
    rows = connection.execute(
        # Asked for an operand, 12+?=30, a problem has its answer behind it and the operand is what was to be found.
        "WITH whole AS (SELECT correct, replace(split_part(problem, '=', 1), '?', answer) AS problem FROM asked "
        "WHERE operators = $operator) "
        "SELECT (length(regexp_extract(problem, '[0-9]+$')) - 1) // $step AS second, "
        "(length(regexp_extract(problem, '^[0-9]+')) - 1) // $step AS first, count(*), sum(correct::INT)::BIGINT "
        "FROM whole GROUP BY ALL ORDER BY ALL",
        {"step": step, "operator": operator},
    ).fetchall()
    return [Cell(*row) for row in rows]


def kind_cells(connection: duckdb.DuckDBPyConnection, kinds: list[str], step: int) -> list[Cell]:
    """Of the table `asked` the problems by kind, numbered as in `kinds`, and by the longer operand's length."""
    rows = connection.execute(
        "SELECT list_position($kinds, kind) - 1 AS kind, (digits - 1) // $step AS length, count(*), "
        "sum(correct::INT)::BIGINT FROM asked GROUP BY ALL ORDER BY ALL",
        {"kinds": kinds, "step": step},
    ).fetchall()
    return [Cell(*row) for row in rows]


def grid_figure(connection: duckdb.DuckDBPyConnection, learnt: dict[str, int]) -> str:
    """A heat map for each operator over the lengths of both operands; `learnt` lengths stand in a frame."""
    longest = _longest(connection)
    step = step_of(longest)

    def draw(*axes: Axes) -> None:
        """A map beside the other."""
        for each, (operator, most) in zip(axes, learnt.items(), strict=True):
            cells = _matrix(grid_cells(connection, operator, step), -(-longest // step), -(-longest // step))
            heat(each, cells, step, square=True)
            each.add_patch(Rectangle((0.5, 0.5), most, most, fill=False, edgecolor=SECOND, linewidth=1.5))
            each.set(xlabel=f"digits before the {operator}", ylabel="digits behind it", aspect="equal")

    height = 5.0 if len(learnt) == 1 else 3.2
    return svg(draw, "Exact match by the lengths of both operands", axes=len(learnt), height=height)


def edge_figure(connection: duckdb.DuckDBPyConnection, kinds: list[str]) -> str:
    """A heat map of kinds of edge cases over lengths."""
    longest = _longest(connection)
    step = step_of(longest)

    def draw(axes: Axes) -> None:
        """A line of cells for each kind."""
        cells = _matrix(kind_cells(connection, kinds, step), len(kinds), -(-longest // step))
        heat(axes, cells, step, square=False)
        axes.set(xlabel="digits of the longest operand", yticks=range(len(kinds)), yticklabels=kinds)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(draw, "Exact match by kind of edge case and length")


def _longest(connection: duckdb.DuckDBPyConnection) -> int:
    found = connection.execute("SELECT max(digits) FROM asked").fetchone()
    assert found is not None
    return int(found[0])


def _matrix(cells: list[Cell], rows: int, columns: int) -> NDArray[np.float64]:
    """Exact match in percent, [rows, columns]; nan where no problem is."""
    matches = np.full((rows, columns), np.nan)
    for cell in cells:
        matches[cell.row, cell.column] = 100 * cell.correct / cell.problems
    return matches
