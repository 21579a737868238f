"""A workspace on a read-only mount can be queried, listed and verified."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import Built

ROOT = Path(__file__).parents[2]


@pytest.fixture
def read_only(small: Built, tmp_path: Path) -> Iterator[Path]:
    """The small workspace on a read-only mount."""
    place = tmp_path / "read-only"
    place.mkdir()
    source = str(small.workspace.root)
    mounted = subprocess.run(["mount", "--bind", source, str(place)], capture_output=True, check=False).returncode == 0
    if not mounted or subprocess.run(["mount", "-o", "remount,ro,bind", str(place)], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("sql", "SELECT count(*) AS rows FROM corpus_small"), id="sql"),
        pytest.param(("status",), id="status"),
        pytest.param(("clean", "--dry-run"), id="clean"),
        pytest.param(("corpus", "verify", "small"), id="verify", marks=pytest.mark.slow),
    ],
)
def test_read_only_commands_work(read_only: Path, prefect_api: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "flows", *words, "--workspace", str(read_only)],
        env={**environment, "PREFECT_API_URL": prefect_api},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_commands_that_write_are_refused_in_one_line(read_only: Path) -> None:
    words = ("corpus", "generate", "quick", "--workspace", str(read_only))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "flows", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "can't be written (Read-only file system): name another with --workspace" in done.stderr
