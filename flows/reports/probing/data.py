"""Data of a probing report, read from the catalog's views, for one run or for several seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any, NamedTuple

import duckdb
from matplotlib.axes import Axes
from scipy.stats import t as student

from storage.sql.database import identifier


class Figure(NamedTuple):
    """A figure, with a sentence on what it shows and one on what it does not show."""

    title: str
    picture: str
    shows: str
    shows_not: str
    first: bool = False
    """Whether the page shows it at the top; other figures are collapsed."""


class Value(NamedTuple):
    """A measure: of one run with its own interval, or the mean over runs with Student's t interval."""

    mean: float
    low: float | None
    high: float | None
    runs: int

    @property
    def lower(self) -> float:
        """The interval's lower end, or the mean without an interval."""
        return self.mean if self.low is None else self.low

    @property
    def upper(self) -> float:
        """The interval's upper end, or the mean without an interval."""
        return self.mean if self.high is None else self.high

    def text(self, form: str = ".2f") -> str:
        """The value as text, with its interval if there is one."""
        if self.low is None or self.high is None:
            return format(self.mean, form)
        return f"{self.mean:{form}} ({self.low:{form}} to {self.high:{form}})"


@dataclass(frozen=True)
class ProbeData:
    """Access to the probing tables of some runs."""

    connection: duckdb.DuckDBPyConnection
    runs: Sequence[str]
    checkpoint: str
    series: int = 0
    """Number of problems for probes along training (`problems_asked`); 0 without measures along training."""

    @property
    def is_single_run(self) -> bool:
        """Whether there is only one run, so that intervals do not describe variation over seeds."""
        return len(self.runs) == 1

    @property
    def spread(self) -> str:
        """What the intervals describe, in words."""
        if self.is_single_run:
            return "one seed: intervals are over problems (for κ, over the numbers that they share), not over seeds"
        return f"means and 95 % intervals over {len(self.runs)} seeds"

    def rows(self, view: str, columns: str, where: str = "true", *, first: bool = False) -> list[tuple[Any, ...]]:
        """Rows of a view, ordered by all columns; `first` restricts them to the first run."""
        return self._query(view, f"SELECT {columns} FROM mine WHERE {where} ORDER BY ALL", first=first)

    def values(
        self, view: str, keys: Sequence[str], where: str = "true", value: str = "value"
    ) -> dict[tuple[Any, ...], Value]:
        """A measure over the runs, grouped by the columns `keys`."""
        bounds = {"kappa", "predicted"} & {value} or view == "probe_unit"
        low, high = ("min(low)", "max(high)") if bounds else ("NULL", "NULL")
        names = ", ".join(map(identifier, keys))
        rows = self._query(
            view,
            f"SELECT {names}, avg({value}), stddev_samp({value}), count(DISTINCT run), {low}, {high} "
            f"FROM mine WHERE {where} AND NOT isnan({value}) GROUP BY {names} ORDER BY {names}",
        )
        low_limit = -1.0 if value == "kappa" else 0.0
        return {tuple(row[: len(keys)]): _value(low_limit, *row[len(keys) :]) for row in rows}

    def single(self, view: str, where: str, value: str = "value") -> Value | None:
        """The measure of all rows that match, over the runs; None if there are none."""
        rows = self.values(view, ["run"], where, value)
        if len(rows) <= 1:
            return next(iter(rows.values()), None)
        means = [of_run.mean for of_run in rows.values()]
        return _value(-1.0 if value == "kappa" else 0.0, mean(means), stdev(means), len(means), None, None)

    def _query(self, view: str, query: str, *, first: bool = False) -> list[tuple[Any, ...]]:
        which, what = ("problems", self.series) if view == "probe_series" else ("checkpoint", self.checkpoint)
        values: list[Any] = [list(self.runs[:1] if first else self.runs), what]
        return self.connection.execute(
            f"WITH mine AS (SELECT * FROM {view} WHERE list_contains(?, run) AND {which} = ?) {query}", values
        ).fetchall()


def state_text(state: tuple[int, ...], loops: int) -> str:
    """Name of the state (loop, layer) for an axis."""
    loop, layer = state
    if not layer:
        return "embedding"
    if loops == 1:
        return f"layer {layer}"
    return f"loop {loop}, layer {layer}" if loop else f"all loops, layer {layer}"


def whiskers(axes: Axes, across: Iterable[float], values: Iterable[Value | None], scale: float = 1) -> None:
    """Draw the interval of each value that has one, as a vertical line."""
    for x, value in zip(across, values, strict=True):
        if value and value.low is not None and value.high is not None:
            axes.plot([x, x], [scale * value.low, scale * value.high], color="black", linewidth=0.8)


def mark_states(axes: Axes, states: Sequence[tuple[int, ...]], kinds: Sequence[str] = ()) -> None:
    """Label an axis with short names of states: 'e' for the embedding, otherwise loop·layer.

    If `kinds` are given, the kind of token precedes each name.
    """
    looped = max(loop for loop, _ in states) > 1
    names = ["e" if not layer else f"{loop or 'all'}·{layer}" if looped else str(layer) for loop, layer in states]
    if kinds:
        names = [f"{kind} {name}" for kind, name in zip(kinds, names, strict=True)]
    rotation = 90 if kinds or len(names) > 10 else 0
    axes.set_xticks(range(len(names)), names, fontsize=7 if len(names) < 10 else 6, rotation=rotation)
    axes.set_xlabel("loop·layer" if looped else "layer", fontsize=7)


def _value(
    low_limit: float, middle: float, spread: float | None, runs: int, low: float | None, high: float | None
) -> Value:
    if runs == 1:
        return Value(middle, low, high, 1)
    half = float(student.ppf(0.975, runs - 1)) * (spread or 0.0) / runs**0.5
    # Shares and κ are at most one, and shares are at least zero.
    return Value(middle, max(low_limit, middle - half), min(1.0, middle + half), runs)
