"""Corpora and tokens of schema version 2 are read, verified and mended as they are, and stay what they were."""

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
    """A corpus with all faults that a look at it shows, in this process."""
    found = examine(folder)
    check_bytes(found, in_flight=0, progress=lambda rows: None)
    if deep:
        check_rows(found, in_flight=0, progress=lambda rows: None)
    return found


def damage(dataset: Dataset, number: int) -> None:
    """Turn a bit of one shard."""
    path = (dataset.location / dataset.shards[number].path).path
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_an_older_corpus_is_read_queried_verified_and_trained_on_as_it_lies_there(older: Built, small: Built) -> None:
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
def test_an_older_corpus_and_its_tokens_keep_their_identities_when_they_are_mended(
    older: Built, monkeypatch: pytest.MonkeyPatch, writer: str
) -> None:
    """Under another writer too; so that tokenizer, tokens and runs still fit."""
    corpus, tokens = older.corpus, older.tokens
    jobs = prepare(older.workspace, "run", "small", "small-digit", TINY_TRAINING)
    if writer:
        monkeypatch.setattr("storage.datasets.manifest.WRITER", writer)
        monkeypatch.setattr(verify, "WRITER", writer)
    damage(corpus, 2)
    mended = repair(examined(corpus.location, deep=False), in_flight=0, progress=lambda rows: None)
    assert (mended.manifest.schema_version, mended.manifest.identity) == (3, corpus.manifest.identity)
    assert mended.shards == corpus.shards
    assert lists(corpus.location) == {mended.manifest.list_name}
    assert examined(corpus.location).faults == []
    # Once more, from the present form.
    damage(corpus, 3)
    assert repair(examined(corpus.location), in_flight=0, progress=lambda rows: None).manifest == mended.manifest
    (tokens.location / tokens.shards[0].path).remove()
    again, made = build_tokens(mended, older.tokenizer, tokens.location, in_flight=0)
    assert made
    assert (again.manifest.schema_version, again.manifest.identity) == (3, tokens.manifest.identity)
    assert not train_tokenizer(SMALL_TOKENIZER, mended, older.workspace.tokenizer("small-digit"))[1]
    assert prepare(older.workspace, "run", "small", "small-digit", TINY_TRAINING) == jobs


def test_an_older_corpus_with_a_missing_shard_is_mended_by_the_command_that_made_it(older: Built) -> None:
    (older.corpus.location / older.corpus.shards[1].path).remove()
    mended, made = build_corpus(SMALL, older.corpus.location, in_flight=0)
    assert made
    assert mended.manifest.identity == older.corpus.manifest.identity
    assert examined(older.corpus.location).faults == []


def test_an_older_corpus_whose_list_is_lost_keeps_its_identity(older: Built) -> None:
    (older.corpus.location / "shards.parquet").remove()
    found = examined(older.corpus.location, deep=False)
    assert [fault.path for fault in found.faults] == ["shards.parquet"]
    assert repair(found, in_flight=0, progress=lambda rows: None).manifest.identity == older.corpus.manifest.identity


def test_content_hashes_of_an_older_corpus_are_checked_as_they_were_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Grid, "block_rows", 2)
    (task,) = range_tasks(NULLS)
    former, present = contents_of_range(NULLS, task, former=True), contents_of_range(NULLS, task)
    changed = [path for path in former if former[path].content != present[path].content]
    assert changed
    older = build_small(tmp_path, NULLS, version=2).corpus
    assert {shard.path: shard.content for shard in older.shards} == {path: former[path].content for path in former}
    assert examined(older.location).faults == []
    (older.location / changed[0]).remove()
    mended, _ = build_corpus(NULLS, older.location, in_flight=0)
    assert mended.shards == older.shards
    assert mended.manifest.identity == older.manifest.identity
    assert examined(older.location).faults == []


def test_an_older_corpus_that_holds_other_rows_becomes_another_one(older: Built) -> None:
    """A deep repair makes all of it anew: nothing that was made of the wrong rows fits it."""
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
    mended = repair(found, in_flight=0, progress=lambda rows: None)
    assert mended.manifest.former == ""
    assert mended.shards == older.corpus.shards
    assert examined(folder).faults == []


@pytest.mark.parametrize("mended", [False, True])
def test_every_flipped_byte_of_an_older_manifest_is_noticed(older: Built, mended: bool) -> None:
    folder = older.corpus.location
    if mended:
        (folder / older.corpus.shards[1].path).remove()
        build_corpus(SMALL, folder, in_flight=0)
    place = folder / "manifest.json"
    whole = place.read()
    assert ("former" in json.loads(whole)) == mended
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
