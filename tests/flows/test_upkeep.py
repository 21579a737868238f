"""Commands that verify, repair and migrate a corpus."""

import json
import shutil
from pathlib import Path

import pytest

from flows.common.parameters import GenerateRequest
from flows.common.presets import CORPUS_PRESETS
from flows.registry import FLOWS
from flows.server.runner import parameters_of
from storage.workspace import Workspace
from tests.builders import Built
from tests.flows.conftest import Typed
from tests.flows.test_command import assert_one_line, numerate
from tests.pipelines.test_migrate import MIXED, write_old


@pytest.fixture
def root(tmp_path: Path, small: Built) -> Path:
    """A workspace of its own with the small corpus."""
    shutil.copytree(small.corpus.location.path, tmp_path / "w/corpora/small", ignore=shutil.ignore_patterns("tokens"))
    return tmp_path / "w"


@pytest.mark.slow
def test_faults_are_listed_and_the_suggested_command_repairs_them(root: Path, small: Built) -> None:
    def verify(*arguments: str) -> tuple[int, str, str]:
        result = numerate("corpus", "verify", *arguments, "--workspace", str(root))
        return result.returncode, result.stdout, result.stderr

    size = small.corpus.manifest.bytes
    assert verify("small", "--deep") == (
        0,
        f"corpus small: 12 shards, 10,000 rows, {size:,} bytes: no faults, recomputed\n",
        "",
    )
    folder = root / "corpora/small"
    first, second = sorted((folder / "data/split=test").rglob("*.parquet"))[:2]
    whole = first.read_bytes(), second.read_bytes()
    first.unlink()
    second.write_bytes(whole[1][:-3] + b"PAX")
    code, lines, error = verify(f"file://{folder}")
    assert code == 1
    named = [f"{path.relative_to(folder)}: {text}" for path, text in ((first, "is missing"), (second, "is damaged"))]
    assert all(line.startswith(name) for line, name in zip(lines.splitlines(), named, strict=True))
    remedy = f"numerate corpus verify file://{folder} --workspace {root} --repair"
    assert error == f"error: corpus 'small' has 2 faults: run '{remedy}'\n"
    code, lines, error = verify("small", "--repair", "--json")
    assert (code, error) == (0, "")
    result = json.loads(lines)
    assert [fault["path"] for fault in result["repaired"]] == [
        str(path.relative_to(folder)) for path in (first, second)
    ]
    assert (result["shards"], result["rows"], result["bytes"]) == (12, 10_000, size)
    assert (first.read_bytes(), second.read_bytes()) == whole
    assert (root / "catalog.duckdb").exists()


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        ("nowhere", ["corpus 'nowhere' does not exist", "numerate corpus generate"]),
        ("ftp://bucket/x", ["corpus ftp://", "file://"]),
        ("Bad Name", ["'Bad Name'"]),
    ],
)
def test_missing_corpus_is_a_one_line_error(typed: Typed, root: Path, corpus: str, words: list[str]) -> None:
    assert_one_line(typed("corpus", "verify", corpus, "--workspace", str(root)), 2, *words)
    assert not (root / "corpora/nowhere").exists()


@pytest.mark.slow
def test_old_corpus_is_migrated_by_the_command_in_its_error(root: Path, prefect_api: str) -> None:
    write_old(root / "corpora/old", MIXED)
    workspace = ("--workspace", str(root))
    assert_one_line(numerate("corpus", "verify", "old", *workspace), 2, "'numerate corpus migrate old'")
    result = numerate("corpus", "migrate", "old", *workspace, api=prefect_api)
    assert (result.returncode, result.stdout) == (0, "")
    migrated, tokens = result.stderr.splitlines()
    assert "6,000 rows with the same ids and problems; 0 moved to test" in migrated
    assert "(old-digit)" in tokens
    assert "train a tokenizer under another name and encode again" in tokens


@pytest.mark.parametrize("name", ["verify-corpus", "corpus-leakage"])
def test_quick_run_first_generates_the_missing_corpus(
    name: str, ray_instance: int, recorded: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(CORPUS_PRESETS, "notebook", GenerateRequest(name="notebook", terms=2))
    (registered,) = [each for each in FLOWS if each.name == name]
    result = registered.flow()(**parameters_of(registered, Workspace.create(str(tmp_path / "w"))))
    rows = result["rows"] if name == "verify-corpus" else result["train_rows"] + result["held_out_rows"]
    assert rows == 10_000
