"""Figures of the suites: exact match by the lengths of both operands, and by kind of edge case and length."""

from typing import NamedTuple

import duckdb
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from flows.reports.figures import SECOND, heat, svg

# Above this number, several lengths share a cell, so that it has enough problems and the figure not too many cells.
_MOST_CELLS = 20


class Cell(NamedTuple):
    """Number of problems and of correct predictions in one cell of a figure."""

    row: int
    column: int
    problems: int
    correct: int


def grid_cells(connection: duckdb.DuckDBPyConnection, operator: str, step: int) -> list[Cell]:
    """Problems of an operator in the table `scored`, by the lengths of the second (row) and the first (column) operand.

    A cell covers `step` lengths of each operand; rows and columns are numbered from 0.
    """
    rows = connection.execute(
        # If an operand is masked, as in 12+?=30, the problem contains its result, and `answer` is the operand.
        "WITH whole AS (SELECT correct, replace(split_part(problem, '=', 1), '?', answer) AS problem FROM scored "
        "WHERE operators = $operator) "
        "SELECT (length(regexp_extract(problem, '[0-9]+$')) - 1) // $step AS second, "
        "(length(regexp_extract(problem, '^-?([0-9]+)', 1)) - 1) // $step AS first, "
        "count(*), sum(correct::INT)::BIGINT "
        "FROM whole GROUP BY ALL ORDER BY ALL",
        {"step": step, "operator": operator},
    ).fetchall()
    return [Cell(*row) for row in rows]


def kind_cells(connection: duckdb.DuckDBPyConnection, kinds: list[str], step: int) -> list[Cell]:
    """Problems in the table `scored` by kind (row, as in `kinds`) and by the longest operand's length (column)."""
    rows = connection.execute(
        "SELECT list_position($kinds, kind) - 1 AS kind, (digits - 1) // $step AS length, count(*), "
        "sum(correct::INT)::BIGINT FROM scored GROUP BY ALL ORDER BY ALL",
        {"kinds": kinds, "step": step},
    ).fetchall()
    return [Cell(*row) for row in rows]


def grid_figure(connection: duckdb.DuckDBPyConnection, trained: dict[str, int]) -> str:
    """A heat map per operator over the lengths of both operands; a frame marks the lengths `trained`."""
    step, count = _scale(connection)

    def draw(*axes: Axes) -> None:
        for panel, (operator, most) in zip(axes, trained.items(), strict=True):
            cells = _matrix(grid_cells(connection, operator, step), count, count)
            heat(panel, cells, step, square=True)
            panel.add_patch(Rectangle((0.5, 0.5), most, most, fill=False, edgecolor=SECOND, linewidth=1.5))
            panel.set(xlabel=f"digits before the {operator}", ylabel="digits after it", aspect="equal")

    height = 5.0 if len(trained) == 1 else 3.2
    return svg(draw, "Exact match by the lengths of both operands", axes=len(trained), height=height)


def edge_figure(connection: duckdb.DuckDBPyConnection, kinds: list[str]) -> str:
    """A heat map of kinds of edge cases by length."""
    step, count = _scale(connection)

    def draw(axes: Axes) -> None:
        cells = _matrix(kind_cells(connection, kinds, step), len(kinds), count)
        heat(axes, cells, step, square=False)
        axes.set(xlabel="digits of the longest operand", yticks=range(len(kinds)), yticklabels=kinds)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))

    return svg(draw, "Exact match by kind of edge case and length")


def _scale(connection: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Number of lengths per cell, and number of cells up to the longest operand."""
    ((longest,),) = connection.execute("SELECT max(digits) FROM scored").fetchall()
    step = -(-longest // _MOST_CELLS)
    return step, -(-longest // step)


def _matrix(cells: list[Cell], rows: int, columns: int) -> NDArray[np.float64]:
    """Exact match in percent, [rows, columns]; nan for cells without problems."""
    matches = np.full((rows, columns), np.nan)
    for cell in cells:
        matches[cell.row, cell.column] = 100 * cell.correct / cell.problems
    return matches
