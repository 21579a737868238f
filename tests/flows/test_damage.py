"""A damaged file is reported and hides nothing else of the workspace, in `status`, `sql` and `verify`."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.cli.app import run
from flows.diagnostics.status import status_of
from pipelines.generation.fanout import Notes
from pipelines.generation.verify import examine
from storage.datasets.manifest import lists
from storage.places.disk import LocalLocation
from storage.sql.catalog import refresh_catalog
from storage.workspace import Workspace
from tests.builders import Built

DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture
def root(small: Built, tmp_path: Path) -> Path:
    """A workspace with two corpora, of which one may be damaged."""
    for name in ("small", "other"):
        shutil.copytree(small.workspace.root.path / "corpora" / "small", tmp_path / "w" / "corpora" / name)
    shutil.copytree(small.workspace.root.path / "tokenizers", tmp_path / "w" / "tokenizers")
    return tmp_path / "w"


def forge(corpus: Path, change: Callable[[pa.Table], pa.Table] | bytes) -> None:
    """Replace the list of shards, with a manifest that names the new one's hash."""
    (name,) = lists(LocalLocation(corpus))
    sink = io.BytesIO()
    if not isinstance(change, bytes):
        pq.write_table(change(pq.read_table(corpus / name)), sink)
    data = change if isinstance(change, bytes) else sink.getvalue()
    (corpus / name).unlink()
    manifest = json.loads((corpus / "manifest.json").read_bytes())
    manifest["shards_sha256"] = hashlib.sha256(data).hexdigest()
    (corpus / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    (corpus / f"shards-{manifest['shards_sha256'][:16]}.parquet").write_bytes(data)


def with_path(path: str) -> Callable[[pa.Table], pa.Table]:
    """Give the first shard another path."""

    def change(table: pa.Table) -> pa.Table:
        """The list with it."""
        paths = [path, *table.column("path").to_pylist()[1:]]
        return table.set_column(0, table.schema.field(0), pa.array(paths))

    return change


@pytest.mark.parametrize(
    "damage",
    [
        with_path("a\0b"),
        with_path("../../outside.parquet"),
        with_path("/etc/passwd"),
        lambda table: table.select(["path"]),
        b"PAR1 garbage PAR1",
        b"",
    ],
    ids=["nul", "outside", "absolute", "other-columns", "garbage", "empty"],
)
def test_damaged_list_of_shards_hides_nothing_else(
    root: Path, damage: Callable[[pa.Table], pa.Table] | bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    forge(root / "corpora/small", damage)
    assert_named_and_the_rest_shown(root, "small", capsys)
    found = examine(LocalLocation(root / "corpora/small"))
    assert found.shards is None
    assert any(fault.path.startswith("shards") for fault in found.faults)


@pytest.mark.parametrize("data", [DEEP, b'{"schema_version": 3, "spec": ' + DEEP + b"}"], ids=["list", "spec"])
def test_manifest_with_deeply_nested_json_hides_nothing_else(
    root: Path, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "corpora/small/manifest.json").write_bytes(data)
    assert_named_and_the_rest_shown(root, "small", capsys)
    assert run(["corpus", "verify", "small", "--workspace", str(root)]) == 1
    assert "manifest.json is damaged" in capsys.readouterr().err


def assert_named_and_the_rest_shown(root: Path, damaged: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = status_of(str(root))
    assert {corpus.name: corpus.state for corpus in status.corpora} == {"other": "complete", damaged: "damaged"}
    assert any(fault.what == f"corpus {damaged}" for fault in status.broken)
    assert "other" not in {fault.what.removeprefix("corpus ") for fault in status.broken}
    catalog = refresh_catalog(Workspace.open(str(root)))
    with duckdb.connect(str(catalog), read_only=True) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM corpus_other").fetchall() == [(True,)]
        assert connection.execute("SELECT DISTINCT corpus FROM shards").fetchall() == [("other",)]


def test_other_files_with_deeply_nested_json_hide_nothing_else(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("runs/deep/run.json", "tokenizers/small-digit/card.json", ".prefect/served.json"):
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(DEEP)
    status = status_of(str(root))
    assert [corpus.state for corpus in status.corpora] == ["complete", "complete"]
    assert {fault.what for fault in status.broken} >= {"run deep", "tokenizer small-digit"}
    assert run(["sql", "SELECT count(*) AS n FROM runs", "--workspace", str(root), "--format", "csv"]) == 0
    assert '"n"\n0\n' in capsys.readouterr().out


@pytest.mark.parametrize("data", [DEEP, b"[]", b'{"fingerprint": "print"}', b'{"fingerprint": "print", "shards": [1]}'])
def test_damaged_progress_note_repeats_its_task(tmp_path: Path, data: bytes) -> None:
    notes = Notes(LocalLocation(tmp_path), "print")
    notes.write(0, [])
    (tmp_path / ".progress" / "000000.json").write_bytes(data)
    assert notes.read(0) is None
