"""Symbolic links in a shared workspace are not followed: their targets are never read, written or deleted."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.places.disk import LocalLocation
from storage.places.links import LinkError, lock_below
from storage.places.opening import open_location
from storage.places.place import Location
from tests.builders import contents

ROOT = Path(__file__).parents[2]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of another user, with files that have the names of workspace files."""
    place = tmp_path / "outside"
    for folder in ("", "0" * 32, "sub"):
        (place / folder).mkdir()
        for name in (".lock", "x", ".x.partial"):
            (place / folder / name).write_text("precious")
    return place


@pytest.fixture
def root(tmp_path: Path) -> LocalLocation:
    """A workspace's folder."""
    (tmp_path / "workspace").mkdir()
    return LocalLocation(tmp_path / "workspace")


def _held(place: Location) -> None:
    with place.exclusive("it"):
        pass


def _staged(place: Location) -> None:
    with place.staged() as path:
        path.write_bytes(b"new")


@pytest.mark.parametrize(
    "use",
    [
        lambda link: (link / "x").read(),
        lambda link: (link / "x").write(b"new"),
        lambda link: (link / "sub" / "x").write(b"new"),
        lambda link: (link / "sub" / "new" / "x").write(b"new"),
        lambda link: _staged(link / "x"),
        lambda link: _held(link),
        lambda link: _held(link / "sub"),
        lambda link: _held(link / "new"),
        lambda link: (link / "x").remove(),
        lambda link: (link / "sub").remove(),
        lambda link: (link / "sub").exchange(link.parent / "own"),
        lambda link: (link.parent / "own").exchange(link / "sub"),
    ],
)
@pytest.mark.parametrize("deep", ["link", "own/link"])
def test_the_target_of_a_link_to_a_folder_is_neither_changed_nor_read(
    root: LocalLocation, outside: Path, use: Callable[[Location], object], deep: str
) -> None:
    before = contents(outside)
    (root.path / "own").mkdir()
    (root.path / deep).symlink_to(outside)
    with pytest.raises(LinkError, match=rf"{deep} is a symbolic link, which is not followed in a workspace") as failure:
        use(root / deep)
    assert "\n" not in str(failure.value)
    assert contents(outside) == before


def test_a_link_counts_as_missing(root: LocalLocation, outside: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root.path / "folder").symlink_to(outside)
    (root.path / "file").symlink_to(outside / "x")
    (root / "own").write(b"own")
    assert root.children() == ["own"]
    assert f"{root / 'folder'} is a symbolic link" in caplog.text
    for link in (root / "folder", root / "file", root / "folder" / "x"):
        assert (link.exists(), link.size(), link.version(), link.children(), link.files("")) == (
            False,
            -1,
            None,
            [],
            [],
        )
        assert (link.total_bytes(), link.changed(), link.is_locked(), list(link.partials())) == (0, 0.0, False, [])
        with pytest.raises(OSError, match="symbolic link"):
            link.opened()
    assert not root.holds({"folder/x": 8})
    assert not root.holds({"file": 8})
    assert root.holds({"own": 3})
    assert (root.files(""), root.total_bytes()) == (["own"], 3)
    root.sweep()
    assert (outside / ".x.partial").exists()


def test_a_link_itself_is_replaced_or_removed(root: LocalLocation, outside: Path) -> None:
    before = contents(outside)
    for name in ("one", "two", "three"):
        (root.path / name).symlink_to(outside if name == "two" else outside / "x")
    (root / "one").write(b"precious")
    (root / "two").remove()
    (root / "three").remove()
    assert (root.path / "one").read_text() == "precious"
    assert not (root.path / "one").is_symlink()
    assert sorted(os.listdir(root.path)) == ["one"]
    assert contents(outside) == before


def test_a_lock_that_is_a_link_is_refused_and_an_existing_file_keeps_its_bytes(
    root: LocalLocation, outside: Path
) -> None:
    (root.path / ".lock").symlink_to(outside / "x")
    with pytest.raises(LinkError, match=r"\.lock is a symbolic link"), root.exclusive("it"):
        pass
    assert (outside / "x").read_text() == "precious"
    (root.path / ".lock").unlink()
    (root.path / ".lock").write_text("kept")
    with root.exclusive("it"):
        assert root.is_locked()
    assert (root.path / ".lock").read_text() == "kept"


def test_the_folder_that_the_user_names_can_be_a_link(root: LocalLocation, tmp_path: Path) -> None:
    (tmp_path / "short").symlink_to(root.path)
    named = open_location(str(tmp_path / "short"))
    (named / "x").write(b"x")
    with named.exclusive("it"):
        assert root.is_locked()
    assert ((root / "x").read(), named.children(), named.exists()) == (b"x", ["x"], True)


def test_a_pipe_or_folder_is_not_read_as_a_file(root: LocalLocation) -> None:
    os.mkfifo(root.path / "pipe")
    (root.path / "folder").mkdir()
    assert not (root / "pipe").exists()
    assert root.children() == ["folder"]
    for name in ("pipe", "folder"):
        with pytest.raises(RuntimeError, match=f"{name} can't be read .not a regular file"):
            (root / name).read()
        with pytest.raises(OSError, match="not a regular file"):
            (root / name).opened()


def test_a_replaced_lock_file_is_locked_again(root: LocalLocation, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    place, flock, replaced = root.path / ".lock", fcntl.flock, list[int]()

    def replace_first(handle: int, operation: int) -> None:
        """Another process replaces the file between opening and locking."""
        if not replaced:
            replaced.append(handle)
            place.unlink()
            place.touch()
        flock(handle, operation)

    monkeypatch.setattr("storage.places.links.fcntl.flock", replace_first)
    handle = lock_below(root.path, place)
    assert handle is not None
    assert os.path.samestat(os.fstat(handle), place.stat())
    # The lock of the new file is taken.
    assert lock_below(root.path, place) is None
    os.close(handle)


_GROUP = 65534
_AS_ANOTHER = """
import os, sys
from pathlib import Path
from storage.places.disk import LocalLocation
os.setgroups([]); os.setgid(65534); os.setuid(65534)
with LocalLocation(Path(sys.argv[1])).exclusive("it"):
    print("held")
"""


def test_every_user_who_can_write_a_folder_can_lock_it_with_any_umask(tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        with tempfile.TemporaryDirectory() as name:
            os.chmod(name, 0o777)
            folder = LocalLocation(Path(name))
            with folder.exclusive("it"):
                assert Path(name, ".lock").stat().st_mode & 0o777 == 0o666
            if os.geteuid() == 0:
                done = subprocess.run(
                    [sys.executable, "-c", _AS_ANOTHER, name], cwd=ROOT, capture_output=True, text=True, check=False
                )
                assert done.stdout == "held\n", done.stderr
            if os.geteuid() == 0:
                # A folder of a group, as a team shares it.
                Path(name, ".lock").unlink()
                os.chown(name, 0, _GROUP)
                os.chmod(name, 0o770)
                with folder.exclusive("it"):
                    made = Path(name, ".lock").stat()
                assert (made.st_mode & 0o777, made.st_gid) == (0o660, _GROUP)
                done = subprocess.run(
                    [sys.executable, "-c", _AS_ANOTHER, name], cwd=ROOT, capture_output=True, text=True, check=False
                )
                assert done.stdout == "held\n", done.stderr
        private = LocalLocation(tmp_path / "private")
        with private.exclusive("it"):
            assert (private.path / ".lock").stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(umask)
