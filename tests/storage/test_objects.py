import os
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import obstore
import pytest
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from pipelines.generation.build import build_corpus
from pipelines.generation.verify import check_bytes, examine, repair
from storage.datasets.manifest import load
from storage.errors import RunFailure, UserError
from storage.places.bucket import ObjectLocation
from storage.places.disk import LocalLocation
from storage.places.files import arrow_files
from storage.places.lease import Lease
from storage.places.opening import open_location
from storage.places.place import Location
from storage.places.stores import built
from storage.workspace import Workspace
from tests.builders import SMALL
from tests.object_store import KEY, SECRET, FaultyProxy


@pytest.fixture(params=["disk", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """An empty folder of each kind."""
    if request.param == "disk":
        return LocalLocation(tmp_path / "folder")
    return open_location(request.getfixturevalue("bucket")) / "folder"


def test_both_kinds_of_locations_behave_alike(folder: Location, tmp_path: Path) -> None:
    place = folder / "deep" / "er" / "x.bin"
    assert (place.exists(), place.size(), place.version(), folder.exists(), folder.children()) == (
        False,
        -1,
        None,
        False,
        [],
    )
    place.write(b"hello")
    (folder / "deep" / "y.txt").write(b"")
    (folder / ".hidden").write(b"!")
    assert (place.exists(), (folder / "deep").exists(), place.size(), place.read()) == (True, True, 5, b"hello")
    assert (folder.children(), (folder / "deep").children()) == (["deep"], ["er", "y.txt"])
    assert (folder.files(".bin"), folder.files(".none")) == (["deep/er/x.bin"], [])
    assert (place.name, place.parent, place.below(folder)) == ("x.bin", folder / "deep" / "er", "deep/er/x.bin")
    assert (folder.total_bytes(), place.total_bytes()) == (6, 5)
    assert abs(place.changed() - time.time()) < 60
    assert folder.holds({"deep/er/x.bin": 5, "deep/y.txt": 0})
    assert not folder.holds({"deep/er/x.bin": 5, "deep/y.txt": 1})
    assert not folder.holds({"deep/er/x.bin": 5, "deep/z.txt": 0})
    with place.opened() as file:
        assert (file.read(2), file.seek(1), file.read(), file.size()) == (b"he", 1, b"ello", 5)
    with place.opened(whole=True) as file:
        assert file.read() == b"hello"
    assert pickle.loads(pickle.dumps(place)) == place
    (folder / "deep").remove()
    assert (place.exists(), folder.total_bytes()) == (False, 1)
    place.remove()
    for missing in (lambda: place.opened(), lambda: place.opened(whole=True)):
        with pytest.raises(FileNotFoundError):
            missing()
    with pytest.raises(RunFailure, match=r"x.bin can't be read .No such file"):
        place.read()


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(folder: Location) -> None:
    place = folder / "x"
    place.write(b"old")

    def fail() -> None:
        with place.staged() as path:
            path.write_bytes(b"new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (place.read(), folder.files("")) == (b"old", ["x"])


@pytest.fixture(params=["gs", "az"])
def strict(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ObjectLocation:
    """A folder of a store that refuses to delete missing objects, like Google's and Azure's; S3 ignores them."""
    store, delete = MemoryStore(), obstore.delete

    def refuse_missing(store: MemoryStore, paths: Sequence[str]) -> None:
        """Deletes objects in order, up to the first missing one."""
        for path in paths:
            obstore.head(store, path)
            delete(store, path)

    for module in ("object", "lease"):
        monkeypatch.setattr(f"storage.places.{module}.store_of", lambda scheme, bucket, quick=False: store)
    monkeypatch.setattr("storage.places.bucket.obstore.delete", refuse_missing)
    return ObjectLocation(request.param, "bucket", "folder")


def test_folders_and_files_are_removed_from_a_store_that_refuses_to_delete_what_is_missing(
    strict: ObjectLocation,
) -> None:
    for name in ("deep/x", "deep/er/y", "deeper/z"):
        (strict / name).write(b"x")
    # An object with the name of a folder, as other programs write it.
    (strict / "deep").write(b"")
    (strict / "deep").remove()
    assert strict.files("") == ["deeper/z"]
    (strict / "deeper" / "z").remove()
    (strict / "deeper").remove()
    strict.remove()
    assert not strict.exists()


def test_a_lease_in_such_a_store_is_taken_over_and_lost(
    strict: ObjectLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = Lease(strict, "it")
    obstore.put(strict.store, f"{strict.key}/.lock", b'{"owner": "another", "machine": "far"}')
    monkeypatch.setattr("storage.places.lease._EXPIRE_SECONDS", -1.0)
    delete = obstore.delete

    def twice(store: MemoryStore, path: str) -> None:
        """A request that is repeated, because its first response was lost."""
        delete(store, path)
        raise FileNotFoundError(path)

    monkeypatch.setattr("storage.places.lease.obstore.delete", twice)
    assert lost.take()
    assert lost.holds()

    def missing(store: MemoryStore, path: str, *value: object, **options: object) -> None:
        raise FileNotFoundError(path)

    (strict / ".lock").remove()
    monkeypatch.setattr("storage.places.lease.obstore.put", missing)
    lost._renewed -= 100
    assert not lost.holds()


def test_a_corpus_is_committed_and_repaired_in_such_a_store(strict: ObjectLocation) -> None:
    corpus, _ = build_corpus(SMALL, strict, in_flight=0)
    before = corpus.manifest.identity
    (strict / corpus.shards[0].path).remove()
    found = examine(strict)
    check_bytes(found, in_flight=0, progress=lambda done: None)
    assert [fault.path for fault in found.faults] == [corpus.shards[0].path]
    assert repair(found, in_flight=0, progress=lambda done: None).manifest.identity == before
    assert load(strict, "it").shards == corpus.shards


def test_an_object_that_another_process_deletes_is_no_failure(
    strict: ObjectLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        (strict / name).write(b"x")
    delete: Callable[[MemoryStore, Sequence[str]], None] = obstore.delete  # type: ignore[assignment]
    first = list[bool]()

    def raced(store: MemoryStore, paths: Sequence[str]) -> None:
        """Another process deletes one object just before."""
        if not first:
            first.append(True)
            delete(store, ["folder/b"])
        delete(store, paths)

    monkeypatch.setattr("storage.places.bucket.obstore.delete", raced)
    strict.remove()
    assert not strict.exists()


@pytest.mark.parametrize("part", ["../x", "a/../../x", "/etc/passwd", "..", "", "a/.."])
def test_no_part_of_a_path_leads_out_of_its_folder(folder: Location, part: str) -> None:
    with pytest.raises(UserError, match="leads out of its folder"):
        folder / part


def test_a_large_file_is_uploaded_in_parts_and_read_as_it_was(bucket: str) -> None:
    data, place = os.urandom(20_000_003), open_location(f"{bucket}/large")
    with place.staged() as path:
        path.write_bytes(data)
    assert place.read() == data
    with place.opened() as file:
        file.seek(19_000_000)
        assert file.read(11) == data[19_000_000:19_000_011]


def test_the_same_bytes_are_not_uploaded_again(bucket: str, proxy: FaultyProxy) -> None:
    place = open_location(f"{bucket}/x")
    place.write(b"same")
    with place.staged() as path:
        path.write_bytes(b"same")
    assert proxy.count("PUT") == 1
    place.write(b"Same")
    assert (proxy.count("PUT"), place.read()) == (2, b"Same")


def test_a_sweep_deletes_only_staged_files_of_killed_writers(bucket: str, tmp_path: Path) -> None:
    place = open_location(bucket) / "x"
    staged = tmp_path / "cache" / "numerate" / "staged"
    staged.mkdir(parents=True)
    (staged / "killed.partial").write_bytes(b"half")
    with place.staged() as path:
        path.write_bytes(b"whole")
        place.sweep()
        assert [left.name for left in staged.iterdir()] == [path.name]
    assert (place.read(), list(staged.iterdir())) == (b"whole", [])


@pytest.mark.parametrize(
    ("uri", "kind"), [("s3://one/two", S3Store), ("gs://one/two", GCSStore), ("az://one/two", AzureStore)]
)
def test_each_scheme_has_its_store(uri: str, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "account")
    place = open_location(uri)
    assert isinstance(place, ObjectLocation)
    assert (place.scheme, place.bucket, place.key, str(place / "x")) == (uri[:2], "one", "two", f"{uri}/x")
    assert isinstance(built(place.scheme, place.bucket), kind)


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://{KEY}:{SECRET}@bucket/x",
        f"s3://{KEY}@bucket",
        f"s3://bucket/x?secret={SECRET}",
        f"s3://bucket/x#{SECRET}",
        f"gs://bucket:{SECRET}/x",
        f"ftp://user:{SECRET}@host/x",
    ],
)
def test_a_uri_with_credentials_is_refused_without_repeating_them(uri: str) -> None:
    with pytest.raises(UserError) as failure:
        Workspace.create(uri)
    assert SECRET not in str(failure.value)
    assert KEY not in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    "uri", ["s3://", "s3:///x", "s3://bucket/../x", "s3://bucket/a b", "s3://bucket/*", "s3://b/a%2e"]
)
def test_a_uri_that_names_no_plain_prefix_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="is not usable"):
        open_location(uri)


@pytest.mark.parametrize(
    ("changed", "fault", "words"),
    [
        ({}, "missing bucket", ["bucket 'nowhere' does not exist", "create it", "--workspace"]),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "", ["can't be reached", "AWS_ENDPOINT_URL"]),
        ({"AWS_ALLOW_HTTP": ""}, "", ["is not an https:// address", "AWS_ALLOW_HTTP=true"]),
        (
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_METADATA_ENDPOINT": "http://127.0.0.1:1"},
            "",
            ["no credentials were found", "AWS_ACCESS_KEY_ID"],
        ),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_PROFILE": "nobody"}, "", ["AWS_PROFILE 'nobody'", "AWS_ACCESS_KEY_ID"]),
        ({}, "403", ["access is denied (403)", "AWS_ACCESS_KEY_ID"]),
        ({}, "503", ["keeps failing (SlowDown)", "run the same command again"]),
    ],
)
def test_an_unusable_store_fails_soon_with_a_one_line_remedy(
    bucket: str,
    proxy: FaultyProxy,
    monkeypatch: pytest.MonkeyPatch,
    changed: dict[str, str],
    fault: str,
    words: list[str],
) -> None:
    proxy.fault = lambda request: fault if fault.isdigit() else ""
    for name, value in changed.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    uri = "s3://nowhere/x" if fault == "missing bucket" else f"{bucket}/x"
    with pytest.raises((UserError, RunFailure)) as failure:
        Workspace.create(uri)
    # Soon means few requests, independent of the duration of each.
    assert len(proxy.requests) <= 10
    text = str(failure.value)
    assert text.startswith("s3://")
    assert "\n" not in text
    assert SECRET not in text
    assert KEY not in text
    assert all(word in text for word in words), text
    # A traceback contains no key either.
    assert failure.value.__cause__ is None
    assert failure.value.__suppress_context__


def test_an_aws_profile_is_used_if_the_environment_has_no_key(
    bucket: str, proxy: FaultyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(
        "[default]\naws_access_key_id = DEFAULTKEY\naws_secret_access_key = x\n"
        "[other]\naws_access_key_id = OTHERKEY\naws_secret_access_key = y\n"
    )
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_PROFILE", "other")
    Workspace.create(bucket)
    assert {request.key for request in proxy.requests} == {"OTHERKEY"}


def test_pickled_objects_contain_no_credentials(bucket: str) -> None:
    place = open_location(f"{bucket}/x")
    place.write(b"x")
    assert SECRET.encode() not in pickle.dumps([place, arrow_files(place)[0], Workspace(place)])
    assert SECRET not in repr(place) + str(place)
