"""Evaluates exact match on a split, and writes every problem with the model's answer and its correctness."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from model.config.evaluation import Decoding, EvaluationSpec
from model.evaluation.calibration import Calibration, calibration
from model.evaluation.decoding import spell
from model.evaluation.intervals import Group, breakdown, exact_match_by_class, exact_match_interval
from model.evaluation.operand_recovery import score_operands
from model.evaluation.predictor import TrainedEncoder, TrainedModel, TrainedRewriter
from model.evaluation.problem_batches import FACTS, ProblemBatch, ProblemSet, ScoredBatch, stream
from model.evaluation.rewriting.answers import STEP_FAMILIES, step_answers
from model.evaluation.rewriting.table import STEPS, step_table
from model.evaluation.rewriting.trace import Trace
from model.runs.run_config import RunConfig
from model.training.hardware import precision_name
from storage.datasets.manifest import Dataset
from storage.errors import RunFailure, UserError
from storage.order import derive_key, uniforms
from storage.places.place import Location

_PASSES = (2, 4, 8, 16)
# Budget for the comparison of passes, in tokens times passes.
_PASSES_TOKENS = 1 << 21

_SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("checkpoint", pa.string()),
        ("corpus", pa.string()),
        ("split", pa.string()),
        ("family", pa.string()),
        ("width", pa.int64()),
        ("id", pa.int64()),
        *FACTS.items(),
        ("missing", pa.string()),
        ("decoding", pa.string()),
        ("prediction", pa.string()),
        ("correct", pa.bool_()),
        ("confidence", pa.float32()),
        ("canonical", pa.uint64()),
        ("states", pa.list_(pa.string())),
        ("passes", pa.int32()),
    ]
)
# The steps of the rewritings, in a file beside that of the predictions.
_STEP_SCHEMA = pa.schema(
    [
        ("suite", pa.string()),
        ("checkpoint", pa.string()),
        ("corpus", pa.string()),
        ("split", pa.string()),
        ("decoding", pa.string()),
        ("id", pa.int64()),
        ("step", pa.int32()),
        *STEPS.items(),
    ]
)


class PassesResult(BaseModel, frozen=True):
    """Exact match on the first evaluated problems, with the slots filled in several passes."""

    order: str
    passes: int
    exact_match: float


class Evaluation(BaseModel, frozen=True):
    """The result of one evaluation."""

    suite: str = ""
    corpus: str
    split: str
    problems: int
    correct: int
    exact_match: float
    interval: tuple[float, float] = Field(description="95 % interval of the exact match.")
    interval_method: str
    classes: int = Field(description="Canonical classes among the problems.")
    exact_match_by_class: float = Field(
        description="Mean over canonical classes: repeated and reordered problems count once."
    )
    passes: int = Field(description="Passes that fill the answer; 0 if the problems are rewritten.")
    by_passes: tuple[PassesResult, ...] = Field(description="Exact match by number of passes.")
    breakdown: dict[str, tuple[Group, ...]] = Field({}, description="Exact match by properties of the problems.")
    calibration: Calibration
    checkpoint: str
    step: int
    parameters: int
    precision: str = Field("", description="Arithmetic precision of the answers.")
    missing: str = Field("answer", description="What was predicted: the answer, or an operand.")
    decoding: str = Field(
        "", description="Decoding settings that differ from the defaults, as JSON; empty if none differ."
    )
    left_out: int = Field(
        0,
        description="Problems that were not scored: they or their counterparts may be training problems, or no operand "
        "has a unique solution.",
    )


def evaluate(
    model: TrainedModel,
    problems: ProblemSet,
    spec: EvaluationSpec,
    target: Location,
    progress: Callable[[int], None] = lambda rows: None,
) -> Evaluation:
    """Evaluate a split's problems and write the predictions to `target` as Parquet, shard by shard.

    For an encoder that rewrites, the steps are written to a file of the same name in the folder `steps`.

    Raises `UserError` if the model may have been trained on problems of the corpus or cannot read it, and `RunFailure`
    if no problem can be scored.
    """
    check_corpus(model, problems.corpus, problems.tokens)
    model.check_decoding(spec.decoding)
    check_missing(model, spec)
    results = _Results()
    with ExitStack() as stack:
        writer = _writer(stack, target, _SCHEMA)
        steps = _writer(stack, steps_beside(target), _STEP_SCHEMA) if isinstance(model, TrainedRewriter) else None
        for batch in stream(problems, spec):
            results.streamed += len(batch.rows)
            progress(len(batch.rows))
            if problems.fair:
                batch = batch.where(problems.fair(batch.facts, batch.canonical))
            scored = _score(model, batch, spec) if len(batch.rows) else None
            if scored and len(scored.correct):
                writer.write_table(_predictions(scored, problems, spec))
                if steps and scored.traces:
                    steps.write_table(_steps(scored, scored.traces, problems, spec))
                results.add(scored)
        if not results.scores:
            raise RunFailure(
                f"none of the {results.streamed:,} problems of the {spec.split} split can be scored: the run may have "
                "been trained on them or on sums and differences of the same numbers, or no operand has a unique "
                "solution; " + ("use another split" if spec.split == "train" else "raise limit or use another corpus")
            )
    return _outcome(model, problems, spec, results, breakdown(target))


@dataclass
class _Results:
    """The results of every batch that are kept in memory; the rest is in the predictions."""

    scores: list[tuple[NDArray[np.uint64], NDArray[np.bool_], NDArray[np.float32]]] = field(default_factory=list)
    """Hashes of canonical forms, correctness and confidence of the answers, each [n]."""
    first: dict[tuple[str, int], ProblemBatch] = field(default_factory=dict)
    """The first evaluated problems of each stratum."""
    streamed: int = 0
    """Number of problems read, including those left out."""

    def add(self, scored: ScoredBatch) -> None:
        """Add the results of a batch."""
        batch = scored.batch
        self.scores.append((batch.canonical, scored.correct, scored.confidence))
        self.first.setdefault((batch.family, batch.width), batch)


def _outcome(
    model: TrainedModel,
    problems: ProblemSet,
    spec: EvaluationSpec,
    results: _Results,
    groups: dict[str, tuple[Group, ...]],
) -> Evaluation:
    """The evaluation from all collected answers."""
    classes, correct, confidence = (np.concatenate(parts) for parts in zip(*results.scores, strict=True))
    interval, method, count = exact_match_interval(correct, classes)
    # In a small suite, the comparison of passes costs more than the suite and is unrelated to its purpose.
    compares_passes = problems.suite in ("", "test") and spec.missing == "answer"
    return Evaluation(
        suite=problems.suite,
        corpus=problems.corpus.manifest.name,
        split=spec.split,
        problems=len(correct),
        correct=int(correct.sum()),
        exact_match=float(correct.mean()),
        interval=interval,
        interval_method=method,
        classes=count,
        exact_match_by_class=exact_match_by_class(correct, classes),
        passes=spec.decoding.passes if isinstance(model, TrainedEncoder) else 0,
        by_passes=(
            by_passes(model, list(results.first.values()), spec.decoding)
            if compares_passes and isinstance(model, TrainedEncoder)
            else ()
        ),
        breakdown=groups,
        calibration=calibration(confidence, correct),
        checkpoint=f"{spec.checkpoint} ({model.checkpoint.file})",
        step=model.checkpoint.step,
        parameters=model.parameters,
        precision=precision_name(model.precision),
        missing=spec.missing,
        decoding=decoding_text(spec),
        left_out=results.streamed - len(correct),
    )


def _score(model: TrainedModel, batch: ProblemBatch, spec: EvaluationSpec) -> ScoredBatch:
    """The model's answers to the problems that can be scored, which may be none."""
    if isinstance(model, TrainedRewriter):
        if batch.family in STEP_FAMILIES:
            if not spec.decoding.is_default():
                raise UserError(
                    "decoding.marks and decoding.values are for whole problems, not for single steps: use a suite"
                )
            texts = batch.facts.column("problem").to_pylist()
            return ScoredBatch(batch, {}, *step_answers(model, texts, batch.rows, batch.slots))
        solutions = model.solve(batch.facts.column("problem").to_pylist(), spec.decoding)
        prediction = pa.array([solution.answer for solution in solutions], pa.string())
        confidence = np.array([solution.confidence for solution in solutions], np.float32)
        traces = [solution.trace for solution in solutions if solution.trace]
        return ScoredBatch(batch, {}, prediction, right_answers(prediction, batch), confidence, traces)
    assert isinstance(model, TrainedEncoder)
    if spec.missing == "operand":
        return score_operands(model, batch, uniforms(derive_key("missing operand"), batch.ids))
    filled = model.fill(batch.rows, batch.slots, spec.decoding)
    prediction = spell(filled.ids, model.tokenizer)
    return ScoredBatch(batch, {}, prediction, right_answers(prediction, batch), filled.confidence)


def _predictions(scored: ScoredBatch, problems: ProblemSet, spec: EvaluationSpec) -> pa.Table:
    """The rows of the predictions file."""
    batch, rows = scored.batch, len(scored.correct)
    constants = {
        "suite": problems.suite,
        "checkpoint": spec.checkpoint,
        "corpus": problems.corpus.manifest.name,
        "split": spec.split,
        "family": batch.family,
        "width": batch.width,
        "missing": spec.missing,
        "decoding": decoding_text(spec),
    }
    values = {name: pa.repeat(value, rows) for name, value in constants.items()}
    values |= {name: batch.facts.column(name) for name in ("id", *FACTS)} | scored.facts
    for name in ("prediction", "correct", "confidence"):
        values[name] = getattr(scored, name)
    states = pa.nulls(rows, pa.list_(pa.string()))
    if scored.traces:
        states = pa.array([trace.states for trace in scored.traces], states.type)
    passes = pc.subtract(pc.list_value_length(states), 1)
    return pa.table({**values, "canonical": batch.canonical, "states": states, "passes": passes}, _SCHEMA)


def _steps(scored: ScoredBatch, traces: Sequence[Trace], problems: ProblemSet, spec: EvaluationSpec) -> pa.Table:
    """The rows of the file of steps."""
    table = step_table(scored.batch.facts.column("id").to_pylist(), traces)
    constants = {
        "suite": problems.suite,
        "checkpoint": spec.checkpoint,
        "corpus": problems.corpus.manifest.name,
        "split": spec.split,
        "decoding": decoding_text(spec),
    }
    values = {name: pa.repeat(value, table.num_rows) for name, value in constants.items()}
    return pa.table({**values, **{name: table[name] for name in table.column_names}}, _STEP_SCHEMA)


def steps_beside(predictions: Location) -> Location:
    """The file of steps that belongs to a file of predictions."""
    return predictions.parent.parent / "steps" / predictions.name


def _writer(stack: ExitStack, target: Location, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of a Parquet file that appears when `stack` closes without an error."""
    return stack.enter_context(pq.ParquetWriter(stack.enter_context(target.staged()), schema, compression="zstd"))


def decoding_text(spec: EvaluationSpec) -> str:
    """The decoding settings that differ from the defaults, as JSON; empty if none differ."""
    values = spec.decoding.model_dump(mode="json", exclude_defaults=True, exclude={"method"})
    return json.dumps(values) if values else ""


def check_missing(model: TrainedModel, spec: EvaluationSpec) -> None:
    """Raise `UserError` if operands are to be predicted and the encoder or its tokenizer cannot do so."""
    if spec.missing == "operand":
        if not isinstance(model, TrainedEncoder):
            raise UserError("missing is operand, which an encoder that rewrites cannot predict: use missing answer")
        model.tokenizer.character_ids()


def _check_answers(config: RunConfig, corpus: Dataset) -> None:
    """Raise `UserError` if the same row of steps or marks has another answer in the corpus than in the training."""
    parts: list[dict[str, Any]] = corpus.manifest.spec.get("mixture") or [corpus.manifest.spec]
    for family, name, default in (("steps", "digits_per_step", 1), ("marks", "whole_brackets", False)):
        theirs, ours = (
            {part.get(name, default) for part in each if part["family"] == family} for each in (parts, config.parts)
        )
        if theirs and ours and theirs != ours:
            raise UserError(
                f"corpus {corpus.manifest.name!r} has {family} with {name} {theirs.pop()}, but run {config.name!r} was "
                f"trained with {ours.pop()}: generate it with that"
            )


def check_corpus(model: TrainedModel, corpus: Dataset, tokens: Dataset) -> None:
    """Raise `UserError` if a run cannot be evaluated on a corpus's held-out problems.

    The corpus must be encoded with the run's tokenizer. Its split must be the same function of the problem as the
    split of the training corpus, so that no test problem was trained on.
    """
    config = model.config
    _check_answers(config, corpus)
    if tokens.manifest.spec["tokenizer"] != config.tokenizer_identity:
        raise UserError(
            f"the tokens at {tokens.location} were encoded with another tokenizer than run {config.name!r} was trained "
            f"with ({config.tokenizer!r}): encode the corpus with that tokenizer"
        )
    if config.corpus_identity == corpus.manifest.identity:
        if config.tokens_identity != tokens.manifest.identity:
            raise UserError(
                f"the tokens at {tokens.location} differ from those that run {config.name!r} was trained on: "
                "train a new run on them with another name"
            )
        return
    for key in ("split_key", "validation", "test"):
        theirs, ours = corpus.manifest.spec[key], config.corpus_spec[key]
        if theirs != ours:
            raise UserError(
                f"corpus {corpus.manifest.name!r} has {key} {theirs}, but run {config.name!r} was trained on a "
                f"corpus with {ours}: its held-out problems may be training problems; generate it with {key} {ours}"
            )


def by_passes(model: TrainedEncoder, batches: list[ProblemBatch], decoding: Decoding) -> tuple[PassesResult, ...]:
    """Exact match by number of passes and their order, on the first of the problems in `batches`."""
    slots = max(batch.slots for batch in batches)
    counts = [passes for passes in _PASSES if passes // 2 < slots]
    size = max(1, _PASSES_TOKENS // (1 + 2 * sum(counts)) // sum(batch.rows.shape[1] for batch in batches))
    results = []
    for order, passes in (("confidence", 1), *product(("confidence", "units-first"), counts)):
        variant = decoding.model_copy(update={"passes": passes, "order": order})
        right = [
            right_answers(spell(model.fill(batch.rows[:size], batch.slots, variant).ids, model.tokenizer), batch)
            for batch in batches
        ]
        exact_match = float(np.concatenate(right).mean())
        results.append(PassesResult(order=order, passes=min(passes, slots), exact_match=exact_match))
    return tuple(results)


def right_answers(predictions: pa.Array, batch: ProblemBatch) -> NDArray[np.bool_]:
    """Which of the first n problems are answered exactly; compares text, so that all tokenizers are scored alike."""
    answers = batch.facts.column("answer").slice(0, len(predictions)).combine_chunks()
    return np.asarray(pc.equal(predictions, answers))
