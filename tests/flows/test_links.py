"""A symbolic link in place of any file or folder of a workspace: its target is neither changed nor shown."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from flows.diagnostics.cleaning import clean
from flows.diagnostics.status import status_of
from flows.server.report_pages import page_at
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.build import build_corpus, protected
from storage.errors import RunFailure, UserError
from storage.sql.query import open_catalog
from storage.workspace import Workspace
from tests.builders import SMALL, TINY_TRAINING, Built, contents

_SECRET = b"secret"
_REPLACED = (
    "runs/one/index.html",
    "runs/one/report.json",
    "runs/one/report/index.html",
    "runs/one/evaluations/suite.grid/report.json",
    "runs/one/predictions/small.test.parquet",
    "runs/one/probes/probes.best.parquet",
    "runs/one/evaluations/exhaustive-0/000000.json",
    "comparisons/both/table.parquet",
    "comparisons/both/probes/index.html",
    ".prefect/served.json",
    "corpora/small/made.json",
)


def _query(workspace: Workspace) -> None:
    with open_catalog(workspace):
        pass


def _write_all(workspace: Workspace) -> None:
    """Replace every file that a flow replaces: pages, pictures, notes."""
    for path in _REPLACED:
        place = workspace.root
        for part in path.split("/"):
            place = place / part
        with suppress(RunFailure):
            place.write(b"new")


def _forget(workspace: Workspace) -> None:
    for path in (".prefect", "corpora/small/.progress", "corpora/small/.subsets"):
        (workspace.root / path / "x").remove()
        (workspace.root / path).remove()


def _hold(workspace: Workspace) -> None:
    for path in ("corpora/small", "corpora/small/tokens/small-digit", "runs/one", "runs/one/.launch", ".prefect"):
        with suppress(RunFailure), protected(workspace.root / path, "it", write=True):
            pass


_ACTIONS: list[Callable[[Workspace], object]] = [
    lambda workspace: status_of(str(workspace.root)),
    _query,
    _hold,
    lambda workspace: build_corpus(SMALL, workspace.corpus("small"), in_flight=0),
    _write_all,
    lambda workspace: clean(workspace),
    _forget,
]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, small: Built) -> Path:
    """A workspace with a run, and with what queries, kills and a server leave; not to be changed."""
    root = tmp_path_factory.mktemp("links") / "w"
    shutil.copytree(small.workspace.root.path, root, ignore=shutil.ignore_patterns("runs"))
    workspace = Workspace.open(str(root))
    train(*prepare(workspace, "one", "small", "small-digit", TINY_TRAINING.model_copy(update={"keep": 3})))
    for action in (_query, _hold):
        action(workspace)
    for path in (
        ".spill/" + "0" * 32 + "/x",
        ".prefect/served.json",
        *_REPLACED,
        "runs/one/loss.png",
        "runs/one/.launch/x",
        "runs/one/.x.0.partial",
        "corpora/small/.progress/000000.json",
        "corpora/small/.subsets/0.parquet",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(_SECRET)
        os.utime(root / path, (1e9, 1e9))
    return root


def _paths(root: Path) -> Iterator[str]:
    """One of each kind of path below: those that differ in numbers alone are of one kind."""
    found = (path.relative_to(root).as_posix() for path in sorted(root.rglob("*")))
    return iter({re.sub(r"[0-9a-f]{8,}|\d+", "0", path): path for path in found}.values())


@pytest.mark.parametrize("deep", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_symbolic_link_in_place_of_any_path_is_not_followed(used: Path, tmp_path: Path, deep: bool) -> None:
    paths = [path for path in _paths(used) if ("/" in path) == deep]
    assert len(paths) > (30 if deep else 4)
    for path in paths:
        root, outside = tmp_path / "w", tmp_path / "outside"
        shutil.copytree(used, root)
        (root / path).rename(outside)
        (root / path).symlink_to(outside)
        before = contents(outside)
        workspace = Workspace.open(str(root))
        for served in ("runs/one/index.html", "runs/one/loss.png"):
            assert (page_at(workspace, served) is None) == f"{served}/".startswith(f"{path}/"), path
        for action in _ACTIONS:
            with suppress(UserError, RunFailure):
                action(workspace)
            assert contents(outside) == before, path
        shutil.rmtree(root)
        shutil.rmtree(outside) if outside.is_dir() else outside.unlink()
