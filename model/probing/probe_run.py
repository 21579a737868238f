"""Probes one run: computes all tables, stores them in the run's folder, and recomputes only outdated ones."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from model.config.probing import ProbingSpec
from model.evaluation.predictor import TrainedEncoder, TrainedModel, TrainedRewriter, open_trained
from model.probing.rewriting.study import RewritingStudy
from model.probing.study import Study
from model.probing.tables import key_of
from storage.datasets.shard import file_hash
from storage.places.place import Location


def study_of(model: TrainedModel, spec: ProbingSpec) -> Study | RewritingStudy:
    """The study of an encoder of any kind; raises `UserError` if it does not have a requested layer or loop."""
    if isinstance(model, TrainedRewriter):
        return RewritingStudy(model, spec)
    assert isinstance(model, TrainedEncoder)
    return Study(model, spec)


def probe(
    folder: Location, spec: ProbingSpec, progress: Callable[[str], None] = lambda part: None
) -> tuple[TrainedModel, bool]:
    """Probe a run's checkpoint and write the tables to probes/; returns the encoder and whether all were up to date.

    An interrupted probing continues with its unfinished parts.

    Raises `UserError` if there is no checkpoint, or if the encoder does not have a requested layer or loop.
    """
    model = open_trained(folder, spec.checkpoint)
    study = study_of(model, spec)
    probes, suffix = folder / "probes", f".{spec.checkpoint}.parquet"
    mark = probes / f"{spec.checkpoint}.json"
    keys = {name: key_of(model, spec, part) for name, part in study.parts().items()}
    done = _done(mark, keys)
    if len(done) == len(study.parts()):
        return model, True
    for stale in set(probes.children()) - {table for part in done.values() for table in part["tables"]}:
        if stale.endswith(suffix):
            (probes / stale).remove()
    head = {"checkpoint": spec.checkpoint, "step": model.checkpoint.step}
    for name, part in study.parts().items():
        if name not in done:
            tables: dict[str, str] = {}
            for table, rows in part.make(study).items():
                if rows:
                    target = probes / f"{table}{suffix}"
                    with target.staged() as path:
                        pq.write_table(
                            pa.Table.from_pylist([{**head, **row} for row in rows]), path, compression="zstd"
                        )
                    tables[target.name] = file_hash(target)
            done[name] = {"key": keys[name], "tables": tables}
            mark.write(json.dumps(done, indent=2).encode() + b"\n")
        progress(name)
    return model, False


def _done(mark: Location, keys: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The parts that are up to date: their keys match and their table files have the stored hashes."""
    try:
        found = json.loads(mark.read()) if mark.exists() else {}
        return {
            name: part
            for name, part in found.items()
            if part["key"] == keys.get(name)
            and all(
                (file := mark.parent / table).exists() and file_hash(file) == expected
                for table, expected in part["tables"].items()
            )
        }
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}
