"""Writes the result of a SELECT on the workspace: as a table for people, or as CSV, JSON or Parquet for programs.

Only tables are cut. Other formats are streamed in batches, and an output file is complete or not written at all.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv
from rich import box
from rich.console import Console
from rich.table import Table

from flows.cli.terminal import PrintableSink, printable
from storage.errors import UserError
from storage.places.disk import LocalLocation, local_path
from storage.sql.memory import bounded_memory
from storage.sql.query import fetched, open_catalog, select, stream
from storage.workspace import Workspace

Format = Literal["table", "csv", "json", "parquet"]

_MOST_ROWS = 10_000
_JSON_ROWS = 1 << 13
_DATA = ("corpora", "tokenizers", "runs", "comparisons")


def answer(workspace: Workspace, query: str, form: Format = "table", output: str = "") -> None:
    """Write the rows of one SELECT to the file `output`, or to standard output if it is empty.

    Raises `UserError` for any other SQL, for columns that the format cannot represent, for an output file that is not
    writable or inside the workspace's data, and for a missing workspace.
    """
    if not workspace.root.exists():
        raise UserError(
            f"workspace {workspace.root} does not exist: 'numerate run' creates it, --workspace chooses another"
        )
    if form == "parquet" and not output and sys.stdout.isatty():
        raise UserError("Parquet cannot be printed to a terminal: use --output, or redirect standard output")
    target, root = _resolved(output), workspace.on_disk.path.resolve()
    if output and any(target.is_relative_to(root / folder) for folder in (*_DATA, workspace.catalog.name)):
        raise UserError(f"output {output!r} is inside the workspace's own data: choose a file elsewhere")
    with open_catalog(workspace) as connection, bounded_memory():
        _WRITERS[form](connection, select(connection, query), output)


def _write_table(connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, output: str) -> None:
    rows = fetched(connection, relation, _MOST_ROWS + 1)
    on_terminal = not output and sys.stdout.isatty()
    text = io.StringIO()
    # Values are shown literally: brackets and colons in them are not markup.
    console = Console(
        file=text,
        width=None if on_terminal else 10_000,
        force_terminal=on_terminal,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(_table(relation.columns, rows[:_MOST_ROWS]))
    with _sink(output) as sink:
        sink.write(text.getvalue().encode())
    if len(rows) > _MOST_ROWS:
        print(
            f"the first {_MOST_ROWS:,} rows; use another --format for all rows, or LIMIT or aggregate",
            file=sys.stderr,
        )


def _table(names: list[str], rows: list[tuple[Any, ...]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(names):
        numeric = bool(rows) and isinstance(rows[0][number], int | float) and not isinstance(rows[0][number], bool)
        table.add_column(printable(name), justify="right" if numeric else "left", no_wrap=True)
    for row in rows:
        table.add_row(*("" if value is None else printable(str(value)) for value in row))
    return table


def _write_json(connection: duckdb.DuckDBPyConnection, relation: duckdb.DuckDBPyRelation, output: str) -> None:
    """A JSON array with one object per line. DuckDB formats it, a dozen times as fast as Python."""
    rows = relation.set_alias("numerate_row").project("to_json(numerate_row)::VARCHAR AS text")
    _, batches = stream(connection, rows, _JSON_ROWS)
    with _sink(output) as sink:
        sink.write(b"[")
        separator = ""
        for batch in batches:
            lines = ",\n".join(map(_standard_json, batch.column(0).to_pylist()))
            sink.write((separator + lines).encode())
            separator = ",\n"
        sink.write(b"]\n")


def _standard_json(row: str) -> str:
    """The row with null instead of NaN and Infinity, which DuckDB writes but JSON does not have."""
    if "NaN" not in row and "Infinity" not in row:
        return row
    return json.dumps(json.loads(row, parse_constant=lambda name: None), ensure_ascii=False)


def _write_batches(
    form: str,
    impossible: Callable[[pa.DataType], bool],
    writer: Callable[[BinaryIO, pa.Schema], Any],
    connection: duckdb.DuckDBPyConnection,
    relation: duckdb.DuckDBPyRelation,
    output: str,
) -> None:
    """Write all rows in a format of Arrow; raises `UserError` for a column whose type is `impossible` in it."""
    schema, batches = stream(connection, relation)
    for column, kind, arrow in zip(relation.columns, relation.types, schema.types, strict=True):
        if impossible(arrow):
            raise UserError(f"column {column!r} is {kind}, which {form} cannot store: cast it, as in {column}::VARCHAR")
    with _sink(output) as sink, writer(sink, schema) as target:
        for batch in batches:
            target.write_batch(batch)


def _not_in_csv(kind: pa.DataType) -> bool:
    return pa.types.is_nested(kind) or pa.types.is_interval(kind) or pa.types.is_binary(kind)


def _not_in_parquet(kind: pa.DataType) -> bool:
    nested = [kind.field(number).type for number in range(kind.num_fields)]
    return pa.types.is_union(kind) or pa.types.is_interval(kind) or any(map(_not_in_parquet, nested))


_WRITERS: dict[Format, Callable[[duckdb.DuckDBPyConnection, duckdb.DuckDBPyRelation, str], None]] = {
    "table": _write_table,
    "csv": partial(_write_batches, "CSV", _not_in_csv, csv.CSVWriter),
    "json": _write_json,
    "parquet": partial(_write_batches, "Parquet", _not_in_parquet, partial(pq.ParquetWriter, compression="zstd")),
}


@contextmanager
def _sink(output: str) -> Iterator[BinaryIO]:
    """Standard output, or a file that gets its name only when it is complete."""
    if not output:
        # Any value may contain control characters for the terminal.
        yield cast(BinaryIO, PrintableSink(sys.stdout.buffer)) if sys.stdout.isatty() else sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = local_path(output, "output")
    try:
        if path.is_relative_to("/dev") or (path.exists() and not path.is_file() and not path.is_dir()):
            # A device or a named pipe is written directly, not replaced; /dev/stdout may lead to a plain file.
            with path.open("wb") as file:
                yield file
            return
        with _writable(path).staged() as temporary, temporary.open("wb") as file:
            yield file
    except OSError as error:
        raise UserError(f"output {output!r} cannot be written ({error.strerror}): choose another file") from error


def _resolved(output: str) -> Path:
    """The path with all links resolved; raises `UserError` for a cycle of links."""
    try:
        return local_path(output, "output").resolve()
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"output {output!r} cannot be written (its symbolic links form a cycle): choose another file"
        ) from error


def _writable(path: Path) -> LocalLocation:
    """The output file with links resolved; raises `UserError` for a folder, a missing parent, or a protected file."""
    if path.is_dir():
        raise UserError(f"output {str(path)!r} is a folder: choose a file in it")
    target = path.resolve()
    if not target.parent.is_dir():
        raise UserError(f"output {str(path)!r} cannot be written: folder {str(target.parent)!r} is missing, create it")
    if target.exists() and not os.access(target, os.W_OK):
        raise UserError(f"output {str(path)!r} cannot be written (it is write-protected): choose another file")
    return LocalLocation(target)
