from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import pipelines.generation.build as build_module
from model.tokenizer import TokenLayout
from pipelines.generation.build import build_corpus, build_tokens, corpus_bytes, token_layouts
from pipelines.generation.describe import describe
from pipelines.generation.generate import sample_rows
from pipelines.problems.components import components
from pipelines.spec.corpus import CorpusSpec
from storage.datasets.manifest import SPLITS, Dataset, ShardRecord, committed
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from tests.builders import SMALL, TOKENIZERS, Built, encode_plainly


def build(spec: CorpusSpec, folder: Path) -> Dataset:
    return build_corpus(spec, LocalLocation(folder), in_flight=2)[0]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_ray_workers_writes_the_same_bytes(
    ray_instance: int, tmp_path: Path, small: Built, workers: int
) -> None:
    corpus, _ = build_corpus(SMALL, LocalLocation(tmp_path), in_flight=workers)
    assert corpus.manifest == small.corpus.manifest
    assert corpus.shards == small.corpus.shards
    assert not (tmp_path / ".progress").exists()


def test_one_process_without_ray_writes_the_same_and_only_test_rows_on_request(tmp_path: Path, small: Built) -> None:
    corpus, _ = build_corpus(SMALL, LocalLocation(tmp_path / "all"), in_flight=0)
    assert (corpus.manifest, corpus.shards) == (small.corpus.manifest, small.corpus.shards)
    spec = SMALL.model_copy(update={"only_test": True})
    test_corpus, _ = build_corpus(spec, LocalLocation(tmp_path / "test"), in_flight=0)
    assert test_corpus.shards == corpus.of_split("test")
    tokens, _ = build_tokens(test_corpus, small.tokenizer, LocalLocation(tmp_path / "tokens"), in_flight=0)
    assert [shard.rows for shard in tokens.shards] == [shard.rows for shard in test_corpus.shards]
    assert abs(corpus_bytes(spec) / test_corpus.manifest.bytes - 1) < 0.5
    assert {row["split"] for row in describe(spec).examples} == {"test"}


def test_committed_corpus_is_not_generated_again(ray_instance: int, tmp_path: Path) -> None:
    build(SMALL, tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    dataset, made = build_corpus(SMALL, LocalLocation(tmp_path), in_flight=2)
    assert not made
    assert dataset.manifest.rows == 10_000
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}


def test_interrupted_generation_continues_with_the_missing_ranges(
    ray_instance: int, tmp_path: Path, small: Built
) -> None:
    rows: list[int] = []

    class CutError(Exception):
        pass

    def cut(done: int) -> None:
        rows.append(done)
        if len(rows) == 2:
            raise CutError

    with pytest.raises(CutError):
        build_corpus(SMALL, LocalLocation(tmp_path), in_flight=1, progress=cut)
    assert not committed(LocalLocation(tmp_path))
    (tmp_path / "data" / ".half.parquet.1.partial").write_bytes(b"left by a killed writer")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "data" / "split=train").rglob("*.parquet")}
    assert len(kept) >= 2
    corpus = build(SMALL, tmp_path)
    assert corpus.manifest == small.corpus.manifest
    assert all(path.stat().st_mtime_ns == time for path, time in list(kept.items())[:2])
    assert not list(tmp_path.rglob("*.partial"))


def test_notes_of_another_spec_in_the_same_folder_are_ignored(tmp_path: Path) -> None:
    class CutError(Exception):
        pass

    def cut(done: int) -> None:
        raise CutError

    other = SMALL.model_copy(update={"seed": SMALL.seed + 1})
    with pytest.raises(CutError):
        build_corpus(other, LocalLocation(tmp_path / "one"), in_flight=0, progress=cut)
    assert list((tmp_path / "one" / ".progress").glob("[0-9]*.json"))
    made, _ = build_corpus(SMALL, LocalLocation(tmp_path / "one"), in_flight=0)
    plain, _ = build_corpus(SMALL, LocalLocation(tmp_path / "two"), in_flight=0)
    assert (made.manifest, made.shards) == (plain.manifest, plain.shards)
    for shard in made.shards:
        assert made.verified(shard).exists()


def test_notes_of_a_missing_or_truncated_shard_are_ignored(ray_instance: int, tmp_path: Path, small: Built) -> None:
    build(SMALL, tmp_path)
    (tmp_path / "manifest.json").unlink()
    victim = next((tmp_path / "data" / "split=train").rglob("*.parquet"))
    victim.write_bytes(victim.read_bytes()[:50])
    assert build(SMALL, tmp_path).shards == small.corpus.shards
    assert victim.stat().st_size > 50


def test_committed_corpus_is_repaired_shard_by_shard(ray_instance: int, tmp_path: Path) -> None:
    before = build(SMALL, tmp_path)
    victims = sorted((tmp_path / "data" / "split=test").rglob("*.parquet"))[:2]
    whole = [victim.read_bytes() for victim in victims]
    victims[0].unlink()
    victims[1].write_bytes(whole[1][:-1])
    untouched = tmp_path / before.shards[-1].path
    time = untouched.stat().st_mtime_ns
    repaired, made = build_corpus(SMALL, LocalLocation(tmp_path), in_flight=2)
    assert made
    assert repaired == before
    assert [victim.read_bytes() for victim in victims] == whole
    assert untouched.stat().st_mtime_ns == time


def test_another_corpus_of_the_same_name_is_not_overwritten(ray_instance: int, tmp_path: Path) -> None:
    before = build(SMALL, tmp_path).manifest
    with pytest.raises(UserError, match="exists with another configuration"):
        build(SMALL.model_copy(update={"seed": 1}), tmp_path)
    assert build(SMALL, tmp_path).manifest == before


def test_too_small_disk_is_refused_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalLocation, "free_bytes", lambda self: 1_000_000)
    with pytest.raises(RunFailure, match=r"needs 1,[12]\d\d\.\d MB more .* 1\.0 MB are free"):
        build(CorpusSpec(), tmp_path)
    assert not list(tmp_path.rglob("*.parquet"))


def test_the_estimate_of_bytes_is_close(small: Built) -> None:
    assert 10.3 < corpus_bytes(CorpusSpec()) / 1e8 < 12


def test_a_corpus_without_a_split_is_refused(ray_instance: int, tmp_path: Path) -> None:
    tiny = CorpusSpec(name="tiny", terms=2, high=2, rows_per_shard=1_000)
    with pytest.raises(UserError, match="raise rows or the shares of these splits"):
        build(tiny, tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_rare_split_is_searched_in_enough_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first row is after the rows that are searched for frequent splits."""
    spec = SMALL.model_copy(update={"validation": 0.002, "test": 0.1})
    (component,) = components(spec)
    _, splits = sample_rows(spec, component, spec.total_rows)
    first = int(np.flatnonzero(splits == SPLITS.index("validation"))[0])
    assert first > 50
    monkeypatch.setattr(build_module, "_FIRST_ROWS", first)
    corpus, _ = build_corpus(spec, LocalLocation(tmp_path), in_flight=0)
    assert corpus.manifest.split_rows["validation"] > 0


@pytest.mark.parametrize(("problem", "answer", "words"), [(2_049, 5, "problems"), (5, 2_048, "answers")])
def test_too_wide_layouts_are_refused_in_one_line(problem: int, answer: int, words: str) -> None:
    shard = ShardRecord("x", "train", "s", 1, 1, "", "", problem_length=problem, answer_digits=answer)
    with pytest.raises(UserError, match=f"^{words} may have 2,049 tokens, but a row holds at most 2,048: .*triples$"):
        token_layouts([shard])


def test_ray_and_one_process_encode_to_the_same_bytes(ray_instance: int, tmp_path: Path, small: Built) -> None:
    from model.tokenizer import load_tokenizer

    tokenizer, _ = load_tokenizer(small.workspace.tokenizer("small-digit"))
    tokens, made = build_tokens(small.corpus, tokenizer, LocalLocation(tmp_path), in_flight=2)
    assert made
    assert tokens.manifest == small.tokens.manifest
    assert tokens.shards == small.tokens.shards


def test_a_tokenizer_encodes_other_corpora_too(ray_instance: int, tmp_path: Path, small: Built, longer: Built) -> None:
    tokens, _ = build_tokens(longer.corpus, small.tokenizer, LocalLocation(tmp_path), in_flight=2)
    shard = tokens.shards[0]
    text = pq.read_table(str(longer.corpus.checked(longer.corpus.shards[0])), columns=["problem"])
    coded = pq.read_table(str(tokens.checked(shard)), columns=["tokens"])
    ids = [list(row) for row in coded.column("tokens").to_pylist()[:50]]
    layout = TokenLayout(**tokens.manifest.spec["layouts"][shard.stratum])
    for row, problem in zip(ids, text.column("problem").to_pylist(), strict=False):
        assert row[: layout.problem + 1] == small.tokenizer.row(problem, layout)[: layout.problem + 1]


def test_the_layout_of_the_notebook_is_sixteen_tokens() -> None:
    shard = ShardRecord(
        path="x",
        split="train",
        stratum="grid-16",
        rows=1,
        bytes=1,
        sha256="",
        content="",
        problem_length=11,
        answer_digits=3,
    )
    assert token_layouts([shard])["grid-16"].width == 16


@pytest.mark.parametrize("kind", ["triples", "bpe"])
def test_tokens_of_other_kinds_are_encoded_once_and_then_up_to_date(
    tmp_path: Path, longer: Built, ray_instance: int, kind: str
) -> None:
    plain = encode_plainly(longer.workspace, longer.spec, longer.corpus, TOKENIZERS[kind])
    folder = LocalLocation(tmp_path / "tokens")
    made, anew = build_tokens(longer.corpus, plain.tokenizer, folder, in_flight=ray_instance)
    assert anew
    assert made.manifest == plain.tokens.manifest
    assert made.shards == plain.tokens.shards
    found, anew = build_tokens(longer.corpus, plain.tokenizer, folder, in_flight=ray_instance)
    assert (found.manifest, anew) == (made.manifest, False)


@pytest.mark.parametrize("kind", ["digit", "triples"])
def test_tokens_that_another_process_encodes_before_the_lock_are_used(
    tmp_path: Path, longer: Built, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    tokenizer = encode_plainly(longer.workspace, longer.spec, longer.corpus, TOKENIZERS[kind]).tokenizer
    folder = LocalLocation(tmp_path / "tokens")
    exclusive, first = LocalLocation.exclusive, list[Dataset]()

    def late(place: LocalLocation, what: str) -> AbstractContextManager[None]:
        """Another process completes the tokens just before the lock is taken."""
        monkeypatch.setattr(LocalLocation, "exclusive", exclusive)
        first.append(build_tokens(longer.corpus, tokenizer, folder, in_flight=0)[0])
        return exclusive(place, what)

    monkeypatch.setattr(LocalLocation, "exclusive", late)
    assert build_tokens(longer.corpus, tokenizer, folder, in_flight=0) == (first[0], False)
