"""Prints what a SELECT over the workspace gives: a table for people, JSON for machines."""

import json
import math
import sys
from datetime import date
from typing import Any

import duckdb
from rich import box
from rich.console import Console
from rich.table import Table

from storage.catalog import open_catalog, select
from storage.errors import RunFailure, UserError
from storage.location import Workspace

_MOST_ROWS = 10_000


def answer(workspace: Workspace, query: str, as_json: bool) -> None:
    """Print the rows of one SELECT; raises `UserError` for other SQL and where there is no workspace."""
    if not workspace.root.exists():
        raise UserError(f"workspace {workspace.root} is not there: make one with 'numerate run', or name another")
    with open_catalog(workspace) as connection:
        relation = select(connection, query)
        names = relation.columns
        try:
            rows = relation.limit(_MOST_ROWS + 1).fetchall()
        except (duckdb.IOException, duckdb.InvalidInputException) as error:
            text = " ".join(str(error).split())
            raise RunFailure(f"SQL: {text} (a file of the workspace may be damaged)") from error
        except duckdb.Error as error:
            raise UserError(f"SQL: {' '.join(str(error).split())}") from error
    more = len(rows) > _MOST_ROWS
    rows = rows[:_MOST_ROWS]
    if as_json:
        plain = [[None if isinstance(v, float) and not math.isfinite(v) else v for v in row] for row in rows]
        print(json.dumps([dict(zip(names, row, strict=True)) for row in plain], default=_plain))
    else:
        _print_table(names, rows)
    if more:
        print(f"the first {_MOST_ROWS:,} rows; LIMIT or aggregate for others", file=sys.stderr)


def _print_table(names: list[str], rows: list[tuple[Any, ...]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(names):
        numeric = bool(rows) and isinstance(rows[0][number], int | float) and not isinstance(rows[0][number], bool)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, highlight=False).print(table)


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else str(value)
