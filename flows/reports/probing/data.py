"""Data of a probing report, read from the catalog's views, for one run or for several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import duckdb
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


class Finding(NamedTuple):
    """A question, whether the answer is yes, and the measured values as text."""

    name: str
    found: bool
    text: str


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


Values = dict[tuple[Any, ...], Value]


@dataclass(frozen=True)
class ProbeData:
    """Access to the probing tables of some runs."""

    connection: duckdb.DuckDBPyConnection
    runs: Sequence[str]
    checkpoint: str
    series: int = 0
    """Number of problems for probes along training (`series_problems`); 0 without measures along training."""

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

    def rows(self, view: str, columns: str, where: str, *, first: bool = False) -> list[tuple[Any, ...]]:
        """Rows of a view, ordered by all columns; `first` restricts them to the first run."""
        return self._query(view, f"SELECT {columns} FROM selected WHERE {where} ORDER BY ALL", first=first)

    def values(self, view: str, keys: Sequence[str], where: str = "true", value: str = "value") -> Values:
        """A measure over the runs, grouped by the columns `keys`."""
        has_interval = value in ("kappa", "predicted") or view == "probe_unit"
        low, high = ("min(low)", "max(high)") if has_interval else ("NULL", "NULL")
        names = ", ".join(map(identifier, keys))
        rows = self._query(
            view,
            f"SELECT {names}, avg({value}), stddev_samp({value}), count(DISTINCT run), {low}, {high} "
            f"FROM selected WHERE {where} AND NOT isnan({value}) GROUP BY {names} ORDER BY {names}",
        )
        least = -1.0 if value == "kappa" else 0.0
        return {row[: len(keys)]: _value(least, *row[len(keys) :]) for row in rows}

    def values_by_control(
        self, view: str, keys: Sequence[str], where: str = "true", value: str = "value"
    ) -> tuple[Values, Values]:
        """A measure of the trained and of the untrained encoders."""
        trained, untrained = (
            self.values(view, keys, f"{where} AND control = '{control}'", value) for control in ("trained", "untrained")
        )
        return trained, untrained

    def _query(self, view: str, query: str, *, first: bool = False) -> list[tuple[Any, ...]]:
        column, selected = ("problems", self.series) if view == "probe_series" else ("checkpoint", self.checkpoint)
        values: list[Any] = [list(self.runs[:1] if first else self.runs), selected]
        return self.connection.execute(
            f"WITH selected AS (SELECT * FROM {view} WHERE list_contains(?, run) AND {column} = ?) {query}", values
        ).fetchall()


def _value(
    least: float, mean: float, deviation: float | None, runs: int, low: float | None, high: float | None
) -> Value:
    if runs == 1:
        return Value(mean, low, high, runs)
    half = float(student.ppf(0.975, runs - 1)) * (deviation or 0.0) / runs**0.5
    # Shares and κ are at most one, and shares are at least zero.
    return Value(mean, max(least, mean - half), min(1.0, mean + half), runs)
