"""Invalid predicates, and those that depend on the time, are rejected before a row is generated."""

import resource
import shutil
from pathlib import Path

import pytest

from flows.common.parameters import TrainRequest
from flows.common.presets import PRESETS
from flows.end_to_end import check_request
from flows.train_encoder import train_encoder
from pipelines.generation.build import predicate_columns_of
from pipelines.spec.corpus import CorpusSpec
from pipelines.spec.presets import CORPORA
from storage.errors import UserError
from storage.reading.subset import check_predicate, predicate_columns
from tests.builders import Built

QUICK = PRESETS["quick"]


@pytest.mark.parametrize(
    "where", ["nosuch > 1", "a >", "a", "a = (SELECT 1)", "random() < 0.5", "a > CAST('abc' AS INT)", "'x'::INT = a"]
)
@pytest.mark.parametrize("place", ["where", "curriculum", "oversample"])
def test_invalid_predicate_is_rejected_before_any_row(where: str, place: str, tmp_path: Path) -> None:
    change = {place: [{"steps": 1, "where": where}] if place == "curriculum" else where}
    training = type(QUICK.training).model_validate({**QUICK.training.model_dump(), **change})
    with pytest.raises(UserError, match="where "):
        check_request(QUICK.model_copy(update={"workspace": str(tmp_path), "training": training}))
    assert not (tmp_path / "corpora").exists()


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize(
    "values",
    [{"where": "nosuch > 1"}, {"curriculum": [{"steps": 1, "where": "nosuch > 1"}]}, {"oversample": "nosuch > 1"}],
    ids=["where", "stage", "oversample"],
)
def test_training_that_makes_its_corpus_rejects_a_predicate_before_any_row(
    values: dict[str, object], tmp_path: Path
) -> None:
    request = TrainRequest.model_validate(
        {"workspace": str(tmp_path), "corpus": "quick", "make_missing": True, **values}
    )
    with pytest.raises(UserError, match="where 'nosuch > 1' is not a valid condition"):
        train_encoder.fn(request)
    assert not (tmp_path / "corpora").exists()


@pytest.mark.usefixtures("recorded")
def test_training_that_makes_tokens_rejects_a_predicate_before_it_encodes(small: Built, tmp_path: Path) -> None:
    shutil.copytree(small.corpus.location.path, tmp_path / "corpora/small", ignore=shutil.ignore_patterns("tokens"))
    request = TrainRequest(workspace=str(tmp_path), corpus="small", make_missing=True, where="nosuch > 1")
    with pytest.raises(UserError, match="where 'nosuch > 1' is not a valid condition"):
        train_encoder.fn(request)
    assert not (tmp_path / "tokenizers").exists()


@pytest.mark.parametrize("where", ["list_sum(range(2000000000)) > 0", "length(repeat('x', 4000000000)) > a"])
def test_predicate_for_gigabytes_is_rejected_before_memory_runs_out(where: str) -> None:
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(UserError) as failure:
        check_predicate(where, {"a": "BIGINT"})
    assert "\n" not in str(failure.value)
    assert resource.getrlimit(resource.RLIMIT_DATA) == limits


def test_columns_are_known_before_the_generation(small: Built) -> None:
    known, lying = predicate_columns_of(small.spec), predicate_columns(small.tokens, small.tokens.shards)
    # Of the row of tokens alone the width follows from the rows.
    assert {name: known[name] for name in lying} == lying
    for spec in CORPORA.values():
        assert "split" in predicate_columns_of(CorpusSpec.model_validate(spec.model_dump()))


@pytest.mark.parametrize(
    "where",
    [
        "ago(INTERVAL 1 DAY) > TIMESTAMP '2020-01-01'",
        "epoch(current_localtimestamp()) > a",
        "epoch('now'::timestamp) > a",
        "epoch(try_cast('today' AS date)) > a",
        "epoch(age(make_timestamp(a))) > 0",
        "epoch(now()) > a",
        "epoch(current_timestamp) > a",
        "epoch(today()) > a",
        "random() < 0.5",
        "length(uuid()::VARCHAR) > a",
        "getvariable('x') = a",
        "Random() < a",
    ],
)
def test_predicate_that_depends_on_time_or_chance_is_rejected(where: str) -> None:
    with pytest.raises(UserError, match="can change between calls"):
        check_predicate(where, {"a": "BIGINT", "family": "VARCHAR"})


@pytest.mark.parametrize(
    "where",
    ["a + 1 > 2 AND family = 'grid'", "abs(a - 3) < 2", "greatest(a, 2) BETWEEN 2 AND 4", "ifnull(a, 0) % 10 = 3",
     "list_contains([1, 2], a)", "a::VARCHAR LIKE '9%'", "list_sum([a, 1]) > 3",
     "CASE WHEN a > 1 THEN true ELSE false END"],
)  # fmt: skip
def test_predicate_that_depends_only_on_the_row_is_accepted(where: str) -> None:
    check_predicate(where, {"a": "BIGINT", "family": "VARCHAR"})
