import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.runs.metrics import SCHEMA, MetricsWriter
from pipelines.spec.corpus import CorpusSpec, MixturePart
from storage.datasets.corpus import Corpus
from storage.datasets.manifest import SPLITS, ShardRecord, commit
from storage.errors import UserError
from storage.sql.catalog import refresh_catalog
from storage.sql.query import open_catalog, select
from storage.sql.views import VIEWS
from storage.workspace import Workspace
from tests.builders import Built, build_corpus_plainly

_ROWS = 10


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A corpus of two families with different columns: 3 splits × 2 families × 2 widths, a file of 10 rows each."""
    return mixed_corpus(tmp_path_factory.mktemp("families") / "workspace")


@pytest.fixture(scope="module")
def opened_catalog(families: Workspace) -> Iterator[duckdb.DuckDBPyConnection]:
    """The catalog of that workspace, opened once."""
    with open_catalog(families) as connection:
        yield connection


def mixed_corpus(root: Path, name: str = "mixed") -> Workspace:
    workspace = Workspace.create(str(root))
    shards = [
        write_shard(workspace, name, split, family, width, columns)
        for split in SPLITS
        for family, columns in COLUMNS.items()
        for width in (8, 16)
    ]
    commit(workspace.corpus(name), kind="corpus", name=name, generator_version=1, spec={}, shards=shards)
    return workspace


COLUMNS: dict[str, dict[str, list[Any]]] = {
    "grid": {"unheard_of": [1.5], "b": [2], "a": [1], "value": [3], "operators": ["+"], "negative": [False]},
    "expression": {"depth": [2], "terms": [3], "value": [-4], "operators": ["+-"], "negative": [True]},
}


def write_shard(
    workspace: Workspace, corpus: str, split: str, family: str, width: int, columns: dict[str, list[Any]]
) -> ShardRecord:
    path = f"data/split={split}/family={family}/width={width}/{family}-000000.parquet"
    place = workspace.corpus(corpus) / path
    table = {name: values * _ROWS for name, values in columns.items()}
    table |= {"problem": ["…"] * _ROWS, "answer": ["…"] * _ROWS, "id": list(range(_ROWS))}
    with place.staged() as file:
        pq.write_table(pa.table(table), file)
    digest = hashlib.sha256(place.read()).hexdigest()
    return ShardRecord(
        path=path, split=split, stratum=family, rows=_ROWS, bytes=place.size(), sha256=digest, content=digest
    )


def files_read(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    """Number of Parquet files that a query opens, from DuckDB's profile."""
    plan = connection.execute(f"EXPLAIN ANALYZE {query}").fetchall()[0][1]
    return sum(map(int, re.findall(r"Total Files Read: (\d+)", plan)))


def test_a_corpus_is_a_view_with_its_split(small: Built) -> None:
    with open_catalog(small.workspace) as connection:
        rows = select(connection, "SELECT split, count(*), sum(sum - a - b) FROM corpus_small GROUP BY 1").fetchall()
    assert {split: count for split, count, _ in rows} == small.corpus.manifest.split_rows
    assert all(difference == 0 for _, _, difference in rows)


def test_the_catalog_opens_in_a_plain_client(small: Built) -> None:
    with duckdb.connect(str(refresh_catalog(small.workspace)), read_only=True) as connection:
        assert connection.sql("SELECT sum(rows) FROM shards WHERE corpus = 'small'").fetchall() == [(10_000,)]


def test_shards_name_the_family_and_width_that_their_paths_do(opened_catalog: duckdb.DuckDBPyConnection) -> None:
    rows = select(opened_catalog, "SELECT path, family, width FROM shards").fetchall()
    assert rows
    assert all(f"/family={family}/width={width}/" in path for path, family, width in rows)


def test_empty_views_return_no_rows(small: Built) -> None:
    with open_catalog(small.workspace) as connection:
        for view in VIEWS.keys() - {"shards"}:
            assert select(connection, f"SELECT * FROM {view}").fetchall() == []


def test_every_view_and_column_has_a_comment(small: Built) -> None:
    with duckdb.connect(str(refresh_catalog(small.workspace)), read_only=True) as connection:
        views = dict(connection.sql("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall())
        columns = connection.sql(
            "SELECT table_name, column_name FROM duckdb_columns() WHERE NOT internal AND comment IS NULL"
        ).fetchall()
    assert views.keys() == {"corpus_small", *VIEWS}
    assert all(views.values())
    assert columns == []


def test_a_damaged_table_is_left_out_and_other_runs_stay_in_sql(
    small: Built, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = Workspace.create(str(tmp_path))
    for name in ("whole", "damaged", "last"):
        folder = Path(str(workspace.run(name))) / "probes"
        folder.mkdir(parents=True)
        (folder.parent / "run.json").write_text(
            json.dumps({"name": name, "corpus": "c", "tokenizer": "t", "training": {}})
        )
        pq.write_table(pa.table({"kappa": [0.5]}), folder / "probes.best.parquet")
    (Path(str(workspace.run("damaged"))) / "probes" / "probes.best.parquet").write_bytes(b"nothing")
    with open_catalog(workspace) as connection:
        assert select(connection, "SELECT run, kappa FROM probes ORDER BY run").fetchall() == [
            ("last", 0.5),
            ("whole", 0.5),
        ]
        assert len(select(connection, "SELECT run FROM runs").fetchall()) == 3
    assert [record.message.partition(": ")[0] for record in caplog.records] == [
        "run damaged is left out of view probes in SQL"
    ]


def test_every_column_of_metrics_has_a_comment() -> None:
    assert all(VIEWS["metrics"].column_comment(name) for name in SCHEMA.names)


def test_columns_have_one_order(small: Built, opened_catalog: duckdb.DuckDBPyConnection) -> None:
    with open_catalog(small.workspace) as connection:
        relation = select(connection, "FROM corpus_small")
        assert relation.columns[:8] == ["id", "split", "family", "width", "problem", "answer", "a", "b"]
    assert select(opened_catalog, "FROM corpus_mixed").columns == [
        *["id", "split", "family", "width", "problem", "answer", "a", "b", "value"],
        *["operators", "terms", "depth", "negative", "unheard_of"],
    ]


def test_families_of_other_columns_share_one_view(opened_catalog: duckdb.DuckDBPyConnection) -> None:
    rows = select(
        opened_catalog,
        "SELECT family, width, count(*), count(a), count(depth) FROM corpus_mixed GROUP BY ALL ORDER BY ALL",
    ).fetchall()
    assert rows == [
        ("expression", 8, 30, 0, 30),
        ("expression", 16, 30, 0, 30),
        ("grid", 8, 30, 30, 0),
        ("grid", 16, 30, 30, 0),
    ]


@pytest.mark.parametrize(
    ("condition", "files"),
    [
        ("true", 12),
        ("split = 'train'", 4),
        ("split IN ('validation', 'test')", 8),
        ("family = 'grid'", 6),
        ("width = 16", 6),
        ("width < 16 AND family = 'expression'", 3),
        ("split = 'test' AND family = 'grid' AND width = 8", 1),
        ("split = 'exam'", 0),
        ("negative", 12),
        ("operators = '+'", 12),
    ],
)
def test_filters_on_split_family_and_width_skip_files_and_others_are_evaluated(
    opened_catalog: duckdb.DuckDBPyConnection, condition: str, files: int
) -> None:
    assert files_read(opened_catalog, f"SELECT sum(id) FROM corpus_mixed WHERE {condition}") == files


def test_a_join_and_a_count_skip_files_too(opened_catalog: duckdb.DuckDBPyConnection) -> None:
    query = "SELECT count(*) FROM corpus_mixed AS one JOIN corpus_mixed AS other USING (id) WHERE {0} AND {1}"
    where = query.format("one.split = 'test' AND one.width = 8", "other.split = 'train' AND other.family = 'grid'")
    assert files_read(opened_catalog, where) == 2 + 2


def test_folders_above_the_workspace_are_no_columns(tmp_path: Path) -> None:
    workspace = mixed_corpus(tmp_path / "owner=me" / "workspace")
    with open_catalog(workspace) as connection:
        relation = select(connection, "SELECT * FROM corpus_mixed WHERE width = 8")
        assert "owner" not in relation.columns
        assert relation.aggregate("count(*)").fetchall() == [(60,)]


def test_the_path_of_a_workspace_can_be_a_link(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(mixed_corpus(tmp_path / "workspace").root.path)
    with open_catalog(Workspace.open(str(link))) as connection:
        assert select(connection, "SELECT count(*) FROM corpus_mixed").fetchall() == [(120,)]


def test_views_combine_runs_of_all_versions(own_small: Built) -> None:
    for run, notes in {"old": {}, "new": {"carries": [2], "terms": [2], "shiny": [1]}}.items():
        folder = own_small.workspace.run(run)
        config = {"name": run, "corpus": "small", "tokenizer": "digit", "training": {"steps": 7}}
        (folder / "run.json").write(json.dumps(config).encode())
        writer = MetricsWriter(folder / "metrics")
        for step in (1, 2):
            writer.add({name: run if name == "run" else step for name in SCHEMA.names})
            writer.flush()
        answers = {"id": [1], "problem": ["1+1"], "answer": ["2"], "prediction": ["3"], "correct": [False], **notes}
        with (folder / "predictions" / "test.parquet").staged() as path:
            pq.write_table(pa.table({"split": ["test"], **answers}), path)
    with open_catalog(own_small.workspace) as connection:
        assert select(connection, "SELECT run, training->>'steps' FROM runs ORDER BY 1").fetchall() == [
            ("new", "7"),
            ("old", "7"),
        ]
        assert select(connection, "SELECT run, sum(loss) FROM metrics GROUP BY 1 ORDER BY 1").fetchall() == [
            ("new", 3.0),
            ("old", 3.0),
        ]
        predictions = select(connection, "SELECT terms, carries, shiny, decoding FROM predictions ORDER BY run")
        assert predictions.fetchall() == [(2, 2, 1, None), (None, None, None, None)]


def test_metrics_of_an_earlier_version_are_read_with_newer_ones_of_the_same_run(own_small: Built) -> None:
    later = ("problems_per_second", "share_of_peak")
    folder = own_small.workspace.run("resumed")
    (folder / "run.json").write(
        json.dumps({"name": "resumed", "corpus": "small", "tokenizer": "digit", "training": {}}).encode()
    )
    rows = [{name: "resumed" if name == "run" else step for name in SCHEMA.names} for step in (1, 2)]
    earlier = pa.schema([field for field in SCHEMA if field.name not in later])
    with (folder / "metrics" / "part-000000001-000000001.parquet").staged() as path:
        pq.write_table(pa.Table.from_pylist(rows[:1], schema=earlier), path)
    query = f"SELECT step, {', '.join(later)} FROM metrics ORDER BY step"
    with open_catalog(own_small.workspace) as connection:
        assert select(connection, query).fetchall() == [(1, None, None)]
    writer = MetricsWriter(folder / "metrics")
    writer.add(rows[1])
    writer.flush()
    with open_catalog(own_small.workspace) as connection:
        assert select(connection, query).fetchall() == [(1, None, None), (2, 2.0, 2.0)]


def test_a_damaged_corpus_is_left_out_and_the_others_stay(tmp_path: Path) -> None:
    workspace = mixed_corpus(tmp_path / "workspace")
    mixed_corpus(tmp_path / "workspace", "broken")
    for shard in workspace.corpus("broken").path.rglob("grid-*.parquet"):
        shard.write_bytes(b"no parquet")
    with open_catalog(workspace) as connection:
        assert select(connection, "SELECT count(*) FROM corpus_mixed").fetchall() == [(120,)]
        assert select(connection, "SELECT DISTINCT corpus FROM shards ORDER BY 1").fetchall() == [
            ("broken",),
            ("mixed",),
        ]
        with pytest.raises(UserError, match="corpus_broken"):
            select(connection, "FROM corpus_broken")


def test_a_corpus_opened_by_name_streams_batches_and_relations(small: Built) -> None:
    corpus = Corpus.open("small", str(small.workspace.root))
    rows = small.corpus.manifest.split_rows["test"]
    assert sum(batch.num_rows for batch in corpus.batches("test")) == rows
    assert corpus.relation("test").aggregate("count(*)").fetchall() == [(rows,)]


@pytest.mark.parametrize("terms", [(4, 2), (2, 4)])
def test_parts_of_one_family_with_different_operands_are_one_table(tmp_path: Path, terms: tuple[int, int]) -> None:
    parts = (
        MixturePart(terms=terms[0], high=9, operators=("+",)),
        MixturePart(terms=terms[1], high=9, operators=("*",)),
        MixturePart(family="expression", terms=3, operators=("+",)),
    )
    spec = CorpusSpec(name="parts", rows=300, rows_per_shard=1_000, mixture=parts)
    workspace = Workspace.create(str(tmp_path))
    build_corpus_plainly(spec, workspace.corpus("parts"))
    refresh_catalog(workspace)
    wrong = "SELECT count(*) FROM {} WHERE family = 'grid' AND answer::BIGINT IS DISTINCT FROM "
    value = "CASE WHEN operators LIKE '%*%' THEN value ELSE sum END"
    operands = "SELECT operators, count(a), count(b), count(c), count(d) FROM {} GROUP BY ALL HAVING count(a) > 0"
    with open_catalog(workspace) as connection:
        assert select(connection, (wrong + value).format("corpus_parts")).fetchall() == [(0,)]
        found = {row[0]: row[1:] for row in select(connection, operands.format("corpus_parts")).fetchall()}
    plus, times = "+" * (terms[0] - 1), "*" * (terms[1] - 1)
    for operators, count in ((plus, terms[0]), (times, terms[1])):
        assert found[operators] == (100,) * count + (0,) * (4 - count)
    corpus = Corpus.open("parts", str(tmp_path))
    rows = [row for batch in corpus.batches("train") for row in batch.to_pylist()]
    assert {row["family"] for row in rows} == {"grid", "expression"}
    assert all(str(eval(row["problem"])) == row["answer"] for row in rows)


def test_tensors_come_in_the_order_in_which_training_reads(small: Built) -> None:
    from itertools import islice

    from model.training.batches import Batches
    from model.training.rows import tensors

    corpus = Corpus.open("small", str(small.workspace.root))
    batches = Batches.of(small.tokens, "train", 128, 3)
    read = list(islice(tensors(corpus, "small-digit", batch_size=128, seed=3), 5))
    assert len(read) == 5
    for ids, (_, rows) in zip(read, islice(batches.reader.batches(0), 5), strict=True):
        assert ids.shape == (128, small.layout.width)
        assert (ids.numpy() == rows).all()


def test_tensors_warn_of_rows_in_no_batch(longer: Built) -> None:
    from model.training.rows import tensors

    corpus, rows = Corpus.open("longer", str(longer.workspace.root)), dict[int, int]()
    for shard in longer.tokens.of_split("train"):
        width = longer.tokens.manifest.spec["layouts"][shard.stratum]["problem"]
        rows[width] = rows.get(width, 0) + shard.rows
    with pytest.warns(UserWarning, match="rows of train are left out"):
        tensors(corpus, "longer-digit", batch_size=(min(rows.values()) // 64 + 1) * 64)


def test_an_unknown_corpus_is_a_one_line_error(small: Built) -> None:
    with pytest.raises(UserError, match="corpus 'other' does not exist"):
        Corpus.open("other", str(small.workspace.root))
