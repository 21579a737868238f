"""Generation: against the notebook's own code and DuckDB's COPY, by family, and at a billion rows."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from flows.common.engines import ray_session
from model.tokenizer import MARK, REGISTER, UNMARKED, Tokenizer
from pipelines.generation.build import build_corpus, corpus_bytes, token_layouts
from pipelines.generation.generate import RangeTask, generate_range
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec
from pipelines.spec.presets import CORPORA
from pipelines.tokens.encode import EncodeJob, encode_shard, encode_tasks
from pipelines.tokens.vocabulary import train_pieces
from storage.datasets.manifest import ShardRecord
from storage.places.disk import LocalLocation
from storage.places.place import Location
from tests.benchmarks.measure import Figure, core_seconds, ratio, run_watched, seconds
from tests.benchmarks.tokenizers import digit_tokenizer

_MILLION = 1_000_000
_LARGE = (10_000_000, 100_000_000, 1_000_000_000)

# The columns of our corpus, computed in SQL; DuckDB writes them in the grid's own order.
_COPY = """
COPY (
    WITH operands AS (
        SELECT range AS id, (range // 1000000 % 100)::INTEGER AS a, (range // 10000 % 100)::INTEGER AS b,
               (range // 100 % 100)::INTEGER AS c, (range % 100)::INTEGER AS d
        FROM range({rows})
    ), sums AS (
        SELECT *, a + b + c + d AS sum, a % 10 + b % 10 + c % 10 + d % 10 AS ones FROM operands
    )
    SELECT id, a, b, c, d, sum, a || '+' || b || '+' || c || '+' || d AS problem, sum::VARCHAR AS answer,
           '+++' AS operators, 4::INTEGER AS terms,
           CASE WHEN greatest(a, b, c, d) > 9 THEN 2 ELSE 1 END::INTEGER AS digits,
           CASE WHEN sum > 99 THEN 3 WHEN sum > 9 THEN 2 ELSE 1 END::INTEGER AS answer_digits,
           ((ones > 9)::INTEGER + (sum > 99)::INTEGER)::INTEGER AS carries, 0::INTEGER AS depth, false AS negative
    FROM sums
) TO '{path}' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PER_THREAD_OUTPUT)
"""


def against_the_notebook(folder: Path) -> Iterator[Figure]:
    """The notebook's section 1, its own lines, on a tenth of its rows; ours on all of them, two cores."""
    import numpy as np
    import pandas as pd

    def notebook() -> float:
        """The notebook's cells 7, 9 and 12 with one operand below 10, as rows a second."""

        def cells() -> None:
            """What the notebook runs."""
            nums = np.stack(
                np.meshgrid(np.arange(10), np.arange(100), np.arange(100), np.arange(100)), -1
            ).reshape(-1, 4)  # fmt: skip
            sums = pd.DataFrame(
                {
                    "a": nums[:, 0], "b": nums[:, 1], "c": nums[:, 2], "d": nums[:, 3],
                    "sum": nums[:, 0] + nums[:, 1] + nums[:, 2] + nums[:, 3],
                }
            )  # fmt: skip
            sums.to_csv(folder / "sums_4v_0_99.csv.gz", index=False)

        return 10 * _MILLION / seconds(cells)

    # Ours is bound by memory, the notebook's by gzip: 34 × on an AMD EPYC, 21 to 26 × on machines with Intel and AMX.
    ours, theirs, times = ratio(lambda: _our_rate(folder, CORPORA["notebook"]), notebook, 1)
    yield Figure("notebook's code (numpy, pandas, csv.gz)", times, "×", 40, 15, _rates(ours, theirs))


def against_duckdb(folder: Path) -> Iterator[Figure]:
    """DuckDB's COPY of the same columns, not shuffled, two threads; both make all rows of the notebook."""

    def copy() -> float:
        """DuckDB's rate in rows a second."""
        target, rows = folder / "copy", 10**8
        target.mkdir()
        with duckdb.connect(config={"threads": 2}) as connection:
            connection.execute("SET enable_progress_bar = false")
            taken = seconds(lambda: connection.execute(_COPY.format(rows=rows, path=target / "corpus.parquet")))
        shutil.rmtree(target)
        return rows / taken

    ours, theirs, times = ratio(lambda: _our_rate(folder, CORPORA["notebook"]), copy, 3)
    yield Figure("DuckDB COPY, same columns, unshuffled", times, "×", 2, 1.25, _rates(ours, theirs))


def by_family(folder: Path) -> Iterator[Figure]:
    """One core: generated, and encoded too, as shards on disk, against pyarrow that writes the same tables."""
    digits = {"family": "digits", "rows": 10 * _MILLION}
    specs = {
        "20-digit additions": (CorpusSpec(**digits, terms=2, digits=20, min_digits=20), 1 << 20),
        "additions of 1 to 20 digits": (CorpusSpec(**digits, terms=2, digits=20), 1 << 20),
        "15×15-digit products": (CorpusSpec(**digits, terms=2, digits=15, min_digits=15, operators=("*",)), 1 << 20),
        "expressions of 8 leaves": (
            CorpusSpec(family="expression", rows=10 * _MILLION, terms=8, min_terms=8, digits=2, depth=3,
                       operators=("+", "-", "*")),
            1 << 18,
        ),
        "marks of expressions": (CORPORA["marks"], 1 << 18),
        "steps of a rewriting": (CORPORA["steps"], 1 << 18),
    }  # fmt: skip
    # The least shares of pyarrow's rate, generated and encoded too, and the most bytes a row, text and tokens.
    bars = {
        "20-digit additions": (None, 0.35, 32, 30),
        "additions of 1 to 20 digits": (None, None, 32, 30),
        "15×15-digit products": (0.3, None, None, None),
        "expressions of 8 leaves": (0.1, None, None, None),
        "marks of expressions": (None, None, None, None),
        "steps of a rewriting": (None, None, None, None),
    }
    for name, (spec, rows) in specs.items():
        alone, both, text_bar, token_bar = bars[name]
        one = _OneCore(folder, spec, rows)
        for what, bar, rates in (
            ("generated", alone, ratio(one.generated, one.written("text"), 5)),
            ("generated and encoded", both, ratio(one.encoded, one.written("text", "tokens"), 5)),
        ):
            mine, theirs, times = rates
            detail = f"{mine / 1e6:.2f} M against {theirs / 1e6:.2f} M rows/s of one core"
            yield Figure(
                f"{name}, {what}, against pyarrow writing the same tables", times, "×", least=bar, detail=detail
            )
        yield Figure(f"{name}, text", one.bytes["text"] / rows, "B/row", text_bar, at_most=True)
        yield Figure(f"{name}, tokens", one.bytes["tokens"] / rows, "B/row", token_bar, at_most=True)


def large(folder: Path) -> Iterator[Figure]:
    """`numerate corpus generate billion` as a person types it: rate and memory at 10⁷, 10⁸ and 10⁹ rows."""
    described = corpus_bytes(CORPORA["billion"]) / CORPORA["billion"].total_rows
    rates = dict[int, float]()
    for rows in _LARGE:
        needed = described * rows * 1.1
        if shutil.disk_usage(folder).free < needed:
            print(f"{rows:,} rows are left out: they need {needed / 1e9:.1f} GB of disk")
            return
        command = [
            sys.executable,
            "-m",
            "flows",
            "corpus",
            "generate",
            "billion",
            "--rows",
            str(rows),
            "--json",
        ]
        taken, memory, output = run_watched([*command, "--workspace", str(folder / "large")])
        made = json.loads(output)
        shutil.rmtree(folder / "large")
        last = rows == _LARGE[-1]
        name = f"billion, {rows:.0e} rows".replace("e+0", "e")
        detail = f"{made['seconds']:.1f} s with Ray's start; {taken:.1f} s as a command, with Prefect's"
        rates[rows] = rows / made["seconds"]
        yield Figure(name, rates[rows] / 1e6, "M rows/s", detail=detail)
        yield Figure(f"{name}, memory", memory.largest / 1e6, "MB", 1_000, detail="largest process", at_most=True)
        if last:
            yield Figure(f"{name}, its rate against that of a tenth of them", rates[rows] / rates[rows // 10], "×", 0.8)
            error = abs(made["bytes"] / rows / described - 1) * 100
            detail = f"{made['bytes'] / 1e9:.2f} GB, described {described * rows / 1e9:.2f} GB"
            yield Figure(f"{name}, disk against describe", error, "%", 10, detail=detail, at_most=True)


def _our_rate(folder: Path, spec: CorpusSpec) -> float:
    """Rows a second of a whole corpus on two cores, by workers that have imported what they need, as the peers have."""
    warm, place = folder / "warm", folder / "ours"
    with ray_session(cpus=2) as cpus:
        build_corpus(CORPORA["quick"], LocalLocation(warm), in_flight=cpus)
        taken = seconds(lambda: build_corpus(spec, LocalLocation(place), in_flight=cpus))
    for made in (warm, place):
        shutil.rmtree(made)
    return spec.total_rows / taken


class _OneCore:
    """The first rows of a corpus made in this process, and as tables in memory."""

    def __init__(self, folder: Path, spec: CorpusSpec, rows: int) -> None:
        self._file, self._place, self._spec, self._rows = folder / "written.parquet", folder / "one", spec, rows
        made = self._make()
        self.bytes = {kind: sum(shard.bytes for shard in shards) for kind, (_, shards) in made.items()}
        self._tables = {
            kind: [pq.read_table((place / shard.path).path) for shard in shards]
            for kind, (place, shards) in made.items()
        }
        shutil.rmtree(self._place)

    def generated(self) -> float:
        """Rows a second as shards of text."""
        return self._rate(self._generate)

    def encoded(self) -> float:
        """Rows a second as shards of text and of tokens."""
        return self._rate(self._make)

    def written(self, *kinds: str) -> Callable[[], float]:
        """Rows a second at which pyarrow writes tables that lie in memory."""

        def write() -> None:
            """Each to the same file."""
            for table in (table for kind in kinds for table in self._tables[kind]):
                pq.write_table(table, self._file, compression="zstd")

        return lambda: self._rows / core_seconds(write)

    def _rate(self, work: Callable[[], object]) -> float:
        taken = core_seconds(work)
        # A shard that lies there already would be compared with the new one.
        shutil.rmtree(self._place)
        return self._rows / taken

    def _generate(self) -> tuple[ShardRecord, ...]:
        task = RangeTask(0, components(self._spec)[0], 0, self._rows)
        return tuple(generate_range(self._spec, LocalLocation(self._place / "text"), task))

    def _make(self) -> dict[str, tuple[Location, tuple[ShardRecord, ...]]]:
        text, tokens = LocalLocation(self._place / "text"), LocalLocation(self._place / "tokens")
        shards = self._generate()
        job = EncodeJob(text, tokens, _tokenizer(self._spec), token_layouts(shards))
        encoded = tuple(shard for task in encode_tasks(shards) for shard in encode_shard(job, task))
        return {"text": (text, shards), "tokens": (tokens, encoded)}


def _tokenizer(spec: CorpusSpec) -> Tokenizer:
    """The digit tokenizer, with pieces for marks and registers if the family has them."""
    has_states = any(part.family in ("marks", "steps") for part in spec.parts)
    return Tokenizer(train_pieces([f"12*3{REGISTER}45={MARK}{UNMARKED}"])) if has_states else digit_tokenizer()


def _rates(ours: float, theirs: float) -> str:
    return f"{ours / 1e6:.2f} M against {theirs / 1e6:.2f} M rows/s"
