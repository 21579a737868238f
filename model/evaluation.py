"""Exact match on a split: every problem, the model's answer and whether it is right.

The interval resamples canonical classes, not problems: orders of the same numbers are
answered alike, so they are not independent trials.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from model.config import Decoding, EvaluationSpec
from model.decoding import spell
from model.missing import fill_operands
from model.trained import TrainedEncoder
from storage.columns import string_buffers
from storage.database import connect, parquet_source
from storage.errors import RunFailure, UserError
from storage.location import Location
from storage.manifest import Dataset, ShardRecord
from storage.order import derive_key, uniforms

_BATCH_ROWS = 1 << 15
_RESAMPLES = 10_000

_PASSES = (2, 4, 8, 16)
# What is spent on the comparison of passes, in tokens times passes.
_PASSES_TOKENS = 1 << 21

CanonicalHashes = Callable[[NDArray[np.uint64]], NDArray[np.uint64]]
# From problems and answers as text, which of them may be judged.
Judged = Callable[[pa.Array, pa.Array], NDArray[np.bool_]]

# What a prediction says of its problem; a family that doesn't know one of these has nulls.
_FACTS = {
    "problem": pa.string(),
    "answer": pa.string(),
    "operators": pa.string(),
    **dict.fromkeys(("terms", "digits", "answer_digits", "carries", "depth"), pa.int32()),
    "negative": pa.bool_(),
}
_SCHEMA = pa.schema(
    [
        ("corpus", pa.string()),
        ("split", pa.string()),
        ("family", pa.string()),
        ("width", pa.int64()),
        ("id", pa.int64()),
        *_FACTS.items(),
        ("missing", pa.string()),
        ("prediction", pa.string()),
        ("correct", pa.bool_()),
        ("confidence", pa.float32()),
        ("canonical", pa.uint64()),
    ]
)


class Asked(NamedTuple):
    """Problems of one stratum."""

    family: str
    width: int
    facts: pa.Table
    """Columns id and those of `_FACTS`, [n]."""
    rows: NDArray[np.uint8]
    """Token rows, [n, width]."""
    slots: int

    def where(self, kept: NDArray[np.bool_]) -> "Asked":
        """Those of the problems that are kept, [n]."""
        return self._replace(facts=self.facts.filter(pa.array(kept)), rows=self.rows[kept])


class _Verdicts(NamedTuple):
    """What the model said of n problems."""

    facts: dict[str, pa.Array | pa.ChunkedArray]
    """Columns problem and answer, as they were asked."""
    prediction: pa.Array
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float32]


class PassesResult(BaseModel):
    """Exact match on the first problems asked, with the slots filled in several passes."""

    model_config = ConfigDict(frozen=True)

    order: str
    passes: int
    exact_match: float


class Evaluation(BaseModel):
    """The outcome of one evaluation."""

    model_config = ConfigDict(frozen=True)

    corpus: str
    split: str
    problems: int
    correct: int
    exact_match: float
    interval: tuple[float, float] = Field(description="95 % interval of the exact match.")
    interval_method: str
    classes: int = Field(description="Canonical classes among the problems.")
    passes: int
    by_passes: tuple[PassesResult, ...] = Field(description="Exact match against the number of passes.")
    checkpoint: str
    step: int
    parameters: int
    missing: str = Field("answer", description="What was asked: the answer, or an operand.")
    left_out: int = Field(0, description="Problems not asked: their twins were trained on, or no operand is certain.")


def evaluate(
    model: TrainedEncoder,
    corpus: Dataset,
    tokens: Dataset,
    spec: EvaluationSpec,
    target: Location,
    canonical: CanonicalHashes,
    progress: Callable[[int], None] = lambda rows: None,
    judged: Judged | None = None,
) -> Evaluation:
    """Answer a split's problems and write them to `target` as Parquet, stratum by stratum in the order of their ids.

    `canonical` gives the hashes of canonical forms from ids, uint64 [n]; problems that aren't
    `judged` are left out. Raises `UserError` for a corpus whose problems the model may have been
    trained on, or which it can't read, and `RunFailure` where no problem can be asked.
    """
    check_corpus(model, corpus, tokens)
    if spec.missing == "operand":
        model.tokenizer.character_ids()
    classes, right, first, streamed = [], [], dict[int, Asked](), 0
    with target.staged() as path, pq.ParquetWriter(path, _SCHEMA, compression="zstd") as writer:
        for asked in _stream(corpus, tokens, spec):
            streamed += len(asked.rows)
            progress(len(asked.rows))
            if judged:
                asked = asked.where(judged(*(asked.facts[name].combine_chunks() for name in ("problem", "answer"))))
            if not len(asked.rows):
                continue
            asked, verdicts = _ask(model, asked, spec)
            ids, rows = asked.facts.column("id"), len(asked.rows)
            if not rows:
                continue
            hashes = canonical(ids.to_numpy().view(np.uint64))
            values = {
                "corpus": pa.array([corpus.manifest.name] * rows),
                "split": pa.array([spec.split] * rows),
                "family": pa.array([asked.family] * rows),
                "width": pa.array([asked.width] * rows),
                "id": ids,
                **{name: asked.facts.column(name) for name in _FACTS},
                **verdicts.facts,
                "missing": pa.array([spec.missing] * rows),
                "prediction": verdicts.prediction,
                "correct": pa.array(verdicts.correct),
                "confidence": pa.array(verdicts.confidence),
                "canonical": pa.array(hashes),
            }
            writer.write_table(pa.Table.from_arrays(list(values.values()), schema=_SCHEMA))
            classes.append(hashes)
            right.append(verdicts.correct)
            first.setdefault(asked.width, asked)
    if streamed and not right:
        raise RunFailure(
            f"none of the {streamed:,} problems asked may be judged: the addition twin of each was trained on, "
            "or no operand of it is certain; raise limit or take another corpus"
        )
    if not right:
        raise RunFailure(f"the {spec.split} split is empty: generate a larger corpus")
    outcomes = np.concatenate(right)
    interval, method, count = exact_match_interval(outcomes, np.concatenate(classes))
    return Evaluation(
        corpus=corpus.manifest.name,
        split=spec.split,
        problems=len(outcomes),
        correct=int(outcomes.sum()),
        exact_match=float(outcomes.mean()),
        interval=interval,
        interval_method=method,
        classes=count,
        passes=spec.decoding.passes,
        by_passes=by_passes(model, list(first.values()), spec.decoding) if spec.missing == "answer" else (),
        checkpoint=f"{spec.checkpoint} ({model.checkpoint.file})",
        step=model.checkpoint.step,
        parameters=model.encoder.parameter_count(),
        missing=spec.missing,
        left_out=streamed - len(outcomes),
    )


def _ask(model: TrainedEncoder, asked: Asked, spec: EvaluationSpec) -> tuple[Asked, _Verdicts]:
    """The problems that can be asked for what is missing, and what the model says."""
    if spec.missing == "answer":
        filled = model.fill(asked.rows, asked.slots, spec.decoding)
        correct = (filled.ids == asked.rows[:, -asked.slots :]).all(1)
        return asked, _Verdicts({}, spell(filled.ids, model.tokenizer), correct, filled.confidence)
    ids = asked.facts.column("id").to_numpy().view(np.uint64)
    share = uniforms(derive_key("missing operand"), ids)
    can, answers = fill_operands(model.encoder, model.tokenizer, asked.rows, asked.slots, model.precision, share)
    facts = {"problem": answers.problems, "answer": answers.operands}
    return asked.where(can), _Verdicts(facts, answers.predictions, answers.correct, answers.confidence)


def check_corpus(model: TrainedEncoder, corpus: Dataset, tokens: Dataset) -> None:
    """Raise `UserError` where a run can't be asked a corpus's held-out problems.

    Any corpus may be asked that was encoded by the run's tokenizer and whose split is the
    same function of the problem as that of the corpus trained on: then nothing leaks.
    """
    config = model.config
    if tokens.manifest.spec["tokenizer"] != config.tokenizer_identity:
        raise UserError(
            f"the tokens at {tokens.location} were made by another tokenizer than run {config.name!r} was trained "
            f"with ({config.tokenizer!r}): encode the corpus with that one"
        )
    if config.corpus_identity == corpus.manifest.identity:
        if config.tokens_identity != tokens.manifest.identity:
            raise UserError(
                f"the tokens at {tokens.location} are not those that run {config.name!r} was trained on: "
                "train a new run on them under another name"
            )
        return
    for key in ("split_key", "validation", "test"):
        theirs, ours = corpus.manifest.spec[key], config.corpus_spec[key]
        if theirs != ours:
            raise UserError(
                f"corpus {corpus.manifest.name!r} has {key} {theirs}, run {config.name!r} was trained on a corpus "
                f"with {ours}: problems held out there may have been trained on here; generate it with {key} {ours}"
            )


def by_passes(model: TrainedEncoder, asked: list[Asked], decoding: Decoding) -> tuple[PassesResult, ...]:
    """Exact match against the number of passes and their order, on the first of the problems asked."""
    slots = max(batch.slots for batch in asked)
    counts = [passes for passes in _PASSES if passes // 2 < slots]
    size = max(1, _PASSES_TOKENS // (1 + 2 * sum(counts)) // sum(batch.rows.shape[1] for batch in asked))
    asks = [Decoding(passes=1)] + [
        Decoding(passes=passes, order=order) for order in ("confidence", "units-first") for passes in counts
    ]
    found = []
    for ask in asks:
        ask = ask.model_copy(update={"loops": decoding.loops, "sharpness": decoding.sharpness})
        right = [
            (model.fill(batch.rows[:size], batch.slots, ask).ids == batch.rows[:size, -batch.slots :]).all(1)
            for batch in asked
        ]
        exact_match = float(np.concatenate(right).mean())
        found.append(PassesResult(order=ask.order, passes=min(ask.passes, slots), exact_match=exact_match))
    return tuple(found)


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


def _stream(corpus: Dataset, tokens: Dataset, spec: EvaluationSpec) -> Iterator[Asked]:
    """Batches of problems; both datasets hold the same rows in the same order."""
    left = _limits(corpus, spec)
    for text_shard, token_shard in zip(corpus.of_split(spec.split), tokens.of_split(spec.split), strict=True):
        take = min(left[text_shard.stratum], text_shard.rows)
        if not take:
            continue
        left[text_shard.stratum] -= take
        text = _read(corpus, text_shard, take)
        coded = _read(tokens, token_shard, take)
        if not text.column("id").equals(coded.column("id")):
            raise RunFailure(f"shard {token_shard.path} doesn't hold the rows of its corpus: encode it again")
        facts = pa.table({"id": text.column("id"), **{name: _fact(text, name) for name in _FACTS}})
        data, _ = string_buffers(coded.column("tokens").combine_chunks())
        rows, slots = data.reshape(take, -1), tokens.manifest.spec["layouts"][token_shard.stratum]["answer"]
        family, _, width = text_shard.stratum.rpartition("-")
        for first in range(0, take, _BATCH_ROWS):
            batch = slice(first, first + _BATCH_ROWS)
            yield Asked(family, int(width), facts.slice(first, _BATCH_ROWS), rows[batch], slots)


def _limits(corpus: Dataset, spec: EvaluationSpec) -> dict[str, int]:
    """Problems of each stratum that are asked: all, or the limit shared by their rows."""
    rows: dict[str, int] = {}
    for shard in corpus.of_split(spec.split):
        rows[shard.stratum] = rows.get(shard.stratum, 0) + shard.rows
    total = sum(rows.values())
    if not spec.limit or spec.limit >= total:
        return rows
    shares, before, asked = {}, 0, 0
    for stratum, count in rows.items():
        before += count
        shares[stratum] = spec.limit * before // total - asked
        asked += shares[stratum]
    return shares


def _fact(text: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in text.column_names:
        return pa.chunked_array([pa.nulls(text.num_rows, _FACTS[name])])
    return text.column(name).cast(_FACTS[name])


def _read(dataset: Dataset, shard: ShardRecord, rows: int) -> pa.Table:
    source = parquet_source([str(dataset.verified(shard))], options=", hive_partitioning = false")
    with connect() as connection:
        return connection.sql(f"SELECT * FROM {source} LIMIT {rows}").to_arrow_table()
