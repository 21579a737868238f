"""Evaluates a run by kind of problem, with its symbolic unit on and off, and measures what the unit reads."""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from model.config.evaluation import ONE_PASS, Decoding, EvaluationSpec
from model.evaluation.decoding import spell
from model.evaluation.evaluate import check_corpus, right_answers
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.problem_batches import ProblemBatch, ProblemSet, stream
from model.evaluation.unit_readout import correct_readings, readings_of, together
from model.network.symbolic.unit import Reading
from model.runs.checkpoints import Checkpoints, restore
from storage.datasets.manifest import load
from storage.places.place import Location
from storage.workspace import Workspace

_SEVERAL = "brackets"
_READ = ("operation_read", "operands_read")


def evaluate_run(
    run: Location, target: Location, workspace: Workspace, corpora: tuple[str, ...], limit: int, curve_limit: int
) -> str:
    """Evaluate a run and write the results to `target` as JSON; returns the run's name.

    The last checkpoint is evaluated on the first `limit` problems of each corpus's test split, and every checkpoint on
    `curve_limit` problems of the first corpus. Then only the best and the last checkpoint are kept. Raises `UserError`
    for a corpus that the run may have been trained on or cannot read.
    """
    torch.set_num_threads(1)
    model = TrainedEncoder.open(run, "last")
    config, encoder = model.config, model.encoder
    rows: list[dict[str, Any]] = []
    for name in corpora:
        batches = _problems(model, workspace, name, limit)
        for unit in ("on", "off") if encoder.unit else ("on",):
            head = {"evaluation_corpus": name, "applied": unit}
            rows += [{**head, **row} for row in _by_operator(model, batches, Decoding(unit=unit))]
    about = {
        "run": config.name,
        "seed": config.training.seed,
        "unit": config.training.encoder.unit,
        "parameters": encoder.parameter_count(),
        "steps": model.checkpoint.step,
        "validation_exact_match": model.checkpoint.exact_match,
        "gate": encoder.unit.gate.detach().abs().mean().item() if encoder.unit else None,
    }
    curve = _curve(model, Checkpoints(run / "checkpoints"), _problems(model, workspace, corpora[0], curve_limit))
    target.write(json.dumps({"about": about, "rows": rows, "curve": curve}, indent=2).encode() + b"\n")
    Checkpoints(run / "checkpoints").prune()
    return config.name


def _problems(model: TrainedEncoder, workspace: Workspace, name: str, limit: int) -> list[ProblemBatch]:
    """The first problems of a corpus's test split."""
    tokenizer = model.config.tokenizer
    corpus = load(workspace.corpus(name), f"corpus {name!r}")
    encoded = load(workspace.tokens(name, tokenizer), f"corpus {name!r} encoded with {tokenizer!r}")
    check_corpus(model, corpus, encoded)
    # Canonical hashes serve intervals within one run; here the spread over seeds shows the uncertainty.
    return list(stream(ProblemSet(corpus, encoded, lambda ids: ids), EvaluationSpec(limit=limit)))


def _curve(model: TrainedEncoder, checkpoints: Checkpoints, batches: list[ProblemBatch]) -> list[dict[str, Any]]:
    """Exact match of each checkpoint by kind of problem; afterwards the model has the last checkpoint's weights."""
    found = []
    for entry in checkpoints.index().entries:
        restore(checkpoints.load(entry, model.config), model.encoder)
        for row in _by_operator(model, batches, ONE_PASS):
            found.append({"step": entry.step, "operator": row["operator"], "exact_match": row["exact_match"]})
    return found


def _by_operator(model: TrainedEncoder, batches: list[ProblemBatch], decoding: Decoding) -> list[dict[str, Any]]:
    """Results by operator, with one group for problems of several operators: counts, and what the unit reads.

    The shares of operations and operands that the unit reads correctly are None for problems of several operators, and
    without a unit or with the unit off.
    """
    tables = []
    for batch in batches:
        with readings_of(model.encoder) as readings:
            filled = model.fill(batch.rows, batch.slots, decoding)
        operators = batch.facts.column("operators").combine_chunks()
        is_one = pc.equal(pc.utf8_length(operators), 1)
        read = [pc.if_else(is_one, values, None) for values in _read(model, readings, batch)]
        columns = {
            "operator": pc.if_else(is_one, operators, _SEVERAL),
            "correct": right_answers(spell(filled.ids, model.tokenizer), batch),
            **dict(zip(_READ, read, strict=True)),
        }
        tables.append(pa.table(columns))
    shares = [("correct", "mean"), *((name, "mean") for name in _READ)]
    groups = pa.concat_tables(tables).group_by("operator").aggregate([([], "count_all"), ("correct", "sum"), *shares])
    names = {"count_all": "problems", "correct_sum": "correct", "correct_mean": "exact_match"}
    names |= {f"{name}_mean": name for name in _READ}
    return groups.sort_by("operator").rename_columns(names).to_pylist()


def _read(model: TrainedEncoder, readings: list[Reading], batch: ProblemBatch) -> Sequence[pa.Array]:
    """Whether the unit reads the operation and both operands of each problem correctly in the last loop, [n] each.

    Null if there is no unit or it is off.
    """
    if not readings:
        return [pa.nulls(len(batch.rows), pa.bool_())] * 2
    loops = model.encoder.config.loops_of(batch.slots)
    last = together(readings[loops - 1 :: loops])
    return [pa.array(values) for values in correct_readings(last, batch.facts.column("problem").to_pylist())]
