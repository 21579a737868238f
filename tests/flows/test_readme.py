"""The README's ten questions in SQL: they are asked as they stand there, and what can be known is what they show."""

import re
from functools import partial
from itertools import permutations
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from model.config.evaluation import EvaluationSpec
from model.evaluation.evaluate import evaluate
from model.evaluation.predictor import TrainedEncoder
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.generate import canonical_hashes
from pipelines.spec.presets import CORPORA
from pipelines.split.canonical import Canonical
from pipelines.split.parse import text_hashes
from pipelines.split.reserved import splits_of
from storage.sql.query import open_catalog, select
from storage.workspace import Workspace
from tests.builders import TINY_TRAINING, build_corpus_plainly, build_small

Table = list[list[str]]


def questions() -> dict[str, Table]:
    """Each query with the table below it: its header, then its rows."""
    text = (Path(__file__).parents[2] / "README.md").read_text()
    session = text.split("\n## Ask it with SQL\n")[1].split("\n## ")[0].split("```console\n")[1].split("```")[0]
    found = {}
    for query, shown in re.findall(r'^\$ numerate sql "(.*)"\n((?: .*\n)+)', session, re.MULTILINE):
        header, _, *rows = [re.split(r"\s{2,}", line.strip()) for line in shown.splitlines()]
        found[query] = [header, *rows]
    return found


def answered(connection: duckdb.DuckDBPyConnection, query: str) -> Table:
    relation = select(connection, query)
    return [list(relation.columns), *([str(value) for value in row] for row in relation.fetchall())]


def test_every_question_is_understood_and_has_the_columns_shown(tmp_path: Path) -> None:
    spec = CORPORA["notebook"].model_copy(update={"rows": 9_000, "validation": 0.1, "test": 0.1})
    built = build_small(tmp_path, spec)
    build_corpus_plainly(CORPORA["arithmetic"].model_copy(update={"rows": 5_000}), built.workspace.corpus("arithmetic"))
    train(*prepare(built.workspace, "notebook", "notebook", "notebook-digit", TINY_TRAINING))
    run = built.workspace.run("notebook")
    hashes = partial(canonical_hashes, spec)
    evaluate(
        TrainedEncoder.open(run),
        built.corpus,
        built.tokens,
        EvaluationSpec(),
        run / "predictions" / "notebook.test.parquet",
        hashes,
        suite="test",
    )
    assert len(questions()) == 10
    with open_catalog(built.workspace) as connection:
        for query, (header, *_) in questions().items():
            columns, *rows = answered(connection, query)
            assert columns == header, query
            # These ask for one class of problems, or for every 500th step.
            assert rows or "[1, 22, 33, 44]" in query or "step % 500" in query, query


def test_the_sums_that_are_reached_most_are_those_shown() -> None:
    ways = np.ones(1, np.int64)
    for _ in range(4):
        ways = np.convolve(ways, np.ones(100, np.int64))
    expected = sorted(enumerate(ways.tolist()), key=lambda pair: (-pair[1], pair[0]))[:3]
    (rows,) = (
        rows for query, (_, *rows) in questions().items() if query.startswith("SELECT sum, count(*) AS problems")
    )
    assert rows == [[str(total), str(count)] for total, count in expected]


def test_all_orders_of_the_problem_shown_are_in_its_split() -> None:
    spec = CORPORA["notebook"]
    texts = ["+".join(order) for order in permutations(("1", "22", "33", "44"))]
    splits = splits_of(
        text_hashes(pa.array(texts), Canonical(spec.split_key)), spec.split_key, spec.validation, spec.test
    )
    assert splits.tolist() == [0] * 24
    (rows,) = (rows for query, (_, *rows) in questions().items() if "[1, 22, 33, 44]" in query)
    assert rows == [["train", "24", min(texts)]]


@pytest.mark.slow
def test_what_the_corpus_of_two_million_rows_says_is_what_is_shown(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"))
    build_corpus_plainly(CORPORA["arithmetic"].model_copy(update={"rows": 2_000_000}), workspace.corpus("arithmetic"))
    compared = 0
    with open_catalog(workspace) as connection:
        for query, table in questions().items():
            if "FROM shards" in query:
                table = [row for row in table if row[0] in ("corpus", "arithmetic")]
            elif "FROM corpus_arithmetic" not in query:
                continue
            assert answered(connection, query) == table
            compared += 1
    assert compared == 3
