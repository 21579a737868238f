import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines.generation.build import build_corpus, corpus_identity
from pipelines.generation.generate import (
    CHANGED_ALL,
    canonical_hashes,
    contents_of_range,
    generate_range,
    range_tasks,
)
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec, MixturePart
from pipelines.spec.presets import CORPORA
from pipelines.split.canonical import split_numbers
from pipelines.split.parse import canonical_form
from pipelines.split.reserved import listing
from storage.datasets.manifest import SPLITS, Dataset, commit
from storage.errors import UserError
from storage.places.disk import LocalLocation
from tests.builders import SMALL, Built, build_corpus_plainly


def test_every_problem_is_in_exactly_one_shard(small: Built) -> None:
    paths = [str(small.corpus.location / shard.path) for shard in small.corpus.shards]
    rows = duckdb.sql(f"SELECT a, b, sum, problem, answer, id FROM read_parquet({paths})").fetchall()
    assert {(a, b) for a, b, *_ in rows} == {(a, b) for a in range(100) for b in range(100)}
    assert len(rows) == 10_000
    assert sorted(row[5] for row in rows) == list(range(10_000))
    assert all(p == f"{a}+{b}" and s == a + b and t == str(s) for a, b, s, p, t, _ in rows)


def test_commuted_problems_are_in_one_split(small: Built) -> None:
    split_of = {}
    for split in SPLITS:
        for path in small.corpus.paths(split):
            for a, b in zip(*(pq.read_table(path).column(name).to_pylist() for name in "ab"), strict=True):
                split_of[a, b] = split
    assert all(split_of[a, b] == split_of[b, a] for a, b in split_of)


def test_ids_rise_within_a_shard_and_recompute_their_rows(small: Built) -> None:
    for shard in small.corpus.shards:
        table = pq.read_table((small.corpus.location / shard.path).path)
        ids = table.column("id").to_numpy()
        assert (np.diff(ids) > 0).all()
        (component,) = components(SMALL)
        grid = component.family(SMALL)
        assert grid.table(ids.view(np.uint64), grid.problems(ids.view(np.uint64))).equals(table)


def test_a_spec_gives_the_same_bytes_whatever_the_order_of_its_tasks(tmp_path: Path, small: Built) -> None:
    folder = LocalLocation(tmp_path)
    records = {}
    for task in reversed(range_tasks(SMALL)):
        records.update({record.path: record for record in generate_range(SMALL, folder, task)})
    assert records == {record.path: record for record in small.corpus.shards}
    for path in records:
        assert (folder / path).read() == (small.corpus.location / path).read()


def test_a_corpus_keeps_its_version_while_its_families_do_not_change(tmp_path: Path) -> None:
    versions = {name: corpus_identity(spec)["generator_version"] for name, spec in CORPORA.items()}
    # 'rewriting' is a mixture that has states with marks.
    assert {name for name, version in versions.items() if version != CHANGED_ALL} == {"marks", "rewriting"}
    marks = CORPORA["marks"].model_copy(update={"rows": 1_000})
    folder = LocalLocation(tmp_path)
    commit(
        folder, kind="corpus", name="marks", generator_version=CHANGED_ALL,
        spec={**marks.identity(), "generator_version": CHANGED_ALL}, shards=[],
    )  # fmt: skip
    with pytest.raises(UserError, match="exists with another configuration"):
        build_corpus(marks, folder, in_flight=0)


def test_a_manifest_is_the_same_for_the_same_spec(tmp_path: Path, small: Built) -> None:
    again = build_corpus_plainly(SMALL, LocalLocation(tmp_path))
    assert again.manifest.identity == small.corpus.manifest.identity


def test_the_shares_of_the_notebook_hold_over_its_classes() -> None:
    ids = np.arange(300_000, dtype=np.uint64)
    splits = split_numbers(np.unique(canonical_hashes(CorpusSpec(), ids)), 0.01, 0.01)
    shares = np.bincount(splits, minlength=3) / len(splits)
    assert np.allclose(shares, [0.98, 0.01, 0.01], atol=5 * np.sqrt(0.01 / len(splits)))


def test_the_first_rows_of_a_corpus_are_those_of_the_whole_one(tmp_path: Path, small: Built) -> None:
    limited = build_corpus_plainly(SMALL.model_copy(update={"rows": 3_000}), LocalLocation(tmp_path))
    assert limited.manifest.rows == 3_000
    assert {shard.content for shard in limited.shards} < {shard.content for shard in small.corpus.shards}


def test_recomputed_contents_equal_the_shards(small: Built) -> None:
    contents = [shard for task in range_tasks(SMALL) for shard in contents_of_range(SMALL, task)]
    assert contents == [shard._replace(bytes=0, sha256="") for shard in small.corpus.shards]


MIXED = CorpusSpec(
    name="mixed",
    rows=60_000,
    rows_per_shard=20_000,
    mixture=(
        MixturePart(family="digits", terms=3, digits=12, operators=("+", "-", "*"), hard=0.3),
        MixturePart(family="expression", terms=6, digits=3, depth=2, operators=("+", "-", "*"), weight=0.5),
        MixturePart(family="grid", terms=2, high=300, operators=("+", "*")),
    ),
)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build_corpus_plainly(MIXED, LocalLocation(tmp_path_factory.mktemp("mixed")))


def problems_of(corpus: Dataset) -> list[tuple[str, str, str]]:
    found = []
    for shard in corpus.shards:
        table = pq.ParquetFile((corpus.location / shard.path).path).read()
        found += [
            (shard.split, *row) for row in zip(*(table[c].to_pylist() for c in ("problem", "answer")), strict=True)
        ]
    return found


def test_a_mixture_holds_all_its_rows_and_every_answer_is_pythons_own(mixed: Dataset) -> None:
    rows = problems_of(mixed)
    assert len(rows) == MIXED.total_rows == mixed.manifest.rows
    assert all(str(eval(problem)) == answer for _, problem, answer in rows)


def test_a_shard_holds_one_width_and_the_manifest_its_longest(mixed: Dataset) -> None:
    for shard in mixed.shards:
        width = int(shard.path.split("width=")[1].split("/")[0])
        table = pq.ParquetFile((mixed.location / shard.path).path).read()
        lengths = [len(problem) for problem in table["problem"].to_pylist()]
        assert max(lengths) == shard.problem_length <= width
        assert min(lengths) > width // 2 or width == 16
        assert max(table["answer_digits"].to_pylist()) == shard.answer_digits


def test_equal_canonical_forms_are_in_one_split_across_families(mixed: Dataset) -> None:
    splits: dict[object, set[str]] = {}
    for split, problem, _ in problems_of(mixed):
        splits.setdefault(canonical_form(problem), set()).add(split)
    assert all(len(found) == 1 for found in splits.values())


def test_reserved_problems_are_always_test(mixed: Dataset) -> None:
    reserved = {canonical_form(case.text) for case in (*listing("edge"), *listing("adderboard"))}
    found = [split for split, problem, _ in problems_of(mixed) if canonical_form(problem) in reserved]
    assert found
    assert set(found) == {"test"}


def test_row_groups_of_a_large_range_are_cut_and_complete(tmp_path: Path) -> None:
    spec = CorpusSpec(rows=400_000, rows_per_shard=400_000)
    (task,) = range_tasks(spec)
    records = generate_range(spec, LocalLocation(tmp_path), task)
    assert sum(record.rows for record in records) == 400_000
    train = pq.ParquetFile(tmp_path / records[0].path).metadata
    assert train.num_row_groups == 4  # three of some 128 thousand rows, and what is left
    assert sum(record.bytes for record in records) / 400_000 < 12
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("operators", [("+",), ("+", "-", "*")])
def test_adjacent_rows_are_not_correlated(operators: tuple) -> None:
    spec = CorpusSpec(operators=operators)
    (component,) = components(spec)
    first = component.family(spec).problems(np.arange(100_000, dtype=np.uint64))["a"].astype(float)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 5 / np.sqrt(100_000)
