"""Corpora and tokens of schema version 2 are read, verified and repaired, and keep their identities."""

import json
import shutil
from pathlib import Path

import pytest

from flows.diagnostics.status import status_of
from model.training.preflight import prepare
from pipelines.generation import verify
from pipelines.generation.build import build_corpus, build_tokens
from pipelines.generation.generate import contents_of_range, range_tasks
from pipelines.generation.migrate import old_spec
from pipelines.generation.verify import check_bytes, check_rows, examine, repair
from pipelines.problems.grid import Grid
from pipelines.spec.corpus import CorpusSpec
from pipelines.tokens.vocabulary import train_tokenizer
from storage.datasets.manifest import Dataset, lists, load
from storage.errors import UserError
from storage.places.disk import LocalLocation
from storage.places.place import Location
from storage.sql.query import open_catalog, select
from storage.workspace import Workspace
from tests.builders import SMALL, SMALL_TOKENIZER, TINY_TRAINING, Built, build_small, commit_version_2

# Products among sums: the lengths of their carries are null.
NULLS = CorpusSpec(
    name="nulls", terms=3, high=3, operators=("+", "*"), rows=30, rows_per_shard=1_000, validation=0.1, test=0.1
)  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A corpus with tokenizer and tokens of version 2; not to be changed."""
    return build_small(tmp_path_factory.mktemp("older"), version=2)


@pytest.fixture
def older(built: Built, tmp_path: Path) -> Built:
    """The same for a test that changes it."""
    shutil.copytree(built.workspace.root.path, tmp_path / "w")
    workspace = Workspace.open(str(tmp_path / "w"))
    tokens = load(workspace.tokens("small", "small-digit"), "tokens")
    corpus = load(workspace.corpus("small"), "corpus")
    return Built(workspace, built.spec, corpus, built.tokenizer, tokens, built.layout)


def examined(folder: Location, deep: bool = True) -> verify.Examination:
    """The result of an examination in this process, with all faults."""
    found = examine(folder)
    check_bytes(found, in_flight=0, progress=lambda rows: None)
    if deep:
        check_rows(found, in_flight=0, progress=lambda rows: None)
    return found


def damage(dataset: Dataset, number: int) -> None:
    """Flips a bit of one shard."""
    path = (dataset.location / dataset.shards[number].path).path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_older_corpus_is_read_queried_verified_and_trained_on_unchanged(older: Built, small: Built) -> None:
    corpus = older.corpus
    assert corpus.manifest.schema_version == 2
    assert corpus.shards == small.corpus.shards
    assert corpus.manifest.identity != small.corpus.manifest.identity
    assert old_spec(corpus.location) is None
    assert examined(corpus.location).faults == []
    assert build_corpus(SMALL, corpus.location, in_flight=0) == (corpus, False)
    assert build_tokens(corpus, older.tokenizer, older.tokens.location, in_flight=0) == (older.tokens, False)
    assert not train_tokenizer(SMALL_TOKENIZER, corpus, older.workspace.tokenizer("small-digit"))[1]
    assert prepare(older.workspace, "run", "small", "small-digit", TINY_TRAINING)
    with open_catalog(older.workspace) as connection:
        assert select(connection, "SELECT count(*) FROM shards").fetchall() == [(len(corpus.shards),)]
    status = status_of(str(older.workspace.root))
    assert [each.state for each in (*status.corpora, *status.tokens)] == ["complete", "complete"]


@pytest.mark.parametrize("writer", ["pyarrow 99.0", ""])
def test_older_corpus_and_its_tokens_keep_their_identities_after_a_repair(
    older: Built, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """Also with another writer; tokenizer, tokens and runs stay valid."""
    corpus, tokens = older.corpus, older.tokens
    jobs = prepare(older.workspace, "run", "small", "small-digit", TINY_TRAINING)
    if writer:
        monkeypatch.setattr("storage.datasets.manifest.WRITER", writer)
        monkeypatch.setattr(verify, "WRITER", writer)
    damage(corpus, 2)
    repaired = repair(examined(corpus.location, deep=False), in_flight=0, progress=lambda rows: None)
    assert (repaired.manifest.schema_version, repaired.manifest.identity) == (3, corpus.manifest.identity)
    assert repaired.shards == corpus.shards
    assert lists(corpus.location) == {repaired.manifest.list_name}
    assert examined(corpus.location).faults == []
    # Once more, from the present form.
    damage(corpus, 3)
    assert repair(examined(corpus.location), in_flight=0, progress=lambda rows: None).manifest == repaired.manifest
    (tokens.location / tokens.shards[0].path).remove()
    again, made = build_tokens(repaired, older.tokenizer, tokens.location, in_flight=0)
    assert made
    assert (again.manifest.schema_version, again.manifest.identity) == (3, tokens.manifest.identity)
    assert not train_tokenizer(SMALL_TOKENIZER, repaired, older.workspace.tokenizer("small-digit"))[1]
    assert prepare(older.workspace, "run", "small", "small-digit", TINY_TRAINING) == jobs


def test_older_corpus_with_a_missing_shard_is_repaired_by_the_command_that_generated_it(older: Built) -> None:
    (older.corpus.location / older.corpus.shards[1].path).remove()
    repaired, made = build_corpus(SMALL, older.corpus.location, in_flight=0)
    assert made
    assert repaired.manifest.identity == older.corpus.manifest.identity
    assert examined(older.corpus.location).faults == []


def test_older_corpus_with_a_lost_list_keeps_its_identity(older: Built) -> None:
    (older.corpus.location / "shards.parquet").remove()
    found = examined(older.corpus.location, deep=False)
    assert [fault.path for fault in found.faults] == ["shards.parquet"]
    assert repair(found, in_flight=0, progress=lambda rows: None).manifest.identity == older.corpus.manifest.identity


def test_content_hashes_of_an_older_corpus_are_checked_by_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grid, "block_rows", 2)
    (task,) = range_tasks(NULLS)
    former, present = (
        {shard.path: shard.content for shard in contents_of_range(NULLS, task, former=version_2)}
        for version_2 in (True, False)
    )
    changed = [path for path in former if former[path] != present[path]]
    assert changed
    older = build_small(tmp_path, NULLS, version=2).corpus
    assert {shard.path: shard.content for shard in older.shards} == former
    assert examined(older.location).faults == []
    (older.location / changed[0]).remove()
    repaired, _ = build_corpus(NULLS, older.location, in_flight=0)
    assert repaired.shards == older.shards
    assert repaired.manifest.identity == older.manifest.identity
    assert examined(older.location).faults == []


def test_older_corpus_with_other_rows_becomes_another_corpus(older: Built) -> None:
    """A deep repair regenerates all rows, so tokens of the wrong rows no longer match."""
    folder, manifest = older.corpus.location, older.corpus.manifest
    wrong = [older.corpus.shards[0]._replace(content="0" * 32), *older.corpus.shards[1:]]
    commit_version_2(
        folder,
        kind="corpus",
        name="small",
        generator_version=manifest.generator_version,
        spec=manifest.spec,
        shards=wrong,
    )
    found = examined(folder)
    assert [fault.text for fault in found.faults] == ["differs from the spec (other rows)"]
    repaired = repair(found, in_flight=0, progress=lambda rows: None)
    assert repaired.manifest.former == ""
    assert repaired.shards == older.corpus.shards
    assert examined(folder).faults == []


@pytest.mark.parametrize("repaired", [False, True])
def test_every_flipped_byte_of_an_older_manifest_is_a_fault(older: Built, repaired: bool) -> None:
    folder = older.corpus.location
    if repaired:
        (folder / older.corpus.shards[1].path).remove()
        build_corpus(SMALL, folder, in_flight=0)
    place = folder / "manifest.json"
    whole = place.read()
    assert ("former" in json.loads(whole)) == repaired
    for at in range(0, len(whole), 7):
        place.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        try:
            assert examine(folder).faults, at
        except (RuntimeError, UserError) as failure:
            assert "\n" not in str(failure)  # noqa: PT017


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"schema_version": 4}')
    with pytest.raises(UserError, match="this one reads 3"):
        load(LocalLocation(tmp_path), "it")
