"""What a trained encoder answers, kind by kind of problem, with its symbolic unit and without; what the unit reads."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from model.config import Decoding, EvaluationSpec
from model.decoding import spell
from model.evaluation import Asked, check_corpus, right_answers, stream
from model.trained import TrainedEncoder
from model.units import OPERATIONS, Reading
from storage.location import Location, Workspace
from storage.manifest import load

_SEVERAL = "brackets"


def ask_run(run: Location, target: Location, workspace: Workspace, corpora: tuple[str, ...], limit: int) -> str:
    """Ask a run's last checkpoint the first `limit` problems of each corpus's test split; write the rows as JSON.

    Gives the run's name. Raises `UserError` for a corpus that it may have been trained on, or can't read.
    """
    torch.set_num_threads(1)
    model = TrainedEncoder.open(run, "last")
    config, spec = model.config, EvaluationSpec(limit=limit, checkpoint="last")
    rows: list[dict[str, Any]] = []
    for name in corpora:
        tokens = workspace.tokens(name, config.tokenizer)
        corpus = load(workspace.corpus(name), f"corpus {name!r}")
        encoded = load(tokens, f"corpus {name!r} encoded by {config.tokenizer!r}")
        check_corpus(model, corpus, encoded)
        # Canonical hashes are for intervals over one run; here seeds say how far to believe a figure.
        asked = list(stream(corpus, encoded, spec, lambda ids: ids))
        for unit in ("on", "off") if model.encoder.unit else ("on",):
            found = _by_group(model, asked, Decoding(unit=unit))
            rows += [{"asked": name, "applied": unit, "group": group, **counts} for group, counts in found.items()]
    encoder = model.encoder
    about = {
        "run": config.name,
        "seed": config.training.seed,
        "unit": config.training.encoder.unit,
        "parameters": encoder.parameter_count(),
        "steps": model.checkpoint.step,
        "validation_exact_match": model.checkpoint.exact_match,
        "gate": encoder.unit.gate.detach().abs().mean().item() if encoder.unit else None,
    }
    target.write(json.dumps({"about": about, "rows": rows}, indent=2).encode() + b"\n")
    return config.name


def _by_group(model: TrainedEncoder, asked: list[Asked], decoding: Decoding) -> dict[str, dict[str, Any]]:
    """Problems and right answers by operator, or of several operators, and what was read of those with one."""
    found: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
    for batch in asked:
        with _readings(model) as readings:
            filled = model.fill(batch.rows, batch.slots, decoding)
        right = right_answers(spell(filled.ids, model.tokenizer), batch)
        operation, operands = _read_rightly(readings, batch)
        values = np.stack([right, operation, operands], 1).astype(np.float64)
        operators = np.array(batch.facts.column("operators").to_pylist())
        for group in np.unique(names := np.where(np.char.str_len(operators) == 1, operators, _SEVERAL)):
            found[str(group)].append(values[names == group])
    return {group: _counts(np.concatenate(parts), group, decoding) for group, parts in sorted(found.items())}


def _counts(values: NDArray[np.float64], group: str, decoding: Decoding) -> dict[str, Any]:
    """What [n, 3] says: right answers, and how often the operation and the operands were read as they stand."""
    read = {}
    if group != _SEVERAL and decoding.unit == "on" and not np.isnan(values[:, 1:]).any():
        read = {"operation_read": float(values[:, 1].mean()), "operands_read": float(values[:, 2].mean())}
    correct = int(values[:, 0].sum())
    return {"problems": len(values), "correct": correct, "exact_match": correct / len(values), **read}


@contextmanager
def _readings(model: TrainedEncoder) -> Iterator[list[Reading]]:
    """What the unit reads in the block, in the last run of the encoder's block of each part of a batch."""
    found: list[Reading] = []
    unit, seen = model.encoder.unit, [0]
    if unit is None:
        yield found
        return

    def hook(module: torch.nn.Module, inputs: Any, output: Reading) -> None:
        """Keep one reading a part."""
        seen[0] += 1
        if seen[0] % model.config.training.encoder.loops == 0:
            found.append(output)

    handle = unit.reader.register_forward_hook(hook)
    try:
        yield found
    finally:
        handle.remove()


def _read_rightly(readings: list[Reading], asked: Asked) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each problem [n], whether its operation, and whether both operands were read; NaN where nothing was."""
    nothing = np.full(len(asked.rows), np.nan)
    if not readings:
        return nothing, nothing
    operation = torch.cat([reading.operation.argmax(-1).cpu() for reading in readings]).numpy()
    digits = torch.cat([reading.digits.argmax(-1).cpu() for reading in readings]).numpy()
    values = (digits * 10 ** np.arange(digits.shape[-1])).sum(-1)
    operators = asked.facts.column("operators").to_pylist()
    problems = asked.facts.column("problem").to_pylist()
    true = [OPERATIONS.index(text) if text in OPERATIONS else -1 for text in operators]
    numbers = [list(map(int, re.findall("[0-9]+", problem)))[:2] for problem in problems]
    return (operation == true).astype(float), (values == np.array(numbers)).all(1).astype(float)
