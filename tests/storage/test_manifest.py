import pytest

from storage.errors import RunFailure, UserError
from storage.location import Workspace
from storage.manifest import commit, load
from storage.query import open_catalog, select
from tests.builders import Built


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
    place = own_small.corpus.location / "shards.parquet"
    data = bytearray(place.read())
    data[len(data) // 2] ^= 1
    place.write(bytes(data))
    with pytest.raises(RunFailure, match=r"doesn't match its manifest"):
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
    corpus = load(own_small.corpus.location, "it")
    for read in (lambda: corpus.paths(corpus.shards[0].split), corpus.whole):
        with pytest.raises(UserError, match="leads out of its folder"):
            read()
    with open_catalog(own_small.workspace) as connection, pytest.raises(UserError, match="corpus_small does not exist"):
        select(connection, "SELECT * FROM corpus_small")
