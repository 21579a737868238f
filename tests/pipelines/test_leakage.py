"""Leaks between small corpora, by real Ray, against plain Python's sets of canonical forms."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.spec.corpus import CorpusSpec, MixturePart
from pipelines.split.hash_set import HashSet
from pipelines.split.leakage import HELD_OUT, _hashes, _leaks, differences, find_leaks
from pipelines.split.parse import canonical_form
from storage.datasets.manifest import Dataset, ShardRecord, commit
from storage.errors import RunFailure
from storage.places.disk import LocalLocation
from tests.builders import build_corpus_plainly

SHARES = {"rows_per_shard": 3_000, "validation": 0.05, "test": 0.05}
ADDITION = CorpusSpec(name="addition", rows=8_000, family="digits", terms=3, digits=3, **SHARES)
ARITHMETIC = CorpusSpec(
    name="arithmetic",
    rows=16_000,
    mixture=(
        MixturePart(family="digits", terms=3, digits=4),
        MixturePart(family="grid", terms=2, high=60, operators=("+", "-", "*")),
        MixturePart(family="expression", terms=3, digits=1, depth=1, operators=("+", "-", "*")),
    ),
    **SHARES,
)
EXPRESSIONS = CorpusSpec(
    name="expressions", rows=4_000, family="expression", terms=3, digits=1, depth=1, operators=("+", "-", "*"), **SHARES
)


MARKS = CorpusSpec(
    name="marks", rows=6_000, family="marks", terms=3, digits=1, depth=1, operators=("+", "-", "*"), **SHARES
)


def made(spec: CorpusSpec, folder: Path, **changes: object) -> Dataset:
    return build_corpus_plainly(spec.model_copy(update=changes), LocalLocation(folder / spec.name))


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    folder = tmp_path_factory.mktemp("corpora")
    return {spec.name: made(spec, folder) for spec in (ADDITION, ARITHMETIC, EXPRESSIONS)}


def problems(corpus: Dataset, *splits: str) -> list[str]:
    shards = [shard for split in splits for shard in corpus.of_split(split)]
    return [text for shard in shards for text in table_of(corpus, shard)["problem"].to_pylist()]


def table_of(corpus: Dataset, shard: ShardRecord) -> pa.Table:
    return pq.ParquetFile((corpus.location / shard.path).path).read()


def oracle(train: Dataset, held_out: Dataset) -> list[str]:
    """The train problems that leak."""
    forms = {canonical_form(problem) for problem in problems(held_out, *HELD_OUT)}
    return [problem for problem in problems(train, "train") if canonical_form(problem) in forms]


def rewritten(corpus: Dataset, shard: ShardRecord, row: int, problem: str) -> Dataset:
    """The corpus with another text in one row of a shard, committed anew."""
    table, place = table_of(corpus, shard), corpus.location / shard.path
    texts = table["problem"].to_pylist()
    texts[row] = problem
    column = table.schema.get_field_index("problem")
    pq.write_table(table.set_column(column, table.schema.field(column), pa.array(texts)), place.path)
    manifest = corpus.manifest
    return commit(
        corpus.location,
        kind="corpus",
        name=manifest.name,
        generator_version=manifest.generator_version,
        spec=manifest.spec,
        shards=[record._replace(bytes=place.size()) if record == shard else record for record in corpus.shards],
    )


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("arithmetic", "addition"),
        ("addition", "arithmetic"),
        ("arithmetic", "arithmetic"),
        ("arithmetic", "expressions"),
    ],
)
def test_corpora_of_one_key_leak_nothing(
    ray_instance: int, corpora: dict[str, Dataset], train: str, held_out: str
) -> None:
    one, other = corpora[train], corpora[held_out]
    # They have problems in common, so that there is something to leak.
    assert {*map(canonical_form, problems(one, *HELD_OUT))} & {*map(canonical_form, problems(other, *HELD_OUT))}
    done: list[int] = []
    found = find_leaks(one, other, in_flight=2, progress=done.append)
    assert (found.leaks, found.collisions, found.examples) == (0, 0, ())
    assert found.train_rows == len(problems(one, "train")) == one.manifest.split_rows["train"]
    assert found.held_out_rows == len(problems(other, *HELD_OUT))
    assert sum(done) == found.train_rows + found.held_out_rows
    assert differences(one.manifest, other.manifest) == []


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"split_key": "other"}, "the split keys differ ('numerate' and 'other')"),
        ({"test": 0.2}, "the second holds out more (0.1 and 0.25 of its problems)"),
    ],
)
def test_every_leak_between_other_splits_is_counted(
    ray_instance: int, tmp_path: Path, corpora: dict[str, Dataset], changes: dict, difference: str
) -> None:
    train, held_out = corpora["arithmetic"], made(ADDITION, tmp_path, **changes)
    expected = oracle(train, held_out)
    found = find_leaks(train, held_out, in_flight=2)
    assert found.leaks == len(expected) > 100
    assert found.collisions == 0
    assert [example.train for example in found.examples] == expected[:10]
    for example in found.examples:
        assert canonical_form(example.train) == canonical_form(example.held_out)
        (shard,) = (shard for shard in held_out.shards if shard.path == example.held_out_shard)
        assert shard.split == example.held_out_split
        assert example.held_out in table_of(held_out, shard)["problem"].to_pylist()
    assert differences(train.manifest, held_out.manifest) == [difference]
    # What holds out more may be trained on without a leak: its train problems are among the other's.
    if "test" in changes:
        assert find_leaks(held_out, train, in_flight=2).leaks == 0
        assert differences(held_out.manifest, train.manifest) == []


def test_states_of_held_out_expressions_are_not_trained_on(
    ray_instance: int, corpora: dict[str, Dataset], tmp_path: Path
) -> None:
    states, held_out = made(MARKS, tmp_path), corpora["expressions"]
    assert {*map(canonical_form, problems(states, *HELD_OUT))} & {*map(canonical_form, problems(held_out, *HELD_OUT))}
    assert find_leaks(states, held_out, in_flight=2).leaks == 0
    # The state of a test problem in which a bracket is left.
    problem = next(text for text in problems(held_out, "test") if "(" in text and not text.startswith("-"))
    planted = rewritten(states, states.of_split("train")[0], 0, f"({problem})")
    found = find_leaks(planted, held_out, in_flight=2)
    assert (found.leaks, found.examples[0].train) == (1, f"({problem})")


def twin_of(problem: str) -> str:
    """`c*(a-b)` for `(a-b)*c`, and a sum from the right."""
    if nested := re.fullmatch(r"(\(.*\))\*(\d+)", problem):
        return f"{nested[2]}*{nested[1]}"
    return "+".join(reversed(problem.split("+")))


@pytest.mark.parametrize(
    ("held_out", "pattern"), [("addition", r"(?!(\d+)\+\1)\d+\+\d+"), ("expressions", r"\(\d-\d\)\*\d")]
)
def test_planted_equivalent_of_a_test_problem_is_a_leak(
    ray_instance: int, tmp_path: Path, corpora: dict[str, Dataset], held_out: str, pattern: str
) -> None:
    other = corpora[held_out]
    problem = next(text for text in problems(other, "test") if re.fullmatch(pattern, text))
    clean = made(ARITHMETIC, tmp_path)
    shard = clean.of_split("train")[-1]
    found = find_leaks(rewritten(clean, shard, 7, twin_of(problem)), other, in_flight=2)
    assert twin_of(problem) != problem
    assert (found.leaks, found.collisions) == (1, 0)
    (leak,) = found.examples
    assert (leak.train, leak.train_shard, leak.held_out_split) == (twin_of(problem), shard.path, "test")
    assert canonical_form(leak.held_out) == canonical_form(problem)


def test_problems_with_equal_hashes_are_no_leak_unless_they_are_the_same(corpora: dict[str, Dataset]) -> None:
    corpus = corpora["addition"]
    train, held = corpus.of_split("train")[0], corpus.of_split("test")
    # The train shard's own hashes, said to be those of other problems.
    hashes = np.unique(_hashes(corpus, train))
    rows = np.resize(np.arange(sum(shard.rows for shard in held), dtype=np.uint32), len(hashes))
    found = _leaks(corpus, corpus, held, train, HashSet.of(hashes), rows)
    assert (found.leaks, found.collisions) == (0, train.rows)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_invalid_problem_gives_a_one_line_error(ray_instance: int, tmp_path: Path, split: str) -> None:
    corpus = made(EXPRESSIONS, tmp_path)
    shard = corpus.of_split(split)[0]
    damaged = rewritten(corpus, shard, 3, "3+x")
    with pytest.raises(
        RunFailure, match=rf"^shard .*{shard.path} is damaged \(problem '3\+x' .*: delete it and run"
    ) as e:
        find_leaks(damaged, damaged, in_flight=2)
    assert "\n" not in str(e.value)


def test_missing_or_damaged_shard_gives_a_one_line_error(ray_instance: int, tmp_path: Path) -> None:
    corpus = made(EXPRESSIONS, tmp_path)
    shard = corpus.of_split("train")[0]
    place = corpus.location / shard.path
    place.write(bytes(shard.bytes))
    with pytest.raises(RunFailure, match=rf"^shard .*{shard.path} is damaged \(.*\): delete it and run") as caught:
        find_leaks(corpus, corpus, in_flight=2)
    assert "\n" not in str(caught.value)
    place.remove()
    with pytest.raises(RunFailure, match=rf"^shard .*{shard.path} is missing: run"):
        find_leaks(corpus, corpus, in_flight=2)


STEPS = CorpusSpec(name="steps", rows=12_000, family="steps", digits=3, operators=("+", "-", "*"), **SHARES)


def test_steps_of_held_out_problems_are_not_in_train(ray_instance: int, tmp_path: Path, corpora: dict) -> None:
    steps = made(STEPS, tmp_path)
    held_out = {canonical_form(problem) for problem in problems(corpora["arithmetic"], *HELD_OUT)}
    assert any(canonical_form(problem) in held_out for problem in problems(steps, *HELD_OUT) if ":" in problem)
    for train, other in ((steps, steps), (steps, corpora["arithmetic"]), (corpora["arithmetic"], steps)):
        assert find_leaks(train, other, in_flight=2).leaks == 0
    # Under another key, states of held-out products are trained on.
    others = made(STEPS, tmp_path / "other", split_key="other")
    expected = oracle(others, corpora["arithmetic"])
    assert find_leaks(others, corpora["arithmetic"], in_flight=2).leaks == len(expected)
    assert any(":" in problem for problem in expected)


def test_state_of_a_held_out_product_is_a_leak(ray_instance: int, tmp_path: Path) -> None:
    products = CorpusSpec(name="products", rows=4_000, family="digits", terms=2, digits=3, operators=("*",), **SHARES)
    other, steps = made(products, tmp_path), made(STEPS, tmp_path)
    problem = next(text for text in problems(other, "test") if re.fullmatch(r"\d{3}\*[1-9]\d{2}", text))
    a, b = problem.split("*")
    shard = steps.of_split("train")[-1]
    assert find_leaks(steps, other, in_flight=2).leaks == 0
    for state in (f"{a}*{b}:0", f"{a}*{b[1:]}:{int(a) * int(b[0])}", f"-{a}*-{b[2:]}:{int(a) * int(b[:2])}"):
        found = find_leaks(rewritten(steps, shard, 7, state), other, in_flight=2)
        assert (found.leaks, found.collisions) == (1, 0)
        assert (found.examples[0].train, found.examples[0].held_out_split) == (state, "test")
