"""Comparison of several runs, such as seeds, on the same problems: median, minimum and maximum, not only the best."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import UserError

Reports = Mapping[str, Mapping[str, Mapping[str, Any]]]

_CHECKPOINTS = ("best", "last")
_ALL = "all"


class Spread(BaseModel):
    """Exact match over the runs."""

    model_config = ConfigDict(frozen=True)

    median: float
    minimum: float
    maximum: float


class Line(BaseModel):
    """Exact match on the problems that share one value, for the runs' best and last checkpoints."""

    model_config = ConfigDict(frozen=True)

    column: str
    value: int | str
    problems: int
    runs: int = Field(description="Number of runs that were evaluated on such problems.")
    best: Spread
    last: Spread


class RunLine(BaseModel):
    """Exact match of one run's best and last checkpoint."""

    model_config = ConfigDict(frozen=True)

    run: str
    best: float
    best_step: int
    last: float
    last_step: int


class Comparison(BaseModel):
    """Results of several runs on the same problems; the first line covers all problems."""

    model_config = ConfigDict(frozen=True)

    suite: str
    corpus: str
    split: str
    runs: tuple[RunLine, ...]
    lines: tuple[Line, ...]


def compare(reports: Reports) -> Comparison:
    """Compare the report.json values of runs, given for each run's `best` and `last` checkpoint.

    Raises `UserError` if the runs were evaluated on different problems.
    """
    flat = [report for pair in reports.values() for report in pair.values()]
    first = flat[0]
    for name, pair in reports.items():
        for report in pair.values():
            for key in ("corpus", "split", "problems"):
                if report[key] != first[key]:
                    raise UserError(
                        f"run {name!r} was evaluated on {key} {report[key]}, another run on {first[key]}: "
                        "compare runs that can be evaluated on the same problems"
                    )
    runs = [
        RunLine(
            run=name,
            best=pair["best"]["exact_match"],
            best_step=pair["best"]["step"],
            last=pair["last"]["exact_match"],
            last_step=pair["last"]["step"],
        )
        for name, pair in reports.items()
    ]
    # Number of problems and exact match of each group, for each run.
    groups = {which: [_groups(pair[which]) for pair in reports.values()] for which in _CHECKPOINTS}
    lines = []
    for column, value in dict.fromkeys(key for of_run in groups["best"] for key in of_run):
        found = {
            which: [of_run[column, value] for of_run in groups[which] if (column, value) in of_run]
            for which in _CHECKPOINTS
        }
        problems = found["best"][0][0]
        spreads = {which: _spread([match for _, match in of_runs]) for which, of_runs in found.items()}
        lines.append(Line(column=column, value=value, problems=problems, runs=len(found["best"]), **spreads))
    described = {key: first[key] for key in ("suite", "corpus", "split")}
    return Comparison(**described, runs=tuple(runs), lines=tuple(lines))


def comparison_text(comparison: Comparison) -> str:
    """The comparison as a text table, with percentages to three decimals."""
    head = f"{'':24} {'problems':>9}  {'best checkpoint':^29}  {'last checkpoint':^29}"
    names = f"{'':24} {'':9}  {'median':>9} {'minimum':>9} {'maximum':>9}  {'median':>9} {'minimum':>9} {'maximum':>9}"
    lines = [
        f"{_name(line):24} {line.problems:9,}  {_spread_text(line.best)}  {_spread_text(line.last)}"
        for line in comparison.lines
    ]
    runs = [
        f"run {line.run}: best {line.best:.3%} (step {line.best_step:,}), last {line.last:.3%} "
        f"(step {line.last_step:,})"
        for line in comparison.runs
    ]
    title = f"{len(comparison.runs)} runs evaluated on {comparison.corpus}, exact match over the runs"
    return "\n".join([title, head, names, *lines, *runs])


def _groups(report: Mapping[str, Any]) -> dict[tuple[str, int | str], tuple[int, float]]:
    """Number of problems and exact match of each group in a report, after those of all problems."""
    found: dict[tuple[str, int | str], tuple[int, float]] = {(_ALL, ""): (report["problems"], report["exact_match"])}
    for column, groups in report["breakdown"].items():
        found |= {(column, group["value"]): (group["problems"], group["exact_match"]) for group in groups}
    return found


def _spread(matches: list[float]) -> Spread:
    return Spread(median=median(matches), minimum=min(matches), maximum=max(matches))


def _name(line: Line) -> str:
    return "all problems" if line.column == _ALL else f"{line.column} {line.value}"


def _spread_text(spread: Spread) -> str:
    return " ".join(f"{value:9.3%}" for value in (spread.median, spread.minimum, spread.maximum))
