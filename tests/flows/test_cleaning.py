"""`numerate clean`: what is removed, what stays, and that running work is not disturbed."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.verbs.solve import Solver
from flows.diagnostics.cleaning import clean, print_cleaning
from model.runs.checkpoints import Checkpoints
from model.runs.pretrained import export
from model.training.preflight import prepare
from model.training.trainer import train
from storage.datasets.manifest import lists
from storage.errors import UserError
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.builders import Built
from tests.flows.test_command import assert_one_line, numerate
from tests.model.runs import LONGER

SPEC = LONGER.model_copy(update={"steps": 20, "checkpoint_every": 2, "validate_every": 2, "keep": 4, "where": "a > 3"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, small: Built) -> Path:
    """A workspace with a corpus, and a run of several checkpoints; not to be changed."""
    root = tmp_path_factory.mktemp("cleaning") / "w"
    shutil.copytree(small.workspace.root.path, root, ignore=shutil.ignore_patterns("runs"))
    train(*prepare(Workspace.open(str(root)), "one", "small", "small-digit", SPEC))
    return root


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Workspace:
    """The same for a test that cleans it."""
    shutil.copytree(trained, tmp_path / "w")
    return Workspace.open(str(tmp_path / "w"))


def old(path: Path, data: bytes = b"123") -> Path:
    """A file that was last written long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1e9, 1e9))
    return path


def files(workspace: Workspace) -> dict[str, bytes]:
    root = workspace.root.path
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def litter(workspace: Workspace) -> set[str]:
    """What nothing needs, put there; the names of the things that should go, but checkpoints."""
    root = workspace.root.path
    run, corpus = root / "runs/one", root / "corpora/small"
    old(run / ".launch/abc/state.json")
    old(run / "checkpoints/.step-000000008.safetensors.0123.partial")
    old(root / ".catalog.duckdb.4567.partial")
    old(corpus / ".progress/000001.json")
    old(corpus / "tokens/small-digit/.subsets/0123456789abcdef.parquet")
    return {
        "runs/one/.launch",
        "runs/one/checkpoints/.step-000000008.safetensors.0123.partial",
        ".catalog.duckdb.4567.partial",
        "corpora/small/.progress",
        "corpora/small/tokens/small-digit/.subsets/0123456789abcdef.parquet",
    }


def test_unneeded_files_are_removed_and_others_stay(workspace: Workspace) -> None:
    checkpoints = Checkpoints(workspace.run("one") / "checkpoints")
    index, before = checkpoints.index(), files(workspace)
    assert index.best
    assert index.last
    needed = {index.best.file, index.last.file}
    assert len(index.entries) > len(needed)
    older = {f"runs/one/checkpoints/{each.file}" for each in index.entries if each.file not in needed}
    expected = litter(workspace) | older
    named = clean(workspace, dry_run=True)
    assert {each.path for each in named.removed} == expected
    assert files(workspace).keys() >= before.keys()
    result = clean(workspace)
    assert (result.removed, result.left) == (named.removed, [])
    after = files(workspace)
    assert result.bytes == sum(len(before[name]) for name in older) + 5 * len(b"123")
    assert after.keys() == before.keys() - older
    assert {entry.file for entry in checkpoints.index().entries} == needed
    assert all(after[name] == before[name] for name in after if not name.endswith("index.json"))
    assert clean(workspace).removed == []


def test_cleaned_run_can_be_used_exported_and_trained(workspace: Workspace, tmp_path: Path) -> None:
    clean(workspace)
    model, text = Solver(workspace, "one").model_for("1+2")
    assert model.solve([text])
    export(workspace.run("one"), LocalLocation(tmp_path / "out"))
    assert train(*prepare(workspace, "one", "small", "small-digit", SPEC)).finished


def test_only_the_named_run_is_cleaned(workspace: Workspace) -> None:
    shutil.copytree(workspace.run("one").path, workspace.run("two").path)
    litter(workspace)
    assert all(each.path.startswith("runs/one/") for each in clean(workspace, "one").removed)
    assert any(each.path.startswith("runs/two/") for each in clean(workspace).removed)


@pytest.fixture(params=["run", "launch"])
def at_work(request: pytest.FixtureRequest, workspace: Workspace) -> Iterator[str]:
    """Somebody who holds the run, or the folder from which its workers are started."""
    folder = workspace.run("one")
    with (folder if request.param == "run" else folder / ".launch").exclusive("run 'one'"):
        yield request.param


def test_run_in_training_is_skipped(workspace: Workspace, at_work: str) -> None:
    litter(workspace)
    before = files(workspace)
    result = clean(workspace)
    assert not any(each.path.startswith("runs/") for each in result.removed)
    assert len(result.left) == 1
    assert "run 'one' is being written by another process" in result.left[0]
    assert all(files(workspace)[name] == data for name, data in before.items() if name.startswith("runs/"))
    with pytest.raises(UserError, match="run 'one' is being written"):
        clean(workspace, "one")


def test_file_that_is_being_written_stays(workspace: Workspace) -> None:
    with (workspace.run("one") / "predictions/x.parquet").staged() as path:
        path.write_bytes(b"half")
        clean(workspace)
        assert path.read_bytes() == b"half"


def test_run_without_an_index_keeps_its_checkpoints(workspace: Workspace) -> None:
    folder = workspace.run("one") / "checkpoints"
    (folder / "index.json").write(b"{")
    before = folder.children()
    result = clean(workspace)
    assert "index.json is damaged" in result.left[0]
    (folder / "index.json").remove()
    clean(workspace)
    assert set(folder.children()) == set(before) - {"index.json"}


def test_progress_notes_of_an_uncommitted_corpus_stay(workspace: Workspace) -> None:
    litter(workspace)
    (workspace.corpus("small") / "manifest.json").remove()
    clean(workspace)
    assert (workspace.corpus("small") / ".progress/000001.json").exists()


def test_one_line_is_printed_per_removed_file(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    litter(workspace)
    result = clean(workspace, dry_run=True)
    print_cleaning(result)
    *lines, total = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("would remove runs/one/checkpoints/step-")
    assert len(lines) == len(result.removed)
    assert total == f"would remove {len(lines)} items, {result.bytes:,} bytes in total"
    assert json.loads(result.json())["bytes"] == result.bytes


@pytest.mark.slow
def test_clean_command_removes_files_and_prints_one_line_errors(workspace: Workspace, tmp_path: Path) -> None:
    option = ("--workspace", str(workspace.root))
    found = json.loads(numerate("clean", "one", "--dry-run", "--json", *option).stdout)
    result = numerate("clean", "one", *option)
    assert len(result.stdout.splitlines()) == len(found["removed"]) + 1
    assert_one_line(numerate("clean", "two", *option), 2, "run 'two' does not exist")
    assert_one_line(numerate("clean", "--workspace", str(tmp_path / "none")), 2, "none does not exist")


def test_unused_list_of_shards_is_removed(workspace: Workspace) -> None:
    folder = workspace.corpus("small")
    named, left = lists(folder), folder / f"shards-{'0' * 16}.parquet"
    left.write(b"of a commit that was cut off")
    found = {each.path: each.reason for each in clean(workspace).removed}
    assert found[left.below(workspace.root)] == "a list of shards that the manifest does not use"
    assert lists(folder) == named


def test_the_checkpoint_from_which_a_training_continues_stays(workspace: Workspace) -> None:
    checkpoints = Checkpoints(workspace.run("one") / "checkpoints")
    last = checkpoints.index().last
    assert last
    (checkpoints.folder / last.file).write((checkpoints.folder / last.file).read()[:100])
    intact, damaged = checkpoints.newest_intact()
    assert intact
    assert damaged == [last]
    clean(workspace, dry_run=False)
    assert checkpoints.newest_intact() == (intact, [last])
