"""Metrics of a run, in Parquet parts that can be read during the run; a resume drops later steps.

The metrics have one row per step. Errors on validation have one row per step, difficulty and value.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from storage.errors import RunFailure
from storage.places.place import Location

SCHEMA = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("epoch", pa.float64(), nullable=False),
        pa.field("problems", pa.int64(), nullable=False),
        pa.field("loss", pa.float64(), nullable=False),
        pa.field("learning_rate", pa.float64(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("data_seconds", pa.float64(), nullable=False),
        pa.field("validation_exact_match", pa.float64()),
        pa.field("problems_per_second", pa.float64()),
        pa.field("share_of_peak", pa.float64()),
    ]
)


class ErrorCount(NamedTuple):
    """Errors on the validation problems that have one value of a difficulty, such as a column total of 26."""

    difficulty: str
    value: int
    problems: int
    wrong: int


ERRORS_SCHEMA = pa.schema(
    [
        pa.field(name, pa.string() if name in ("run", "difficulty") else pa.int64(), nullable=False)
        for name in ("run", "step", *ErrorCount._fields)
    ]
)


@dataclass
class MetricsWriter:
    """Collects rows and writes them as `part-<first>-<last>.parquet`; steps count from 1."""

    folder: Location
    schema: pa.Schema = SCHEMA
    rows: list[dict[str, object]] = field(default_factory=list)

    def add(self, row: dict[str, object]) -> None:
        """Add the row of one step."""
        self.rows.append(row)

    def flush(self) -> None:
        """Write the collected rows as one part."""
        if not self.rows:
            return
        name = f"part-{self.rows[0]['step']:09d}-{self.rows[-1]['step']:09d}.parquet"
        table = pa.Table.from_pylist(self.rows, schema=self.schema)
        with (self.folder / name).staged() as path:
            pq.write_table(table, path, compression="zstd")
        self.rows.clear()

    def seconds(self) -> float:
        """Seconds of training up to the last written step; 0 if there is none or it is unreadable."""
        parts = [name for name in self.folder.children() if name.startswith("part-")]
        if not parts:
            return 0.0
        try:
            with (self.folder / parts[-1]).opened() as file:
                return float(pq.ParquetFile(file).read(columns=["seconds"]).column(0)[-1].as_py())
        except (OSError, ValueError, LookupError):
            return 0.0

    def drop_after(self, step: int) -> None:
        """Delete parts with steps after `step`; parts end at validations, so they also end at checkpoints."""
        for name in self.folder.children():
            if name.startswith("part-") and int(name.removesuffix(".parquet").split("-")[2]) > step:
                (self.folder / name).remove()


def metric_parts(folder: Location) -> list[str]:
    """Paths of a run's metrics, ordered by step."""
    return [str(folder / name) for name in folder.children() if name.startswith("part-")]


def step_seconds(folder: Location) -> float:
    """Mean seconds per step in the second half of a training; raises `RunFailure` for fewer than four steps."""
    table = read_metrics(folder)
    steps, seconds = (table.column(name).to_numpy() for name in ("step", "seconds"))
    half = len(steps) // 2
    if half < 2:
        raise RunFailure(
            f"{folder} has {len(steps)} steps, too few to measure the time per step: increase timed_seconds"
        )
    return float((seconds[-1] - seconds[half]) / (steps[-1] - steps[half]))


def read_metrics(folder: Location) -> pa.Table:
    """All rows of a run's metrics."""
    parts = [pq.read_table(path, schema=SCHEMA) for path in metric_parts(folder)]
    return pa.concat_tables(parts) if parts else SCHEMA.empty_table()
