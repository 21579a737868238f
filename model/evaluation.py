"""Exact match on a split, in one pass: every problem, the model's answer and whether it is right.

The interval resamples canonical classes, not problems: orders of the same numbers are
answered alike, so they are not independent trials.
"""

from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from model.config import EvaluationSpec
from model.decoding import spell
from model.trained import TrainedEncoder
from storage.columns import string_buffers
from storage.database import connect, parquet_source
from storage.errors import RunFailure, UserError
from storage.location import Location
from storage.manifest import Dataset, ShardRecord

_BATCH_ROWS = 1 << 15
_RESAMPLES = 10_000

Rows = tuple[NDArray[np.int64], pa.Array, pa.Array, NDArray[np.uint8], int]
Annotate = Callable[[NDArray[np.uint64]], dict[str, NDArray[np.unsignedinteger]]]


class Evaluation(BaseModel):
    """The outcome of one evaluation."""

    model_config = ConfigDict(frozen=True)

    split: str
    problems: int
    correct: int
    exact_match: float
    interval: tuple[float, float] = Field(description="95 % interval of the exact match.")
    interval_method: str
    classes: int = Field(description="Canonical classes among the problems.")
    passes: int
    checkpoint: str
    step: int
    parameters: int


def evaluate(
    model: TrainedEncoder,
    corpus: Dataset,
    tokens: Dataset,
    spec: EvaluationSpec,
    target: Location,
    annotate: Annotate,
    progress: Callable[[int], None] = lambda rows: None,
) -> Evaluation:
    """Answer a split's problems and write them to `target` as Parquet, in the order of their ids.

    `annotate` gives further columns from ids, uint64 [n]; `canonical` must be one of them.
    Raises `UserError` if the model was trained on another corpus.
    """
    if model.config.corpus_identity != corpus.manifest.identity:
        raise UserError(
            f"run {model.config.name!r} was trained on corpus {model.config.corpus!r} "
            f"({model.config.corpus_identity[:12]}), not on this one: name that corpus, or train a new run"
        )
    if model.config.tokens_identity != tokens.manifest.identity:
        raise UserError(
            f"the tokens at {tokens.location} are not those that run {model.config.name!r} was trained on: "
            "train a new run on them under another name"
        )
    canonical, right = [], []
    with target.staged() as path, pq.ParquetWriter(path, _schema(annotate), compression="zstd") as writer:
        for ids, problems, answers, rows, slots in _stream(corpus, tokens, spec):
            filled = model.fill(rows, slots, spec.decoding)
            predictions = spell(filled.ids, model.tokenizer)
            correct = (filled.ids == rows[:, -slots:]).all(1)
            notes = annotate(ids.view(np.uint64))
            count = len(ids)
            columns = [pa.array([spec.split] * count), pa.array(ids), problems, answers, predictions]
            columns += [pa.array(correct), pa.array(filled.confidence), *map(pa.array, notes.values())]
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema))
            canonical.append(notes["canonical"])
            right.append(correct)
            progress(count)
    if not right:
        raise RunFailure(f"the {spec.split} split is empty: generate a larger corpus")
    verdicts = np.concatenate(right)
    interval, method, classes = exact_match_interval(verdicts, np.concatenate(canonical))
    return Evaluation(
        split=spec.split,
        problems=len(verdicts),
        correct=int(verdicts.sum()),
        exact_match=float(verdicts.mean()),
        interval=interval,
        interval_method=method,
        classes=classes,
        passes=spec.decoding.passes,
        checkpoint=f"{spec.checkpoint} ({model.checkpoint.file})",
        step=model.checkpoint.step,
        parameters=model.encoder.parameter_count(),
    )


def exact_match_interval(
    correct: NDArray[np.bool_], classes: NDArray[np.integer], seed: int = 0
) -> tuple[tuple[float, float], str, int]:
    """A 95 % interval for the mean of `correct` [n], how it was found, and the number of classes.

    A percentile bootstrap that draws whole classes (cluster bootstrap; Davison and Hinkley,
    1997, section 3.8). Classes of equal size and errors are interchangeable, so a resample is
    one multinomial draw over their kinds. Without any error (or any success) the bootstrap
    says nothing, and the exact binomial bound over classes takes its place.
    """
    _, member = np.unique(classes, return_inverse=True)
    kinds, counts = np.unique(
        np.stack([np.bincount(member), np.bincount(member, weights=correct).astype(np.int64)]),
        axis=1,
        return_counts=True,
    )
    total = int(counts.sum())
    if correct.all():
        return (float(0.025 ** (1 / total)), 1.0), f"exact binomial over {total:,} canonical classes", total
    if not correct.any():
        return (0.0, float(1 - 0.025 ** (1 / total))), f"exact binomial over {total:,} canonical classes", total
    drawn = np.random.default_rng(seed).multinomial(total, counts / total, size=_RESAMPLES)
    rates = (drawn @ kinds[1]) / (drawn @ kinds[0])
    low, high = np.quantile(rates, [0.025, 0.975])
    return (float(low), float(high)), f"bootstrap over {total:,} canonical classes", total


def _schema(annotate: Annotate) -> pa.Schema:
    notes = annotate(np.zeros(1, np.uint64))
    return pa.schema(
        [
            pa.field("split", pa.string(), nullable=False),
            pa.field("id", pa.int64(), nullable=False),
            pa.field("problem", pa.string(), nullable=False),
            pa.field("answer", pa.string(), nullable=False),
            pa.field("prediction", pa.string(), nullable=False),
            pa.field("correct", pa.bool_(), nullable=False),
            pa.field("confidence", pa.float32(), nullable=False),
            *(pa.field(name, pa.from_numpy_dtype(value.dtype), nullable=False) for name, value in notes.items()),
        ]
    )


def _stream(corpus: Dataset, tokens: Dataset, spec: EvaluationSpec) -> Iterator[Rows]:
    """Batches of ids, problems, answers and token rows; both datasets hold the same rows in the same order."""
    left = spec.limit or corpus.manifest.split_rows[spec.split]
    for text_shard, token_shard in zip(corpus.of_split(spec.split), tokens.of_split(spec.split), strict=True):
        take = min(left, text_shard.rows)
        if not take:
            return
        text = _read(corpus, text_shard, "id, problem, answer", take)
        coded = _read(tokens, token_shard, "id, tokens", take)
        ids = text.column("id").to_numpy()
        if not np.array_equal(ids, coded.column("id").to_numpy()):
            raise RunFailure(f"shard {token_shard.path} doesn't hold the rows of its corpus: encode it again")
        data, _ = string_buffers(coded.column("tokens").combine_chunks())
        rows, slots = data.reshape(take, -1), tokens.manifest.spec["layouts"][token_shard.stratum]["answer"]
        for first in range(0, take, _BATCH_ROWS):
            part, batch = text.slice(first, _BATCH_ROWS), slice(first, first + _BATCH_ROWS)
            problems, answers = (part.column(name).combine_chunks() for name in ("problem", "answer"))
            yield ids[batch], problems, answers, rows[batch], slots
        left -= take


def _read(dataset: Dataset, shard: ShardRecord, columns: str, rows: int) -> pa.Table:
    source = parquet_source([str(dataset.verified(shard))])
    with connect() as connection:
        return connection.sql(f"SELECT {columns} FROM {source} LIMIT {rows}").to_arrow_table()
