"""Samples that must not change by accident: order of rows, rows and splits, token ids, and training steps.

`python -m tests.golden` writes them to `golden.json`. It changes no value unless the version of its part is raised.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from model.config.training import TrainingSpec
from model.objectives.answers import AnswerObjective as Objective
from model.objectives.objective import Batch
from model.objectives.step_randomness import loops_of, place_offsets, slot_masks, warm_loops_of
from model.runs.run_config import STEP_VERSION
from model.tokenizer import Tokenizer, TokenLayout
from pipelines.generation.generate import CHANGED_ALL, RangeTask, contents_of_range, generator_version, sample_rows
from pipelines.problems.components import components
from pipelines.spec.presets import CORPORA
from pipelines.split.canonical import Canonical
from pipelines.split.parse import text_hashes
from pipelines.tokens.encode import ENCODER_VERSION, encode_rows
from pipelines.tokens.vocabulary import train_pieces
from storage.datasets.manifest import SPLITS, hash_of
from storage.datasets.schema_version import SCHEMA_VERSION
from storage.order import Permutation, derive_key, keyed_hash, permuted, uniforms
from storage.order import halves as halves_of
from storage.reading.lanes import BucketOrder, LanePlan

FILE = Path(__file__).with_name("golden.json")
COMMAND = "python -m tests.golden"

# The number of sampled rows of each component, by preset: 31 in total.
_ROWS = {"notebook": 8, "arithmetic": 1, "long": 3, "marks": 3, "steps": 8}
_HASHED_ROWS = 2_000
_PROBLEMS = ("7", "3+5", "3-5", "3*5", "2*3+4-5*6", "3*(1-1)", "2*(3-8)", f"{2**70}+{10**30}")
_STEPS = ("345*62:0", "345*2:2070", "-345*02:7", f"3*7:{10**30}")
_SPLIT_ROWS = 200


def sample(part: str) -> dict[str, Any]:
    """The versions of a part and its values by name; when a value changes, one of the versions is raised."""
    versions, values = _PARTS[part]
    return {"versions": versions, "values": values()}


def changed(part: str, stored: dict[str, Any], current: dict[str, Any]) -> list[str]:
    """One line for each stored value of a part that differs from the current one although the versions are equal."""
    old, new = stored["values"], current["values"]
    if stored["versions"] != current["versions"]:
        return []
    advice = f"raise {' or '.join(current['versions'])}, then '{COMMAND}'"
    return [f"{part}, {name}: {advice}" for name in old if name in new and old[name] != new[name]]


def _order() -> dict[str, Any]:
    counters = np.arange(4, dtype=np.uint64)
    sizes = np.array([5, 70_000, 2**40, 2**62], np.uint64)
    high, low = np.array([halves_of(int(size)) for size in sizes], np.uint64).T
    salts = np.array([0, 1, 2, 3], np.uint32)
    return {
        "derive_key": [derive_key(*parts) for parts in ((), (0,), ("split",), (1, "a"), ("a", 1), (-7, "é", 2**70))],
        "keyed_hash": keyed_hash(derive_key("golden"), counters).tolist(),
        "uniforms": uniforms(derive_key("golden"), counters).tolist(),
        "Permutation": {
            str(size): Permutation(size, derive_key("golden", size))(counters % np.uint64(size)).tolist()
            for size in (1, 3, 10, 99_991, 10**8, 2_700_000_000, 2**62)
        },
        "permuted": permuted(counters, sizes, high, low, derive_key("salted"), salts).tolist(),
    }


def _canonical() -> dict[str, Any]:
    samples = {}
    for name, texts in (("problems", _PROBLEMS), ("steps", _STEPS)):
        hashes = text_hashes(pa.array(texts), Canonical("golden"))
        samples[name] = dict(zip(texts, hashes.tolist(), strict=True))
    return samples


def _rows(preset: str) -> dict[str, Any]:
    spec, samples = CORPORA[preset], []
    for component in components(spec):
        table, splits = sample_rows(spec, component, _ROWS[preset])
        for split, row in zip(splits, table.to_pylist(), strict=True):
            samples.append({"split": SPLITS[split], **row})
    splits = np.concatenate([sample_rows(spec, component, _SPLIT_ROWS)[1] for component in components(spec)])
    # One digit per row: the number of its split.
    return {"rows": samples, "splits": "".join(map(str, splits))}


def _contents(preset: str) -> dict[str, Any]:
    spec, hashes = CORPORA[preset], {}
    for component in components(spec):
        task = RangeTask(component.number, component, 0, _HASHED_ROWS)
        contents = {shard.path: shard.content for shard in contents_of_range(spec, task)}
        hashes[f"component {component.number}"] = hash_of(contents)
    return hashes


def _tokens() -> dict[str, Any]:
    table = pa.table({"problem": ["12+3", "7-99", "-(1*2)"], "answer": ["15", "-92", "-2"]})
    tokenizer = Tokenizer(train_pieces([]))
    return {"digit": encode_rows(table, tokenizer, TokenLayout(problem=7, answer=4)).tolist()}


def _steps() -> dict[str, Any]:
    plan, rows = LanePlan((5_000, 300, 0, 7_000, 41), 128, 7), torch.arange(6)
    tokenizer = Tokenizer(train_pieces([]))
    problems = {"12+3": "15", "7-99": "-92", "30+4": "34", "1+2": "3", "88-5": "83", "6+6": "12"}
    table = pa.table({"problem": list(problems), "answer": list(problems.values())})
    ids = torch.from_numpy(encode_rows(table, tokenizer, TokenLayout(problem=7, answer=4)).copy()).long()
    batch = Batch(ids, 4, 9, rows)
    return {
        "segments": {
            f"epoch {epoch}, lane {lane}": [list(vars(part).values()) for part in plan.segments(epoch, lane, 3, 150)]
            for epoch, lane in ((0, 0), (0, 20), (0, 63), (1, 20))
        },
        "shuffle": {
            f"epoch {epoch}, lane {lane}, window {window}": plan.shuffle(epoch, lane, window, 9).tolist()
            for epoch, lane, window in ((0, 0, 0), (0, 0, 1), (0, 5, 0), (1, 0, 0))
        },
        "window_rows": [plan.window_rows(row_bytes) for row_bytes in (15, 1_000, 10**6)],
        "buckets": [BucketOrder((5, 0, 2, 9)).bucket(step) for step in range(16)],
        "masks": {
            f"step {step}": _bits(slot_masks(11, step, rows, 7, share))
            for step, share in ((0, 0.25), (1, 0.25), (100_000, 0.0))
        },
        "questions": {
            name: _bits(Objective(TrainingSpec(objective=name, seed=4), tokenizer).masks(batch).masked)
            for name in ("answer", "anywhere", "all")
        },
        "offsets": place_offsets(11, 5, rows).tolist(),
        "loops": [loops_of(11, step, 2, 9) for step in range(12)],
        "warm loops": [warm_loops_of(11, step, 5) for step in range(12)],
    }  # fmt: skip


def _bits(flags: torch.Tensor) -> list[str]:
    return ["".join(map(str, row)) for row in flags.int().tolist()]


def _text(value: Any, levels: int, margin: str = "") -> str:
    """JSON with one line for each value of the outer `levels`."""
    if not levels or not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{margin} "
    keys = [f"{json.dumps(key)}: " for key in value] if isinstance(value, dict) else [""] * len(value)
    values = value.values() if isinstance(value, dict) else value
    lines = [f"{inner}{key}{_text(item, levels - 1, inner)}" for key, item in zip(keys, values, strict=True)]
    begin, end = "{}" if isinstance(value, dict) else "[]"
    return "\n".join([begin, ",\n".join(lines), f"{margin}{end}"])


# The version of a preset is that of its families, so a new version of one family excuses no change of another one.
_VERSIONS = {preset: {"generator_version": generator_version(CORPORA[preset].identity())} for preset in _ROWS}
_PARTS: dict[str, tuple[dict[str, int], Callable[[], dict[str, Any]]]] = {
    "order": ({"CHANGED_ALL": CHANGED_ALL}, _order),
    "canonical": ({"CHANGED_ALL": CHANGED_ALL}, _canonical),
    **{f"rows of {preset}": (versions, partial(_rows, preset)) for preset, versions in _VERSIONS.items()},
    **{
        f"contents of {preset}": ({**versions, "SCHEMA_VERSION": SCHEMA_VERSION}, partial(_contents, preset))
        for preset, versions in _VERSIONS.items()
    },
    "tokens": ({"ENCODER_VERSION": ENCODER_VERSION}, _tokens),
    "steps": ({"STEP_VERSION": STEP_VERSION}, _steps),
}
PARTS = tuple(_PARTS)


def main() -> int:
    """Write the file; returns 1 if a value changed without a new version."""
    current = {part: sample(part) for part in PARTS}
    stored = json.loads(FILE.read_text()) if FILE.exists() else {}
    parts = stored.keys() & current.keys()
    if lines := [line for part in parts for line in changed(part, stored[part], current[part])]:
        print("\n".join(sorted(lines)), file=sys.stderr)
        return 1
    FILE.write_text(_text(current, 3) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
