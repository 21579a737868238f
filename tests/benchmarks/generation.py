"""Generation: against the notebook's own code and DuckDB's COPY, by family, and at a billion rows."""

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb

from flows.session import ray_session
from pipelines.build import build_corpus, corpus_bytes, token_layouts
from pipelines.components import components
from pipelines.encode import EncodeJob, encode_shard, encode_tasks
from pipelines.generate import RangeTask, generate_range
from pipelines.presets import CORPORA
from pipelines.spec import CorpusSpec
from storage.local import LocalLocation
from storage.location import Location
from storage.manifest import ShardRecord
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

    ours, theirs, times = ratio(lambda: _our_rate(folder, CORPORA["notebook"]), notebook, 1)
    yield Figure("notebook's code (numpy, pandas, csv.gz)", times, "×", 40, 25, _rates(ours, theirs))


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
    """One core: generated, and generated and encoded, as shards on disk."""
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
    }  # fmt: skip
    bars = {
        "20-digit additions": (None, 1.0, 32, 30),
        "additions of 1 to 20 digits": (None, None, 32, 30),
        "15×15-digit products": (1.0, None, None, None),
        "expressions of 8 leaves": (0.3, None, None, None),
    }
    for name, (spec, rows) in specs.items():
        generated, encoded, text, tokens = _one_core(folder, spec, rows)
        alone, both, text_bar, token_bar = bars[name]
        yield Figure(f"{name}, generated", 1 / generated / 1e6, "M rows/s/core", alone)
        yield Figure(f"{name}, and encoded", 1 / (generated + encoded) / 1e6, "M rows/s/core", both)
        yield Figure(f"{name}, text", text, "B/row", text_bar, at_most=True)
        yield Figure(f"{name}, tokens", tokens, "B/row", token_bar, at_most=True)


def large(folder: Path) -> Iterator[Figure]:
    """`numerate corpus generate billion` as a person types it: rate and memory at 10⁷, 10⁸ and 10⁹ rows."""
    described = corpus_bytes(CORPORA["billion"]) / CORPORA["billion"].total_rows
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
        yield Figure(name, rows / made["seconds"] / 1e6, "M rows/s", detail=detail)
        yield Figure(f"{name}, memory", memory.largest / 1e6, "MB", 1_000, detail="largest process", at_most=True)
        if last:
            yield Figure(f"{name}, time", made["seconds"], "s", 240, at_most=True)
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


def _one_core(folder: Path, spec: CorpusSpec, rows: int) -> tuple[float, float, float, float]:
    """Seconds a row of generating and of encoding in this process, and bytes a row of text and of tokens."""
    # Each time into a new folder: a shard that lies there already is compared with the new one.
    taken = [_once(LocalLocation(folder / "one"), spec, rows) for _ in range(9)]
    generated, encoded, text, tokens = (min(values) / rows for values in zip(*taken, strict=True))
    return generated, encoded, text, tokens


def _once(folder: Location, spec: CorpusSpec, rows: int) -> tuple[float, float, int, int]:
    corpus, tokens = folder / "corpus", folder / "tokens"
    made: list[ShardRecord] = []
    encoded: list[ShardRecord] = []

    def generate() -> None:
        """Write the first rows as shards."""
        made.extend(generate_range(spec, corpus, RangeTask(0, components(spec)[0], 0, rows)))

    def encode() -> None:
        """Write their tokens."""
        job = EncodeJob(corpus, tokens, digit_tokenizer(), token_layouts(tuple(made)))
        encoded.extend(shard for task in encode_tasks(tuple(made)) for shard in encode_shard(job, task))

    generating = core_seconds(generate)
    encoding = core_seconds(encode)
    folder.remove()
    return generating, encoding, sum(shard.bytes for shard in made), sum(shard.bytes for shard in encoded)


def _rates(ours: float, theirs: float) -> str:
    return f"{ours / 1e6:.2f} M against {theirs / 1e6:.2f} M rows/s"
