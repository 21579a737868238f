"""Run all benchmarks, or those named, and print the table; `--output` keeps it as JSON."""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks import encoding, generation, scale, solving, training
from tests.benchmarks.measure import Figure

BENCHMARKS: dict[str, Callable[[Path], Iterator[Figure]]] = {
    "families": generation.by_family,
    "sentencepiece": encoding.against_sentencepiece,
    "kinds": encoding.by_kind,
    "encoding": encoding.of_shards,
    "duckdb": generation.against_duckdb,
    "notebook": generation.against_the_notebook,
    "torch": training.against_torch,
    "loop": training.loop,
    "bert": training.against_bert,
    "reading": training.reading,
    "solving": solving.by_rewriting,
    "large": generation.large,
    "scale": scale.scale,
}


def main() -> None:
    """Entry point of `make bench`."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--folder", type=Path, help="where to write corpora; a temporary folder by default")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in BENCHMARKS]:
        parser.error(f"benchmark {unknown[0]!r} is unknown: take of {', '.join(BENCHMARKS)}")
    figures: list[Figure] = []
    for name in arguments.names or BENCHMARKS:
        with tempfile.TemporaryDirectory(prefix="numerate-bench-", dir=arguments.folder) as folder:
            for figure in BENCHMARKS[name](Path(folder)):
                print(f"{figure.what}: {figure.value:.4g} {figure.unit} {figure.verdict} {figure.detail}", flush=True)
                figures.append(figure)
    Console(width=140).print(_table(figures))
    if arguments.output:
        arguments.output.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
    if missed := [figure.what for figure in figures if figure.verdict == "missed"]:
        sys.exit(f"below the least that we accept: {'; '.join(missed)}")


def _table(figures: list[Figure]) -> Table:
    table = Table(box=None)
    for title in ("what", "measured", "unit", "goal", "least", "verdict", "detail"):
        table.add_column(title, justify="right" if title in ("measured", "goal", "least") else "left")
    for figure in figures:
        bars = ["" if bar is None else f"{bar:g}" for bar in (figure.goal, figure.least)]
        table.add_row(figure.what, f"{figure.value:.4g}", figure.unit, *bars, figure.verdict, figure.detail)
    return table


if __name__ == "__main__":
    main()
