"""A corpus of schema version 1, written here as the first Numerate wrote it, becomes one of the present version."""

import hashlib
import io
import itertools
import json
import os
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.generation.build import build_corpus
from pipelines.generation.migrate import migrate, old_spec
from pipelines.split.parse import canonical_form
from pipelines.split.reserved import listing
from storage.datasets.manifest import SPLITS, hash_of, load
from storage.errors import RunFailure, UserError
from storage.order import Permutation, derive_key
from storage.places.disk import LocalLocation
from storage.places.place import Location

SUMS = {"terms": 2, "low": 0, "high": 99, "operators": ["+"], "rows": 0, "rows_per_shard": 3_000, "seed": 0}
MIXED = {
    "terms": 3,
    "low": 0,
    "high": 12,
    "operators": ["+", "-", "*"],
    "rows": 6_000,
    "rows_per_shard": 2_500,
    "seed": 3,
}
SHARES = {"family": "grid", "split_key": "numerate", "validation": 0.1, "test": 0.1}

Row = tuple[str, int, str, str]


def mix(value: int) -> int:
    """The finaliser of splitmix64 on Python's integers."""
    value &= 2**64 - 1
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return value ^ (value >> 31)


def split_of(operands: list[int], gaps: str, split_key: str = "numerate") -> str:
    """The split of version 1: a hash of the addends' hashes, each a hash of its factors'."""
    number, total, product, minus = (derive_key(split_key, part) for part in ("number", "sum", "product", "minus"))
    addends = [("+", [operands[0]])]
    for gap, operand in zip(gaps, operands[1:], strict=True):
        if gap == "*":
            addends[-1][1].append(operand)
        else:
            addends.append((gap, [operand]))
    hashes = []
    for sign, factors in addends:
        term = sum(mix(factor ^ number) for factor in factors)
        term = mix(term % 2**64 ^ product) if len(factors) > 1 else term
        hashes.append(mix(term ^ minus) if sign == "-" else term)
    share = (mix(sum(hashes) % 2**64 ^ total) if len(hashes) > 1 else hashes[0]) / 2**64
    return (
        "test" if share < SHARES["test"] else "validation" if share < SHARES["test"] + SHARES["validation"] else "train"
    )


def old_rows(spec: dict) -> list[tuple[Row, list[int]]]:
    """All rows of a corpus of version 1 in order, (split, id, problem, answer) each with its operands."""
    radix, gaps = spec["high"] - spec["low"] + 1, spec["terms"] - 1
    patterns = ["".join(pattern) for pattern in itertools.product(spec["operators"], repeat=gaps)]
    size = radix ** spec["terms"] * len(patterns)
    ids = np.arange(spec["rows"] or size, dtype=np.uint64)
    rows = []
    for number, index in enumerate(Permutation(size, derive_key(spec["seed"], "row order"))(ids).tolist()):
        operands = []
        for _ in range(spec["terms"]):
            index, operand = divmod(index, radix)
            operands.insert(0, operand + spec["low"])
        problem = str(operands[0]) + "".join(
            gap + str(operand) for gap, operand in zip(patterns[index], operands[1:], strict=True)
        )
        rows.append(((split_of(operands, patterns[index]), number, problem, str(eval(problem))), operands))
    return rows


def write_old(folder: Path, values: dict) -> list[Row]:
    """A corpus in the layout of version 1, with a set of tokens."""
    spec = {**SHARES, **values, "generator_version": 1}
    rows, shards, step = old_rows(spec), [], spec["rows_per_shard"]
    names = ["id", *"abcdefgh"[: spec["terms"]], "sum" if spec["operators"] == ["+"] else "value", "problem", "answer"]
    for number, split in itertools.product(range(-(-len(rows) // step)), SPLITS):
        held = [row for row in rows[number * step : (number + 1) * step] if row[0][0] == split]
        columns = [
            [row[1] for row, _ in held],
            *map(list, zip(*(operands for _, operands in held), strict=True)),
            [int(row[3]) for row, _ in held],
            *([row[at] for row, _ in held] for at in (2, 3)),
        ]
        path = f"data/split={split}/grid-{number:06d}.parquet"
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(dict(zip(names, columns, strict=True))), folder / path, compression="zstd")
        data = (folder / path).read_bytes()
        record = {"path": path, "split": split, "stratum": "grid", "rows": len(held), "bytes": len(data)}
        shards.append({**record, "sha256": hashlib.sha256(data).hexdigest(), "content": "0" * 64})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(shards), sink)
    (folder / "shards.parquet").write_bytes(sink.getvalue())
    manifest = {
        "kind": "corpus",
        "name": folder.name,
        "schema_version": 1,
        "generator_version": 1,
        "spec": spec,
        "spec_hash": hash_of(spec),
        "rows": len(rows),
        "bytes": sum(shard["bytes"] for shard in shards),
        "split_rows": {split: sum(s["rows"] for s in shards if s["split"] == split) for split in SPLITS},
        "writer": f"pyarrow {pa.__version__}",
        "shards_sha256": hashlib.sha256(sink.getvalue()).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    (folder / "tokens/old-digit").mkdir(parents=True)
    return [row for row, _ in rows]


def rows_of(folder: Path) -> list[Row]:
    """All rows of a corpus of any version, by id."""
    return duckdb.sql(
        f"SELECT split, id, problem, answer FROM read_parquet('{folder}/data/**/*.parquet') ORDER BY id"
    ).fetchall()


@pytest.mark.parametrize("values", [SUMS, MIXED])
def test_ids_problems_and_splits_stay_but_for_reserved_problems(
    ray_instance: int, tmp_path: Path, values: dict
) -> None:
    folder = tmp_path / "corpora" / "old"
    before = write_old(folder, values)
    done = migrate(LocalLocation(folder), in_flight=2)
    assert done
    reserved = {canonical_form(case.text) for case in (*listing("edge"), *listing("adderboard"))}
    after = rows_of(folder)
    moved = [old for old, new in zip(before, after, strict=True) if old[0] != new[0]]
    assert [("test" if canonical_form(row[2]) in reserved else row[0], *row[1:]) for row in before] == after
    assert done.moved == len(moved)
    # Reserved problems have two operands.
    assert (done.moved > 0) == (values is SUMS)
    assert done.old_tokens == ("old-digit",)
    assert {path.name for path in folder.parent.iterdir()} == {"old"}
    names = {"data", "manifest.json", done.corpus.manifest.list_name, ".lock"}
    assert {path.name for path in folder.iterdir()} <= names
    assert load(LocalLocation(folder), "corpus").is_complete()
    assert migrate(LocalLocation(folder), in_flight=2) is None


def test_an_old_corpus_is_refused_with_the_command_that_migrates_it(tmp_path: Path) -> None:
    for folder, place in ((tmp_path / "corpora/old", "old"), (tmp_path / "old", str(tmp_path / "old"))):
        write_old(folder, MIXED)
        with pytest.raises(UserError, match=f"schema version 1, .*: run 'numerate corpus migrate {place}'"):
            load(LocalLocation(folder), "corpus 'old'")


def test_newer_corpus_requires_a_newer_numerate(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema_version": 4, "something": "else"}')
    for refused in (lambda place: load(place, "corpus 'new'"), old_spec):
        with pytest.raises(UserError, match=r"newer Numerate \(schema version 4, this one reads 3\): update Numerate"):
            refused(LocalLocation(tmp_path))


def test_old_manifest_without_its_spec_gives_a_one_line_error(tmp_path: Path) -> None:
    write_old(tmp_path / "old", MIXED)
    place = tmp_path / "old/manifest.json"
    place.write_text(place.read_text().replace('"seed": 3', '"seed": 4'))
    with pytest.raises(
        RunFailure, match="spec is lost: run 'numerate corpus generate' with the same parameters under another name"
    ):
        old_spec(LocalLocation(tmp_path / "old"))


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


@pytest.mark.parametrize("moment", ["first range", "before the swap", "after the swap"])
def test_killed_migration_loses_nothing_and_continues(
    ray_instance: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    folder = tmp_path / "corpora" / "old"
    before = write_old(folder, MIXED)
    old = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    exchange = LocalLocation.exchange

    def progress(rows: int) -> None:
        if moment == "first range":
            raise KilledError

    def swap(one: Location, other: Location) -> None:
        if moment == "after the swap":
            exchange(one, other)
        raise KilledError

    monkeypatch.setattr(LocalLocation, "exchange", swap)
    with pytest.raises(KilledError):
        migrate(LocalLocation(folder), in_flight=1, progress=progress)
    monkeypatch.undo()
    if moment == "after the swap":
        assert load(LocalLocation(folder), "corpus").is_complete()
    else:
        assert all(path.read_bytes() == data for path, data in old.items())
    assert (migrate(LocalLocation(folder), in_flight=2) is None) == (moment == "after the swap")
    assert [row[1:] for row in rows_of(folder)] == [row[1:] for row in before]
    assert os.listdir(folder.parent) == ["old"]


def test_migrated_corpus_equals_a_newly_generated_one(ray_instance: int, tmp_path: Path) -> None:
    write_old(tmp_path / "old", SUMS)
    spec = old_spec(LocalLocation(tmp_path / "old"))
    assert spec
    done = migrate(LocalLocation(tmp_path / "old"), in_flight=2)
    assert done
    assert done.corpus.manifest == build_corpus(spec, LocalLocation(tmp_path / "new"), in_flight=2)[0].manifest
