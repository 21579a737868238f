"""Tables of a comparison: results by run and kind of problem, and learning curves, as Parquet; a Markdown page."""

import json
from collections.abc import Iterable
from statistics import median
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.runs.metrics import read_metrics
from storage.errors import RunFailure
from storage.places.place import Location
from storage.sql.views import VIEWS
from storage.workspace import Workspace

Row = dict[str, Any]
# Corpus and kind of problem.
Column = tuple[str, str]
# Results of one run.
Figures = dict[Column, Row]
# Encoder, unit, and "on" or "off".
Kind = tuple[str, str, str]

_TYPES = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64()}


def read_json(file: Location) -> Any:
    """The value in a JSON file of a comparison; raises `RunFailure` if the file is damaged."""
    try:
        return json.loads(file.read())
    except (ValueError, RecursionError) as error:
        raise RunFailure(f"{file} is damaged: delete it and repeat the command") from error


def write_tables(workspace: Workspace, folder: Location, names: dict[str, str], corpus: str, goal: float) -> None:
    """Write `table.parquet`, `curves.parquet` and `table.md` from the results of the runs.

    `names` maps each run to its encoder, and `corpus` is the training corpus. `problems_until_goal` counts the training
    problems until the exact match on a kind of problem reaches `goal`.
    """
    rows: list[Row] = []
    curves: list[Row] = []
    for run, encoder in names.items():
        if not (results := results_of(folder, run)).exists():
            continue
        found = read_json(results)
        metrics = read_metrics(workspace.run(run) / "metrics")
        problems, seconds = (metrics.column(name)[-1].as_py() for name in ("problems", "seconds"))
        seen = {"problems_seen": problems, "seconds": seconds, "rows_per_second": problems / seconds}
        about = {**found["about"], "encoder": encoder}
        per_step = problems // about["steps"]
        curve = [{**about, **point, "problems_seen": point["step"] * per_step} for point in found["curve"]]
        reached: dict[str, int] = {}
        for point in curve:
            if point["exact_match"] >= goal:
                reached.setdefault(point["operator"], point["problems_seen"])
        curves += curve
        for row in found["rows"]:
            # Earlier versions wrote `asked`.
            evaluated = row.pop("asked", None) or row["evaluation_corpus"]
            until = reached.get(row["operator"]) if (evaluated, row["applied"]) == (corpus, "on") else None
            own = {"evaluation_corpus": evaluated, "goal": goal, "problems_until_goal": until}
            rows.append({**about, **seen, **row, **own})
    for view, file, found in (
        ("comparisons", "table.parquet", rows),
        ("comparison_curves", "curves.parquet", curves),
    ):
        with (folder / file).staged() as path:
            pq.write_table(pa.Table.from_pylist(found, _schema(view)), path, compression="zstd")
    (folder / "table.md").write(page(rows, corpus, goal).encode())


def results_of(folder: Location, run: str) -> Location:
    """Path of a run's results in the folder of a comparison, as JSON; earlier versions wrote them to `asked`."""
    earlier = folder / "asked" / f"{run}.json"
    return earlier if earlier.exists() else folder / "results" / f"{run}.json"


def _schema(view: str) -> pa.Schema:
    """Schema of a table: the columns of its view, except for the comparison's name, which is the folder's name."""
    columns = {name: kind for name, kind in VIEWS[view].types.items() if name != "comparison"}
    return pa.schema([(name, _TYPES[kind]) for name, kind in columns.items()])


def page(rows: list[Row], corpus: str, goal: float) -> str:
    """All tables in Markdown: summary over seeds, results per seed, unit readings; `corpus` is the training corpus."""
    corpora = list(dict.fromkeys(row["evaluation_corpus"] for row in rows))
    found = {(row["evaluation_corpus"], row["operator"]) for row in rows}
    columns = sorted(found, key=lambda column: (corpora.index(column[0]), order_of(column[1])))
    own = [column for column in columns if column[0] == corpus]
    kinds: dict[Kind, dict[int, Figures]] = {}
    for row in rows:
        seeds = kinds.setdefault((row["encoder"], row["unit"], row["applied"]), {})
        seeds.setdefault(row["seed"], {})[row["evaluation_corpus"], row["operator"]] = row
    heads = [" ".join(column).replace("*", "×") for column in columns]
    heads += [f"problems until {goal:.0%} {operator}".replace("*", "×") for _, operator in own]
    over = [_over_seeds(kind, list(seeds.values()), columns, own) for kind, seeds in kinds.items()]
    each = [_one_seed(kind, seed, columns, own) for kind, seeds in kinds.items() for seed in seeds.values()]
    more = ["problems seen", "parameters", "rows/s", "seconds"]
    return "\n".join(
        [
            "Exact match in per cent, in one pass: median over seeds (lowest–highest).",
            "",
            *_table(["encoder", "unit", "seeds", *heads], over),
            "",
            "Results of each seed.",
            "",
            *_table(["encoder", "unit", "seed", *heads, *more], each),
            "",
            *_readings(rows),
        ]
    )


def _over_seeds(kind: Kind, seeds: list[Figures], columns: list[Column], own: list[Column]) -> list[str]:
    """One table row for all seeds of a kind of run."""
    encoder, unit, applied = kind
    cells = [_spread([seed[column]["exact_match"] for seed in seeds if column in seed]) for column in columns]
    counts = [[seed[column]["problems_until_goal"] for seed in seeds if column in seed] for column in own]
    # Checkpoints are evaluated only with the unit on.
    reached = [_reached(count) if applied == "on" else "" for count in counts]
    return [encoder, named(unit, applied), str(len(seeds)), *cells, *reached]


def _one_seed(kind: Kind, seed: Figures, columns: list[Column], own: list[Column]) -> list[str]:
    """One table row for one seed of a kind of run."""
    encoder, unit, applied = kind
    run = next(iter(seed.values()))
    cells = [f"{100 * seed[column]['exact_match']:.1f}" if column in seed else "" for column in columns]
    counts = [seed[column]["problems_until_goal"] if column in seed else None for column in own]
    counts += [run["problems_seen"], run["parameters"], round(run["rows_per_second"]), round(run["seconds"])]
    return [encoder, named(unit, applied), str(run["seed"]), *cells, *map(_count, counts)]


def _readings(rows: list[Row]) -> list[str]:
    """Table of the units' readings on problems of one operator; empty if there are no units."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.get("operation_read") is not None:
            key = row["encoder"], row["unit"], row["evaluation_corpus"], row["operator"].replace("*", "×")
            found.setdefault(key, []).append(row)
    if not found:
        return []
    table = [
        [*key, *(_spread([row[name] for row in same]) for name in ("operation_read", "operands_read")),
         f"{median(row['gate'] for row in same):.2f}"]
        for key, same in sorted(found.items())
    ]  # fmt: skip
    heads = ["encoder", "unit", "corpus", "operator", "operation read", "both operands read", "gate, mean size"]
    return ["What the units read in the last loop, in per cent of problems.", "", *_table(heads, table), ""]


def order_of(operator: str) -> tuple[int, str]:
    """Sort key: the operators +, - and *, then other groups."""
    return ("+-*".find(operator) % 4, operator)


def named(unit: str, applied: str) -> str:
    """Label of a run: learned only, or with a unit that is on or switched off during evaluation."""
    if unit == "none":
        return "learned only"
    return f"with {unit}" if applied == "on" else f"with {unit}, switched off in evaluation"


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    low, high = (f"{100 * value:.1f}" for value in (min(values), max(values)))
    return f"{100 * median(values):.1f} ({low}–{high})" if len(values) > 1 else low


def _reached(counts: list[int | None]) -> str:
    reached = [count for count in counts if count is not None]
    text = f"{median(reached):,.0f}" if reached else "never"
    return text if len(reached) in (0, len(counts)) else f"{text} ({len(reached)} of {len(counts)})"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _table(heads: list[str], rows: Iterable[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
