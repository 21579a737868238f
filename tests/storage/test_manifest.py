import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.generation.build import build_corpus
from storage.datasets.manifest import Dataset, commit, hash_of, lists, load
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.places.place import Location
from storage.sql.query import open_catalog, select
from storage.workspace import Workspace
from tests.builders import SMALL, Built


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


def commit_first(corpus: Dataset, shards: int) -> Dataset:
    """Commit the same corpus with the first of its shards alone."""
    manifest = corpus.manifest
    return commit(
        corpus.location,
        kind=manifest.kind,
        name=manifest.name,
        generator_version=manifest.generator_version,
        spec=manifest.spec,
        shards=list(corpus.shards[:shards]),
    )


def test_a_committed_corpus_is_read_back_as_it_was(small: Built) -> None:
    again = load(small.corpus.location, "corpus")
    assert again.manifest == small.corpus.manifest
    assert again.shards == small.corpus.shards
    assert again.manifest.rows == sum(shard.rows for shard in again.shards) == 10_000


def test_nothing_is_there_before_the_manifest(own_small: Built) -> None:
    (own_small.corpus.location / "manifest.json").remove()
    with pytest.raises(UserError, match="corpus 'small' is not there"):
        load(own_small.corpus.location, "corpus 'small'")


@pytest.mark.parametrize(("size", "words"), [(None, "is missing"), (100, "has 100 bytes instead of")])
def test_a_missing_or_truncated_shard_is_named(own_small: Built, size: int | None, words: str) -> None:
    place = own_small.corpus.location / own_small.corpus.of_split("test")[0].path
    if size is None:
        place.remove()
    else:
        with open(place.path, "r+b") as file:
            file.truncate(size)
    with pytest.raises(RunFailure, match=words) as failure:
        own_small.corpus.paths("test")
    assert str(place) in str(failure.value)
    assert "\n" not in str(failure.value)


def test_a_changed_list_of_shards_is_noticed(own_small: Built) -> None:
    for dataset, remedy in ((own_small.corpus, "corpus verify small --repair"), (own_small.tokens, "encode' again")):
        place = dataset.list_place
        data = bytearray(place.read())
        data[len(data) // 2] ^= 1
        place.write(bytes(data))
        with pytest.raises(RunFailure, match=rf"doesn't match its manifest: .*{remedy}"):
            load(dataset.location, "it")
        place.remove()
        with pytest.raises(RunFailure, match=rf"is missing: .*{remedy}"):
            load(dataset.location, "it")


@pytest.mark.parametrize("moment", ["before the list", "before the manifest", "before the old list goes"])
def test_a_commit_that_is_killed_leaves_the_old_dataset_or_the_new_one_whole(
    own_small: Built, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    corpus, folder = own_small.corpus, own_small.corpus.location
    victim = {"before the list": "write", "before the manifest": "write_over", "before the old list goes": "remove"}

    def killed(self: Location, *what: Any) -> None:
        raise KilledError

    monkeypatch.setattr(LocalLocation, victim[moment], killed)
    with pytest.raises(KilledError):
        commit_first(corpus, 3)
    monkeypatch.undo()
    found = load(folder, "corpus")
    assert found.shards == (corpus.shards[:3] if moment == "before the old list goes" else corpus.shards)
    assert len(lists(folder)) == (1 if moment == "before the list" else 2)
    # What is made after that is whole again, and nothing of the killed one lies there.
    assert commit_first(corpus, len(corpus.shards)).manifest == corpus.manifest
    assert load(folder, "corpus").shards == corpus.shards
    assert lists(folder) == {corpus.manifest.list_name}


def test_a_first_commit_that_is_killed_before_its_manifest_is_finished_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Built
) -> None:
    folder, write_over = LocalLocation(tmp_path / "small"), LocalLocation.write_over

    def killed(self: LocalLocation, *what: Any) -> None:
        raise KilledError

    monkeypatch.setattr(LocalLocation, "write_over", killed)
    with pytest.raises(KilledError):
        build_corpus(SMALL, folder, in_flight=0)
    with pytest.raises(UserError, match="is not there"):
        load(folder, "corpus 'small'")
    monkeypatch.setattr(LocalLocation, "write_over", write_over)
    assert build_corpus(SMALL, folder, in_flight=0)[0].manifest == small.corpus.manifest


def test_a_reader_that_a_commit_overtakes_reads_what_was_committed(
    own_small: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, read = own_small.corpus, LocalLocation.read
    lists_read = 0

    def overtaken(place: LocalLocation) -> bytes:
        nonlocal lists_read
        if place.name.startswith("shards-"):
            lists_read += 1
            if lists_read == 1:
                commit_first(corpus, 3)
        return read(place)

    monkeypatch.setattr(LocalLocation, "read", overtaken)
    assert load(corpus.location, "corpus").shards == corpus.shards[:3]


def test_the_identity_is_the_specification_and_what_the_shards_hold(own_small: Built) -> None:
    corpus, manifest = own_small.corpus, own_small.corpus.manifest

    def identity(**values: Any) -> str:
        """The identity with other values in the line of the first shard."""
        shards = [corpus.shards[0]._replace(**values), *corpus.shards[1:]]
        return commit(
            corpus.location, kind="corpus", name="x", generator_version=1, spec=manifest.spec, shards=shards
        ).manifest.identity

    # Whatever another writer makes of the same rows, and whatever it is called.
    assert identity(bytes=1, sha256="0" * 64) == manifest.identity
    others = [identity(path="other"), identity(rows=1), identity(content="0" * 32)]
    spec = {**manifest.spec, "seed": 1}
    others.append(manifest.model_copy(update={"spec": spec, "spec_hash": hash_of(spec)}).identity)
    assert len({manifest.identity, *others}) == 5


@pytest.mark.parametrize("change", [{"rows": -1}, {"bytes": -1}, {"rows": 10**12}, {"split_rows": {"train": 5.5}}])
def test_numbers_that_no_corpus_has_are_damage(own_small: Built, change: dict[str, object]) -> None:
    place = own_small.corpus.location / "manifest.json"
    place.write(json.dumps({**json.loads(place.read()), **change}).encode())
    with pytest.raises(RunFailure, match="is damaged"):
        load(own_small.corpus.location, "corpus")


def test_a_damaged_manifest_is_one_clear_line(own_small: Built) -> None:
    (own_small.corpus.location / "manifest.json").write(b"{}")
    with pytest.raises(RunFailure, match="is damaged"):
        load(own_small.corpus.location, "corpus")


def test_an_unknown_split_is_refused(small: Built) -> None:
    with pytest.raises(UserError, match="split 'exam' is unknown"):
        small.corpus.of_split("exam")


@pytest.mark.parametrize("name", ["", "Upper", "../up", "a/b", "a b", "x" * 65, "-a"])
def test_a_name_that_is_no_folder_or_view_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="not usable"):
        Workspace.open("/tmp/anywhere").corpus(name)


@pytest.mark.parametrize("path", ["../../../outside.parquet", "/etc/outside.parquet", "data/../../../../x.parquet"])
def test_no_path_in_a_manifest_leads_out_of_its_corpus(own_small: Built, path: str) -> None:
    commit(
        own_small.corpus.location,
        kind="corpus",
        name="small",
        generator_version=own_small.corpus.manifest.generator_version,
        spec=own_small.corpus.manifest.spec,
        shards=[own_small.corpus.shards[0]._replace(path=path)],
    )
    with pytest.raises(RunFailure, match="is no path below its folder"):
        load(own_small.corpus.location, "it")
    with open_catalog(own_small.workspace) as connection, pytest.raises(UserError, match="corpus_small does not exist"):
        select(connection, "SELECT * FROM corpus_small")
