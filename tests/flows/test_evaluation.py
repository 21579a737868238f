"""Paths of evaluations, and when they are computed again."""

import json
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from flows.common.parameters import EvaluateRequest
from flows.evaluate_encoder import evaluate_encoder, paths_of
from model.config.evaluation import Decoding, EvaluationSpec
from model.runs.pretrained import shipped_runs
from model.runs.run_config import load_run
from model.training.trainer import train
from pipelines.generation.build import build_tokens
from storage.errors import UserError
from storage.places.disk import LocalLocation
from storage.sql.query import open_catalog
from tests.builders import SMALL, TINY_TRAINING, build_corpus_plainly, build_small
from tests.model.runs import job_of

CONFIG = load_run(shipped_runs()["addition"])
ASKED: list[tuple[str, dict[str, Any]]] = [
    (CONFIG.corpus, {}),
    (CONFIG.corpus, {"checkpoint": "last"}),
    (CONFIG.corpus, {"split": "train"}),
    (CONFIG.corpus, {"decoding": Decoding(passes=4)}),
    (CONFIG.corpus, {"decoding": Decoding(passes=4, order="units-first")}),
    (CONFIG.corpus, {"decoding": Decoding(loops=50)}),
    (CONFIG.corpus, {"missing": "operand"}),
    ("suite.grid", {}),
    ("suite.grid-40", {}),
]


def test_each_kind_of_evaluation_has_its_own_report(tmp_path: Path) -> None:
    run = LocalLocation(tmp_path)
    places = [paths_of(run, CONFIG, label, EvaluationSpec(**spec)) for label, spec in ASKED]
    assert places[0] == (run, run / "predictions" / f"{CONFIG.corpus}.test.parquet")
    for one, other in combinations(places, 2):
        assert one[0] != other[0]
        assert one[1] != other[1]


@pytest.mark.usefixtures("recorded")
def test_sql_distinguishes_decodings_and_a_changed_corpus_is_evaluated_again(tmp_path: Path) -> None:
    built = build_small(tmp_path)
    train(job_of(built, (built.workspace.root / "runs").path, TINY_TRAINING))
    request = EvaluateRequest(workspace=str(built.workspace.root), name="run")

    def asked(**changes: Any) -> dict[str, Any]:
        if changes:
            place = built.workspace.corpus("small")
            shutil.rmtree(place.path)
            corpus = build_corpus_plainly(SMALL.model_copy(update=changes), place)
            build_tokens(corpus, built.tokenizer, built.workspace.tokens("small", "small-digit"), in_flight=0)
        return evaluate_encoder.fn(request)

    first, report = asked(), built.workspace.run("run") / "report.json"
    # Remarks describe the problems, and an older version words them differently.
    report.write(json.dumps({**first, "remarks": ["in other words"]}).encode())
    before = report.path.stat().st_mtime_ns
    assert asked()["weights"] == first["weights"]
    assert report.path.stat().st_mtime_ns == before
    decoding = Decoding(passes=3, order="units-first")
    evaluate_encoder.fn(request.model_copy(update={"decoding": decoding}))
    with open_catalog(built.workspace) as connection:
        rows = connection.sql("SELECT decoding, count(*) FROM predictions GROUP BY ALL ORDER BY ALL").fetchall()
    assert rows == [("", first["problems"]), ('{"passes": 3, "order": "units-first"}', first["problems"])]
    other = asked(seed=7)
    assert other["corpus_identity"] != first["corpus_identity"]
    assert report.path.stat().st_mtime_ns > before
    with pytest.raises(UserError, match="has split_key other"):
        asked(split_key="other")
