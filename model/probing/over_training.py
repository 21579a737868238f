"""Probing measures over the kept checkpoints of a run, with their exact match on validation.

Each measure has one value and one control per checkpoint, from fewer problems and states than a full probing. Measures
of a checkpoint are cached.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from statistics import mean
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from model.config.probing import PROBING_VERSION, ProbingSpec
from model.evaluation.predictor import TrainedEncoder
from model.network.encoder import Encoder
from model.probing.attention import ROLES, attended
from model.probing.causal.counterfactuals import carry_pairs, digit_pairs
from model.probing.causal.interventions import ablate_heads, move_digits, patch_carries
from model.probing.geometry import measures
from model.probing.hooks import EMBEDDED, spread
from model.probing.probes import Control, readings
from model.probing.study import Study, untrained_like
from model.probing.tables import symbol_tables
from model.probing.token_dataset import batches_of
from model.runs.checkpoints import CheckpointEntry, Checkpoints, restore
from storage.datasets.shard import file_hash
from storage.places.disk import LocalLocation
from storage.places.place import Location

_PROBLEMS, _ATTENDED, _EDITED = 900, 200, 150
# Number of inner states, evenly spaced.
_STATES = 3
# Minimum number of edited problems for a measure.
_LEAST = 30
# The table, and the file with its hashes.
_FILE, _MARK = "series.parquet", "series.json"
_READ = ("same column", "next lower column", "operator")
_SCHEMA = pa.schema(
    {
        "step": pa.int64(),
        "exact_match": pa.float64(),
        "sha256": pa.string(),
        "problems": pa.int64(),
        "measure": pa.string(),
        "value": pa.float64(),
        "control": pa.float64(),
    }
)

# Rows by the checkpoint's hash and the number of problems.
Cached = dict[tuple[str, int], list[dict[str, Any]]]


class Measured(NamedTuple):
    """A measure of one checkpoint, with its control."""

    measure: str
    value: float
    control: float | None


def series(
    folder: Location, model: TrainedEncoder, spec: ProbingSpec, progress: Callable[[str], None] = lambda step: None
) -> list[dict[str, Any]]:
    """One row per checkpoint and measure, oldest first; cached rows are read from probes/series.parquet.

    The result includes cached rows of deleted checkpoints. Rows for other numbers of problems stay in the file.
    """
    checkpoints, file, problems = Checkpoints(folder / "checkpoints"), folder / "probes" / _FILE, series_problems(spec)
    cached = _cached(file)

    @cache
    def untrained() -> dict[str, float]:
        """Measures of an untrained encoder, the same for every checkpoint."""
        study = _study(model, spec)
        return {**_kappas(study, "untrained"), **_read(study, untrained_like(model))}

    for entry in _chosen(checkpoints, spec):
        if (entry.sha256, problems) in cached:
            continue
        encoder = untrained_like(model)
        restore(checkpoints.load(entry, model.config), encoder)
        study = _study(replace(model, checkpoint=entry, encoder=encoder), spec)
        head = {"step": entry.step, "exact_match": entry.exact_match, "sha256": entry.sha256, "problems": problems}
        cached[entry.sha256, problems] = [{**head, **each._asdict()} for each in _measured(study, untrained)]
        # Written after every checkpoint, so that an interruption loses no finished measures.
        _write(file, cached)
        progress(f"step {entry.step}")
    return [row for row in _rows(cached) if row["problems"] == problems]


def series_is_cached(folder: Location, spec: ProbingSpec) -> bool:
    """Whether the measures of all selected checkpoints are cached."""
    cached = _cached(folder / "probes" / _FILE)
    entries = _chosen(Checkpoints(folder / "checkpoints"), spec)
    return all((entry.sha256, series_problems(spec)) in cached for entry in entries)


def series_problems(spec: ProbingSpec) -> int:
    """Number of training problems of the probes, on which the measures depend besides the checkpoint."""
    return min(spec.problems, _PROBLEMS)


def _chosen(checkpoints: Checkpoints, spec: ProbingSpec) -> list[CheckpointEntry]:
    """At most `spec.series` of the checkpoints, evenly spaced, including the first and the last."""
    entries = sorted(checkpoints.index().entries, key=lambda entry: entry.step)
    return spread(entries, spec.series)


def _write(file: Location, cached: Cached) -> None:
    """Replace the table atomically. The mark holds the hashes of both versions, so either is valid after a kill."""
    before = [file_hash(file)] if file.exists() else []
    with file.staged() as path:
        pq.write_table(pa.Table.from_pylist(_rows(cached), _SCHEMA), path, compression="zstd")
        hashes = [*before, file_hash(LocalLocation(path))]
        (file.parent / _MARK).write(json.dumps({"version": PROBING_VERSION, "sha256": hashes}).encode() + b"\n")


def _rows(cached: Cached) -> list[dict[str, Any]]:
    return sorted((row for rows in cached.values() for row in rows), key=lambda row: row["step"])


def _study(model: TrainedEncoder, spec: ProbingSpec) -> Study:
    return Study(model, ProbingSpec(problems=series_problems(spec)), _STATES)


def _measured(study: Study, untrained: Callable[[], dict[str, float]]) -> Iterator[Measured]:
    model, tables = study.model, symbol_tables(study.model.encoder, study.model.tokenizer)
    for symbols in ("digits", "numbers"):
        if symbols in tables:
            for fit in measures(tables[symbols][1]):
                yield Measured(f"{symbols}: {fit.name}", fit.value, fit.shuffled_high)
    if study.has_columns:
        for name, value in {**_kappas(study, "trained"), **_read(study, model.encoder)}.items():
            yield Measured(name, value, untrained().get(name))
    if model.config.group == 1:
        yield from _edits(study)


def _read(study: Study, encoder: Encoder) -> dict[str, float]:
    """The largest attention of any head to each role in `_READ`."""
    problems = study.problems[:_ATTENDED]
    heads = [*attended(encoder, problems, batches_of(study.model, problems))]
    return {f"read: {role}": max(float(head.roles[ROLES.index(role)]) for head in heads) for role in _READ}


def _kappas(study: Study, control: Control) -> dict[str, float]:
    """The best κ of each label and kind of token, over the inner states."""
    found: dict[str, float] = {}
    states_of_kinds = study.trained_states if control == "trained" else study.untrained_states
    for examples, states in zip(study.examples, states_of_kinds, strict=True):
        inner = {state: values for state, values in states.items() if state != EMBEDDED}
        for each in readings(examples, study.splits(examples)[:1], inner, {}, draws=0):
            if each.probe == "linear":
                name = f"kappa: {each.label}, {examples.kind}"
                found[name] = max(found.get(name, each.kappa), each.kappa)
    return found


def _edits(study: Study) -> Iterator[Measured]:
    model, layout = study.model, study.layout
    digits = digit_pairs(model, study.problems, layout).first(_EDITED)
    if digits.count >= _LEAST:
        table = symbol_tables(model.encoder, model.tokenizer)["digits"][1]
        moved = {each.way: each.predicted for each in move_digits(model, digits, {EMBEDDED: table}) if not each.shift}
        yield Measured("moved: circle", moved["circle"], max(moved["random"], moved["rest as far"]))
        layers = sorted({state.layer for state in study.states if state != EMBEDDED})
        shares: dict[str, list[float]] = {"ablated": [], "random": []}
        for each in ablate_heads(model, digits, layers):
            shares[each.way].append(each.predicted)
        yield Measured("ablated: head", mean(shares["ablated"]), mean(shares["random"]))
    carries = carry_pairs(model, study.problems, layout).first(_EDITED)
    if carries.count >= _LEAST:
        patched = {
            (each.way, each.site, each.state): each.predicted
            for each in patch_carries(model, carries, study.states)
            if each.state.layer
        }
        best = max((key for key in patched if key[0] == "carry"), key=lambda key: patched[key])
        yield Measured("patched: carry", patched[best], patched["same carry", *best[1:]])


def _cached(file: Location) -> Cached:
    """Cached rows by checkpoint and number of problems; empty if the file is damaged or of another version."""
    mark, found = file.parent / _MARK, Cached()
    try:
        written: dict[str, Any] = json.loads(mark.read()) if mark.exists() and file.exists() else {"version": None}
        if written["version"] != PROBING_VERSION or file_hash(file) not in written["sha256"]:
            return {}
        with file.opened() as opened:
            rows = pq.ParquetFile(opened).read().to_pylist()
    except (ValueError, RecursionError, KeyError, TypeError):
        return {}
    for row in rows:
        found.setdefault((row["sha256"], row["problems"]), []).append(row)
    return found
