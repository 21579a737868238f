"""Evaluates a run by kind of problem, with its symbolic unit on and off, and measures what the unit reads."""

import json
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

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
            found = _by_operator(model, batches, Decoding(unit=unit))
            place = {"asked": name, "applied": unit}
            rows += [{**place, "operator": operator, **counts} for operator, counts in found.items()]
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
        for operator, counts in _by_operator(model, batches, ONE_PASS).items():
            found.append({"step": entry.step, "operator": operator, "exact_match": counts["exact_match"]})
    return found


def _by_operator(model: TrainedEncoder, batches: list[ProblemBatch], decoding: Decoding) -> dict[str, dict[str, Any]]:
    """Results by operator, with one group for problems of several operators; see `_counts`."""
    found: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for batch in batches:
        with readings_of(model.encoder) as readings:
            filled = model.fill(batch.rows, batch.slots, decoding)
        right = right_answers(spell(filled.ids, model.tokenizer), batch)
        values = np.column_stack([right.astype(np.float64), _read(model, readings, batch)])
        operators = np.array(batch.facts.column("operators").to_pylist())
        for operator in np.unique(names := np.where(np.char.str_len(operators) == 1, operators, _SEVERAL)):
            found[str(operator)].append(values[names == operator])
    return {kind: _counts(np.concatenate(parts), kind, decoding) for kind, parts in sorted(found.items())}


def _counts(values: NDArray[np.float64], operator: str, decoding: Decoding) -> dict[str, Any]:
    """Counts of `values` [n, 3]: correct answers, and the shares of operations and operands that were read correctly.

    The shares are given only for problems of one operator, with the unit on.
    """
    read = {}
    if operator != _SEVERAL and decoding.unit == "on" and not np.isnan(values[:, 1:]).any():
        read = {"operation_read": float(values[:, 1].mean()), "operands_read": float(values[:, 2].mean())}
    correct = int(values[:, 0].sum())
    return {"problems": len(values), "correct": correct, "exact_match": correct / len(values), **read}


def _read(model: TrainedEncoder, readings: list[Reading], batch: ProblemBatch) -> NDArray[np.float64]:
    """Whether the operation and both operands of each problem were read correctly in the last loop, [n, 2].

    NaN if there is no unit or it is off.
    """
    if not readings:
        return np.full((len(batch.rows), 2), np.nan)
    loops = model.encoder.config.loops_of(batch.slots)
    last = together(readings[loops - 1 :: loops])
    return np.stack(correct_readings(last, batch.facts.column("problem").to_pylist()), 1).astype(np.float64)
