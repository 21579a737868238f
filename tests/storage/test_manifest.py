import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.generation.build import build_corpus
from storage.datasets.manifest import (
    SCHEMA_VERSION,
    Dataset,
    Revision,
    commit,
    counted,
    decoded,
    hash_of,
    list_name,
    listed,
    lists,
    load,
    unused_lists,
)
from storage.datasets.schema_version import check_version, head_of, known_spec
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.places.opening import open_location
from storage.places.place import Location
from storage.sql.query import open_catalog, select
from storage.workspace import Workspace
from tests.builders import SMALL, Built


class KilledError(BaseException):
    """Stands for SIGKILL: nothing in the code catches it."""


def commit_first(corpus: Dataset, shards: int) -> Dataset:
    """Commits the corpus with only its first `shards` shards."""
    manifest = corpus.manifest
    return commit(
        corpus.location,
        kind=manifest.kind,
        name=manifest.name,
        generator_version=manifest.generator_version,
        spec=manifest.spec,
        shards=list(corpus.shards[:shards]),
    )


def test_a_committed_corpus_is_read_back_unchanged(small: Built) -> None:
    again = load(small.corpus.location, "corpus")
    assert again.manifest == small.corpus.manifest
    assert again.shards == small.corpus.shards
    assert again.manifest.rows == sum(shard.rows for shard in again.shards) == 10_000


def test_a_corpus_without_a_manifest_does_not_exist(own_small: Built) -> None:
    (own_small.corpus.location / "manifest.json").remove()
    with pytest.raises(UserError, match="corpus 'small' does not exist"):
        load(own_small.corpus.location, "corpus 'small'")


@pytest.mark.parametrize("kind", ["corpus", "tokens"])
@pytest.mark.parametrize(("size", "words"), [(None, "is missing"), (0, "has 0 bytes"), (100, "has 100 bytes")])
def test_a_missing_or_truncated_shard_is_named_with_the_command_that_repairs_it(
    own_small: Built, kind: str, size: int | None, words: str
) -> None:
    dataset, verb = {"corpus": (own_small.corpus, "corpus generate"), "tokens": (own_small.tokens, "encode")}[kind]
    shard = dataset.of_split("test")[0]
    place = dataset.location / shard.path
    if size is None:
        place.remove()
    else:
        with open(place.path, "r+b") as file:
            file.truncate(size)
    state = words if size is None else f"{words} instead of {shard.bytes:,}"
    with pytest.raises(RunFailure) as failure:
        dataset.paths("test")
    assert str(failure.value) == f"shard {place} {state}: run the same 'numerate {verb}' command again to repair it"


def test_the_list_of_shards_is_named_by_its_hash_and_in_version_2_by_a_fixed_name() -> None:
    assert list_name(SCHEMA_VERSION, "0123456789abcdef0123") == "shards-0123456789abcdef.parquet"
    assert list_name(2, "0123456789abcdef0123") == "shards.parquet"


def test_a_corpus_without_shards_counts_zero_rows_in_every_split() -> None:
    nothing = {"rows": 0, "bytes": 0, "split_rows": {"train": 0, "validation": 0, "test": 0}}
    assert counted(()) == {**nothing, "contents": hashlib.sha256().hexdigest()}


def test_a_repaired_dataset_of_version_2_keeps_its_identity(own_small: Built) -> None:
    manifest, former = own_small.corpus.manifest, "a" * 64
    dataset = commit(
        own_small.corpus.location,
        kind=manifest.kind,
        name=manifest.name,
        generator_version=manifest.generator_version,
        spec=manifest.spec,
        shards=list(own_small.corpus.shards),
        base=Revision.at(own_small.corpus.location, former),
    )
    assert load(dataset.location, "it").manifest.identity == former


def test_a_list_of_shards_is_compressed(small: Built) -> None:
    columns = pq.ParquetFile(small.corpus.list_location.path).metadata.row_group(0)
    assert {columns.column(number).compression for number in range(columns.num_columns)} == {"ZSTD"}


def test_a_changed_list_of_shards_is_an_error(own_small: Built) -> None:
    for dataset, remedy in ((own_small.corpus, "corpus verify small --repair"), (own_small.tokens, "encode' again")):
        place = dataset.list_location
        data = bytearray(place.read())
        data[len(data) // 2] ^= 1
        place.write(bytes(data))
        with pytest.raises(RunFailure, match=rf"doesn't match its manifest: .*{remedy}"):
            load(dataset.location, "it")
        place.remove()
        with pytest.raises(RunFailure, match=rf"is missing: .*{remedy}"):
            load(dataset.location, "it")


@pytest.mark.parametrize("moment", ["before the list", "before the manifest", "before the old list goes"])
def test_a_killed_commit_leaves_the_old_or_the_new_dataset_complete(
    own_small: Built, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    corpus, folder = own_small.corpus, own_small.corpus.location
    victim = {
        "before the list": "write",
        "before the manifest": "write_if_unchanged",
        "before the old list goes": "remove",
    }

    def killed(self: Location, *what: Any) -> None:
        raise KilledError

    monkeypatch.setattr(LocalLocation, victim[moment], killed)
    with pytest.raises(KilledError):
        commit_first(corpus, 3)
    monkeypatch.undo()
    found = load(folder, "corpus")
    assert found.shards == (corpus.shards[:3] if moment == "before the old list goes" else corpus.shards)
    assert len(lists(folder)) == (1 if moment == "before the list" else 2)
    # The next commit is complete and removes the files of the killed one.
    assert commit_first(corpus, len(corpus.shards)).manifest == corpus.manifest
    assert load(folder, "corpus").shards == corpus.shards
    assert lists(folder) == {corpus.manifest.list_name}


def test_a_first_commit_that_is_killed_before_its_manifest_is_finished_by_the_same_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: Built
) -> None:
    folder, write_if_unchanged = LocalLocation(tmp_path / "small"), LocalLocation.write_if_unchanged

    def killed(self: LocalLocation, *what: Any) -> None:
        raise KilledError

    monkeypatch.setattr(LocalLocation, "write_if_unchanged", killed)
    with pytest.raises(KilledError):
        build_corpus(SMALL, folder, in_flight=0)
    with pytest.raises(UserError, match="does not exist"):
        load(folder, "corpus 'small'")
    monkeypatch.setattr(LocalLocation, "write_if_unchanged", write_if_unchanged)
    assert build_corpus(SMALL, folder, in_flight=0)[0].manifest == small.corpus.manifest


def test_a_reader_overtaken_by_a_commit_reads_the_new_dataset(
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


def test_the_identity_covers_the_spec_and_the_contents_of_the_shards(own_small: Built) -> None:
    corpus, manifest = own_small.corpus, own_small.corpus.manifest

    def identity(**values: Any) -> str:
        """The identity with other values in the line of the first shard."""
        shards = [corpus.shards[0]._replace(**values), *corpus.shards[1:]]
        return commit(
            corpus.location, kind="corpus", name="x", generator_version=1, spec=manifest.spec, shards=shards
        ).manifest.identity

    # The bytes of another writer and the name do not change the identity.
    assert identity(bytes=1, sha256="0" * 64) == manifest.identity
    others = [identity(path="other"), identity(rows=1), identity(content="0" * 32)]
    spec = {**manifest.spec, "seed": 1}
    others.append(manifest.model_copy(update={"spec": spec, "spec_hash": hash_of(spec)}).identity)
    assert len({manifest.identity, *others}) == 5


@pytest.mark.parametrize("change", [{"rows": -1}, {"bytes": -1}, {"rows": 10**12}, {"split_rows": {"train": 5.5}}])
def test_impossible_numbers_in_a_manifest_are_damage(own_small: Built, change: dict[str, object]) -> None:
    place = own_small.corpus.location / "manifest.json"
    place.write(json.dumps({**json.loads(place.read()), **change}).encode())
    with pytest.raises(RunFailure, match="is damaged"):
        load(own_small.corpus.location, "corpus")


def test_a_damaged_manifest_is_a_one_line_error(own_small: Built) -> None:
    (own_small.corpus.location / "manifest.json").write(b"{}")
    with pytest.raises(RunFailure, match="is damaged"):
        load(own_small.corpus.location, "corpus")


@pytest.mark.parametrize(
    ("folder", "head", "line"),
    [
        (
            "/w/corpora/small",
            {"schema_version": SCHEMA_VERSION + 1},
            f"it was written by a newer Numerate (schema version {SCHEMA_VERSION + 1}, this one reads "
            f"{SCHEMA_VERSION}): update Numerate",
        ),
        (
            "/w/corpora/small",
            {"schema_version": 1, "kind": "corpus"},
            f"it has schema version 1, this Numerate reads {SCHEMA_VERSION}: run 'numerate corpus migrate small'",
        ),
        (
            "/elsewhere/small",
            {"schema_version": 1, "kind": "corpus"},
            f"it has schema version 1, this Numerate reads {SCHEMA_VERSION}: run 'numerate corpus migrate "
            "/elsewhere/small'",
        ),
        (
            "s3://bucket/corpora/small",
            {"schema_version": 1, "kind": "corpus"},
            f"it has schema version 1, this Numerate reads {SCHEMA_VERSION}: generate it under another name "
            "('numerate corpus migrate' needs a local disk)",
        ),
        (
            "/w/corpora/small/tokens/x",
            {"schema_version": 1, "kind": "tokens"},
            f"it has schema version 1, this Numerate reads {SCHEMA_VERSION}: delete /w/corpora/small/tokens/x and run "
            "'numerate encode' again",
        ),
    ],
)
def test_the_error_for_another_schema_version_names_the_remedy(folder: str, head: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as failure:
        check_version(json.dumps(head).encode(), open_location(folder), "it")
    assert str(failure.value) == line


@pytest.mark.parametrize("version", [2, SCHEMA_VERSION, 0, -1, "1", None, 1.5])
def test_readable_and_invalid_schema_versions_pass_the_version_check(version: object) -> None:
    check_version(json.dumps({"schema_version": version}).encode(), open_location("/w"), "it")


def test_the_text_of_each_version_has_its_own_fields(small: Built) -> None:
    manifest = small.corpus.manifest
    new = {name for name in type(manifest).model_fields if name != "former"}
    for changes, names in (
        ({}, new),
        ({"former": "0" * 64}, new | {"former"}),
        ({"schema_version": 2}, new - {"contents"}),
        ({"schema_version": 2, "former": "0" * 64}, new - {"contents"}),
    ):
        text = manifest.model_copy(update=changes).text()
        values = json.loads(text)
        assert set(values) == names
        assert text == json.dumps(values, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"1", b"\xff", b"[" * 100_000])
def test_a_head_that_cannot_be_read_is_empty(data: bytes) -> None:
    assert head_of(data) == {}
    check_version(data, open_location("/w"), "it")


def test_a_spec_is_known_only_if_its_hash_matches() -> None:
    spec = {"a": 1}
    assert head_of(json.dumps({"spec": spec}).encode()) == {"spec": spec}
    assert known_spec({"spec": spec, "spec_hash": hash_of(spec)}) == spec
    for head in (
        {},
        {"spec": spec},
        {"spec": spec, "spec_hash": hash_of({"a": 2})},
        {"spec_hash": hash_of(None)},
        {"spec": [1], "spec_hash": hash_of([1])},
    ):
        assert known_spec(head) is None


def test_lists_that_no_manifest_names_are_unused(own_small: Built) -> None:
    folder, own = own_small.corpus.location, own_small.corpus.manifest.list_name
    assert unused_lists(folder) == set()
    for name in ("shards-0123456789abcdef.parquet", "shards.parquet", "shards-1.parquet", "other.parquet"):
        (folder / name).write(b"x")
    assert unused_lists(folder) == {"shards-0123456789abcdef.parquet", "shards.parquet"}
    assert lists(folder) == unused_lists(folder) | {own}
    (folder / "manifest.json").write(b"{}")
    assert unused_lists(folder) == set()


def test_a_list_of_shards_is_read_from_its_bytes_alone(small: Built) -> None:
    encoded = small.corpus.list_location.read()
    assert decoded(encoded) == small.corpus.shards
    table = listed(encoded)
    for damaged in (b"", encoded[:-9], encoded[9:], written(table.drop(["rows"])), written(pa.table({"a": [1]}))):
        with pytest.raises(RunFailure, match=r"^is not a list of shards$"):
            decoded(damaged)
    paths = table.column("path").to_pylist()
    outside = table.set_column(0, table.schema.field(0), pa.array([*paths[:-1], "../x"]))
    with pytest.raises(RunFailure, match=r"^lists '\.\./x', which is not a path below its folder$"):
        decoded(written(outside))
    # Invalid UTF-8, which only a full validation finds.
    text = pa.StringArray.from_buffers(
        len(paths), pa.array(range(len(paths) + 1), pa.int32()).buffers()[1], pa.py_buffer(b"\xff" * len(paths))
    )
    with pytest.raises(RunFailure, match=r"^is not a list of shards$"):
        decoded(written(table.set_column(0, table.schema.field(0), text)))


def written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_the_error_for_a_damaged_shard_names_the_remedy(own_small: Built) -> None:
    for dataset, remedy in (
        (own_small.corpus, "run 'numerate corpus verify small --repair'"),
        (own_small.tokens, "delete it and run the same 'numerate encode' command again"),
    ):
        shard = dataset.shards[0]
        place = dataset.location / shard.path
        assert dataset.verified(shard) == place
        assert dataset.is_complete()
        assert dataset.paths(shard.split)[0] == str(place)
        data = bytearray(place.read())
        data[len(data) // 2] ^= 1
        place.path.write_bytes(data)
        with pytest.raises(RunFailure) as failure:
            dataset.verified(shard)
        assert str(failure.value) == f"shard {place} is damaged: {remedy}"
        place.path.write_bytes(data[:-1])
        assert not dataset.is_complete()


def test_a_manifest_with_a_changed_spec_is_damaged(own_small: Built) -> None:
    place = own_small.corpus.location / "manifest.json"
    head = json.loads(place.read())
    place.write(json.dumps({**head, "spec": {**head["spec"], "seed": 5}}).encode())
    with pytest.raises(RunFailure) as failure:
        load(own_small.corpus.location, "it")
    remedy = "delete it and run the same 'numerate corpus generate' command again"
    assert str(failure.value) == f"{place} is damaged (its spec was changed): {remedy}"
    place.write(json.dumps({**head, "rows": -1}).encode())
    with pytest.raises(RunFailure) as failure:
        load(own_small.corpus.location, "it")
    assert str(failure.value).startswith(f"{place} is damaged (rows is -1: ")
    assert str(failure.value).endswith(f"): {remedy}")


def test_an_unknown_split_is_refused(small: Built) -> None:
    with pytest.raises(UserError, match=r"^split 'exam' is unknown: use one of train, validation, test$"):
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
    with pytest.raises(RunFailure, match="is not a path below its folder"):
        load(own_small.corpus.location, "it")
    with open_catalog(own_small.workspace) as connection, pytest.raises(UserError, match="corpus_small does not exist"):
        select(connection, "SELECT * FROM corpus_small")
