import duckdb
import pytest

from storage.catalog import refresh_catalog
from storage.corpus import Corpus
from storage.errors import UserError
from storage.query import open_catalog, select
from storage.reader import ElasticReader
from tests.builders import Built


def test_a_corpus_is_a_view_with_its_split(small: Built) -> None:
    with open_catalog(small.workspace) as connection:
        rows = select(connection, "SELECT split, count(*), sum(sum - a - b) FROM corpus_small GROUP BY 1").fetchall()
    assert {split: count for split, count, _ in rows} == small.corpus.manifest.split_rows
    assert all(difference == 0 for _, _, difference in rows)


def test_the_catalog_opens_in_a_plain_client(small: Built) -> None:
    with duckdb.connect(str(refresh_catalog(small.workspace)), read_only=True) as connection:
        assert connection.sql("SELECT sum(rows) FROM shards WHERE corpus = 'small'").fetchall() == [(10_000,)]


def test_empty_views_answer_with_no_rows(small: Built) -> None:
    with open_catalog(small.workspace) as connection:
        for view in ("runs", "metrics", "predictions"):
            assert select(connection, f"SELECT * FROM {view}").fetchall() == []


@pytest.mark.parametrize(
    "query",
    [
        "COPY (SELECT 1) TO '{workspace}/x.csv'",
        "ATTACH '{workspace}/x.db' AS x",
        "INSTALL httpfs",
        "SET threads = 1",
        "PRAGMA version",
        "CREATE TABLE x (i INT)",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELEC 1",
        "SELECT nothing FROM corpus_small",
        "",
    ],
)
def test_anything_but_one_select_inside_the_workspace_is_refused_in_one_line(small: Built, query: str) -> None:
    with open_catalog(small.workspace) as connection, pytest.raises(UserError) as failure:
        select(connection, query.replace("{workspace}", str(small.workspace.root))).fetchall()
    assert "\n" not in str(failure.value)


def test_a_corpus_opened_by_name_streams_batches_and_relations(small: Built) -> None:
    corpus = Corpus.open("small", str(small.workspace.root))
    rows = small.corpus.manifest.split_rows["test"]
    assert sum(batch.num_rows for batch in corpus.batches("test")) == rows
    assert corpus.relation("test").aggregate("count(*)").fetchall() == [(rows,)]


def test_tensors_come_in_the_order_in_which_training_reads(small: Built) -> None:
    from itertools import islice

    from model.rows import tensors
    from model.training import plan_of

    corpus = Corpus.open("small", str(small.workspace.root))
    plan = plan_of(small.tokens, "train", 128, 3)
    reader = ElasticReader(tuple(small.tokens.paths("train")), plan, small.layout.width)
    read = islice(tensors(corpus, "small-digit", batch_size=128, seed=3), 5)
    for ids, rows in zip(read, reader.batches(0), strict=False):
        assert ids.shape == (128, small.layout.width)
        assert (ids.numpy() == rows).all()


def test_an_unknown_corpus_is_one_clear_line(small: Built) -> None:
    with pytest.raises(UserError, match="corpus 'other' is not there"):
        Corpus.open("other", str(small.workspace.root))
