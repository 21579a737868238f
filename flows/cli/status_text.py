"""Prints the status of a workspace: tables on a terminal, plain columns elsewhere, and commands ready to copy."""

import io
import sys
from collections.abc import Collection, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.cli.terminal import printable
from flows.common.progress import human
from flows.diagnostics.status import Status
from storage.datasets.manifest import SPLITS

_EMPTY = (
    "empty workspace: 'numerate run quick' generates a corpus, trains an encoder on it and reports, in a minute or two"
)
_GOOD_STATES = ("complete", "trained", "trained elsewhere")


def print_status(status: Status) -> None:
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    free = "" if status.free_bytes is None else f": {human(status.free_bytes)}B free"
    console.print(f"workspace {status.workspace}{free}")
    if not any((status.corpora, status.tokenizers, status.runs, status.broken, status.at_work)):
        console.print(_EMPTY)
    for table in _tables(status):
        console.print()
        _print_table(console, table)
    for title, lines in (
        ("running now", status.at_work),
        ("flows", [f"{flow.name}: {flow.state} {flow.since}".strip() for flow in status.flows]),
    ):
        if lines:
            console.print(f"\n{title}")
            for line in lines:
                console.print(f"  {printable(line)}")
    if status.broken:
        console.print("\nproblems, and how to fix them", style="bold red")
        for fault in status.broken:
            # In a shared workspace, other people choose the names of folders.
            console.print(f"  {printable(fault.what)}: {printable(fault.text)}")
            if fault.remedy:
                console.print(f"    {printable(fault.remedy)}", style="bold")
    elif status.corpora or status.runs:
        console.print("\nno problems")


def _tables(status: Status) -> list[Table]:
    """The tables that are not empty."""
    corpora = [
        (
            corpus.name,
            _count(corpus.rows),
            _size(corpus.bytes),
            *(_count(corpus.splits.get(split, 0)) for split in SPLITS),
            corpus.state
            if corpus.checked_shards == corpus.shards
            else f"{corpus.state} ({corpus.checked_shards:,} of {corpus.shards:,} shards checked)",
        )
        for corpus in status.corpora
    ]
    tokenizers = [(one.name, one.kind, _count(one.pieces), one.corpus, one.state) for one in status.tokenizers]
    tokens = [(one.corpus, one.tokenizer, _count(one.rows), _size(one.bytes), one.state) for one in status.tokens]
    runs = [
        (run.name, run.corpus, f"{run.step:,}", f"{run.steps:,}", *map(_share, (run.validation, run.test)), run.state)
        for run in status.runs
    ]
    tables = (
        _table(("corpus", "rows", "bytes", *SPLITS, "state"), corpora, numbers=range(1, 6)),
        _table(("tokenizer", "kind", "pieces", "trained on", "state"), tokenizers, numbers=(2,)),
        _table(("tokens of", "by", "rows", "bytes", "state"), tokens, numbers=(2, 3)),
        _table(("run", "corpus", "step", "of", "validation", "test", "state"), runs, numbers=range(2, 6)),
    )
    return [table for table in tables if table.row_count]


def _table(names: Sequence[str], rows: Sequence[tuple[str, ...]], numbers: Collection[int]) -> Table:
    lines = box.SIMPLE_HEAD if (sys.stdout.encoding or "").lower().startswith("utf") else box.ASCII
    table = Table(box=lines, show_edge=False, pad_edge=False)
    for column, name in enumerate(names):
        table.add_column(name, justify="right" if column in numbers else "left", no_wrap=True)
    for *values, state in rows:
        table.add_row(
            *map(printable, values), Text(state, style="green" if state.startswith(_GOOD_STATES) else "yellow")
        )
    return table


def _print_table(console: Console, table: Table) -> None:
    """Print a table. Output that is not a terminal is neither cut nor padded with trailing spaces."""
    if console.is_terminal:
        console.print(table)
        return
    text = io.StringIO()
    Console(file=text, width=10_000, highlight=False, color_system=None).print(table)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines()))


def _count(number: int) -> str:
    """The number with separators, or an empty text for 0."""
    return f"{number:,}" if number else ""


def _size(size: int) -> str:
    text = human(size)
    return f"{text}B" if " " in text else f"{text} B" if size else ""


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
