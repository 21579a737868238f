"""Along training: a few measures of every checkpoint that a run kept, beside its exact match on validation.

Fewer problems than a whole probing takes, and what was measured of a checkpoint is never measured again.
"""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.checkpoint import Checkpoints, restore
from model.encoder import Encoder
from model.probing.decoders import readings
from model.probing.geometry import measures
from model.probing.interventions import move_digits
from model.probing.spec import PROBING_VERSION, ProbingSpec
from model.probing.states import EMBEDDED
from model.probing.study import Study
from model.probing.tables import symbol_tables
from model.probing.twins import digit_twins
from model.trained import TrainedEncoder
from storage.location import Location
from storage.manifest import hash_of

_PROBLEMS, _EDITED = 1_200, 200
# Of the answer's slots.
_LABELS = ("digit", "carry in", "carry out", "column sum")
# Fewer edited problems say nothing.
_LEAST = 30


def series(
    folder: Location, model: TrainedEncoder, spec: ProbingSpec, progress: Callable[[str], None] = lambda step: None
) -> list[dict[str, Any]]:
    """A row for each checkpoint and measure, oldest first; those known already are read from probes/series.parquet.

    So are those of checkpoints that are gone by now.
    """
    checkpoints, place = Checkpoints(folder / "checkpoints"), folder / "probes" / "series.parquet"
    known, asked = _known(place, spec), _asked(spec)
    for entry in checkpoints.index().entries:
        if entry.sha256 in known:
            continue
        encoder = Encoder(model.config.training.encoder, model.tokenizer)
        restore(checkpoints.load(entry, model.config), encoder)
        then = TrainedEncoder(model.config, entry, model.tokenizer, encoder.to(_device(model)), model.precision)
        head = {"step": entry.step, "exact_match": entry.exact_match, "sha256": entry.sha256, "asked": asked}
        known[entry.sha256] = [
            {**head, "measure": name, "value": value}
            for name, value in _measured(then, min(spec.problems, _PROBLEMS)).items()
        ]
        # What is measured stays measured, whatever ends this.
        with place.staged() as path:
            pq.write_table(pa.Table.from_pylist(_rows(known)), path, compression="zstd", write_page_checksum=True)
        progress(f"step {entry.step}")
    return _rows(known)


def all_known(folder: Location, spec: ProbingSpec) -> bool:
    """Whether every checkpoint that is there has been measured."""
    known = _known(folder / "probes" / "series.parquet", spec)
    return all(entry.sha256 in known for entry in Checkpoints(folder / "checkpoints").index().entries)


def _asked(spec: ProbingSpec) -> str:
    """What the measures depend on beside the checkpoint."""
    return hash_of([PROBING_VERSION, min(spec.problems, _PROBLEMS)])


def _rows(known: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return sorted((row for rows in known.values() for row in rows), key=lambda row: row["step"])


def _measured(model: TrainedEncoder, problems: int) -> dict[str, float]:
    study = Study(model, ProbingSpec(problems=problems))
    tables = symbol_tables(model.encoder, model.tokenizer)
    found: dict[str, float] = {}
    for symbols in ("digits", "numbers"):
        if symbols in tables:
            found |= {f"{symbols}: {each.name}": each.value for each in measures(tables[symbols][1])}
    if study.has_columns:
        answer = next(each for each in study.examples if each.kind == "answer")
        seen = study.seen[study.examples.index(answer)]
        inner = {state: values for state, values in seen.items() if state != EMBEDDED}
        for each in readings(answer, study.splits(answer)[:1], inner, {}, _LABELS, shuffles=0):
            if each.probe == "linear":
                name = f"kappa: {each.label}"
                found[name] = max(found.get(name, each.kappa.value), each.kappa.value)
    if model.config.group == 1:
        twins = digit_twins(model, study.problems, study.layout).first(_EDITED)
        if twins.count >= _LEAST:
            for outcome in move_digits(model, twins, {EMBEDDED: tables["digits"][1]}):
                if not outcome.shift:
                    found[f"moved: {outcome.way}"] = outcome.predicted
    return found


def _known(place: Location, spec: ProbingSpec) -> dict[str, list[dict[str, Any]]]:
    """The rows of each checkpoint that were measured so; none where the file is damaged, which is then made anew."""
    if not place.exists():
        return {}
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        with place.opened() as file:
            rows = pq.ParquetFile(file, page_checksum_verification=True).read().to_pylist()
        for row in rows:
            if row["asked"] == _asked(spec):
                found.setdefault(row["sha256"], []).append(row)
    except (pa.ArrowException, OSError, KeyError):
        return {}
    return found


def _device(model: TrainedEncoder) -> Any:
    return model.encoder.tokens.weight.device
