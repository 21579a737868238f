"""The tables of a comparison: a row a run and kind of problem as Parquet, curves of learning, and a page to read."""

import json
from collections.abc import Iterable
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from model.metrics import read_metrics
from storage.location import Location, Workspace

Row = dict[str, Any]

_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("run", "encoder", "unit", "applied", "asked", "group")),
        ("seed", pa.int64()),
        ("problems", pa.int64()),
        ("correct", pa.int64()),
        ("exact_match", pa.float64()),
        *((name, pa.float64()) for name in ("operation_read", "operands_read", "gate", "validation_exact_match")),
        *((name, pa.int64()) for name in ("parameters", "steps", "problems_seen", "problems_until_goal")),
        *((name, pa.float64()) for name in ("goal", "seconds", "rows_per_second")),
    ]
)
_CURVE = ["run", "step", "problems", "seconds", "loss", "validation_exact_match"]


def write_tables(workspace: Workspace, folder: Location, names: dict[str, str], goal: float) -> None:
    """Write `table.parquet`, `curves.parquet` and `table.md` from what was asked of runs.

    `names` says of each run which encoder it is of; `goal` is the exact match on validation until which problems
    seen are counted.
    """
    rows: list[Row] = []
    curves = []
    for file in (folder / "asked").children():
        found = json.loads((folder / "asked" / file).read())
        run = found["about"]["run"]
        metrics = read_metrics(workspace.run(run) / "metrics")
        curve = metrics.select(_CURVE).filter(pc.is_valid(metrics.column("validation_exact_match")))
        curves.append(curve)
        about = {**found["about"], "encoder": names[run], "goal": goal, **_learning(metrics, curve, goal)}
        rows += [{**about, **row} for row in found["rows"]]
    for name, table in (("table", pa.Table.from_pylist(rows, _SCHEMA)), ("curves", pa.concat_tables(curves))):
        with (folder / f"{name}.parquet").staged() as path:
            pq.write_table(table, path, compression="zstd")
    (folder / "table.md").write(page(rows, goal).encode())


def _learning(metrics: pa.Table, curve: pa.Table, goal: float) -> Row:
    """How much a run saw, for how long, and how much of it until it reached the goal; null if it didn't."""
    problems, seconds = (metrics.column(name)[-1].as_py() for name in ("problems", "seconds"))
    reached = curve.filter(pc.greater_equal(curve.column("validation_exact_match"), goal)).column("problems")
    return {
        "problems_seen": problems,
        "seconds": seconds,
        "rows_per_second": problems / seconds,
        "problems_until_goal": reached[0].as_py() if len(reached) else None,
    }


def page(rows: list[Row], goal: float) -> str:
    """Both tables in Markdown: over the seeds, and seed by seed."""
    asked = list(dict.fromkeys(row["asked"] for row in rows))
    columns = sorted(
        {(row["asked"], row["group"]) for row in rows}, key=lambda key: (asked.index(key[0]), _order(key[1]))
    )
    kinds: dict[tuple[str, str, str], dict[int, dict[tuple[str, str], Row]]] = {}
    for row in rows:
        seeds = kinds.setdefault((row["encoder"], row["unit"], row["applied"]), {})
        seeds.setdefault(row["seed"], {})[row["asked"], row["group"]] = row
    heads = [" ".join(column).replace("*", "×") for column in columns]
    until = f"problems until {goal:.0%}"
    over, each = [], []
    for (encoder, unit, applied), seeds in sorted(kinds.items()):
        title = [encoder, _kind(unit, applied)]
        cells = [[seed[column]["exact_match"] for seed in seeds.values() if column in seed] for column in columns]
        runs = [next(iter(seed.values())) for seed in seeds.values()]
        reached = [run["problems_until_goal"] for run in runs]
        # It learnt with its unit.
        until_goal = _reached(reached) if applied == "on" else ""
        over.append([*title, str(len(seeds)), *map(_spread, cells), until_goal])
        for number, seed in sorted(seeds.items()):
            run = next(iter(seed.values()))
            figures = [f"{100 * seed[column]['exact_match']:.1f}" if column in seed else "" for column in columns]
            more = [_count(run["problems_until_goal"]), _count(run["problems_seen"]), _count(run["parameters"])]
            each.append(
                [*title, str(number), *figures, *more, f"{run['rows_per_second']:,.0f}", f"{run['seconds']:.0f}"]
            )
    more = ["problems seen", "parameters", "rows/s", "seconds"]
    return "\n".join(
        [
            "Exact match in per cent, in one pass: median over seeds (lowest–highest).",
            "",
            *_table(["encoder", "unit", "seeds", *heads, until], over),
            "",
            "Seed by seed.",
            "",
            *_table(["encoder", "unit", "seed", *heads, until, *more], each),
            "",
            *_what_is_read(rows),
        ]
    )


def _what_is_read(rows: list[Row]) -> list[str]:
    """What units read of problems of one operator, as a table; nothing where there are no units."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.get("operation_read") is not None:
            found.setdefault((row["encoder"], row["unit"], row["asked"], row["group"].replace("*", "×")), []).append(
                row
            )
    if not found:
        return []
    table = [
        [*key, *(_spread([row[name] for row in same]) for name in ("operation_read", "operands_read")),
         f"{median(row['gate'] for row in same):.2f}"]
        for key, same in sorted(found.items())
    ]  # fmt: skip
    heads = ["encoder", "unit", "asked", "operator", "operation read", "both operands read", "gate, mean size"]
    return ["What the units read in the block's last run, per cent of problems.", "", *_table(heads, table), ""]


def _order(group: str) -> tuple[int, str]:
    """Operators as people learn them, then the rest."""
    return ("+-*".find(group) % 4, group)


def _kind(unit: str, applied: str) -> str:
    if unit == "none":
        return "learned only"
    return f"with {unit}" if applied == "on" else f"with {unit}, switched off when asked"


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return f"{100 * median(values):.1f} ({low}–{high})" if len(values) > 1 else low


def _reached(counts: list[int | None]) -> str:
    reached = [count for count in counts if count is not None]
    told = f"{median(reached):,.0f}" if reached else "never"
    return told if len(reached) in (0, len(counts)) else f"{told} ({len(reached)} of {len(counts)})"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
