"""Where evaluations lie."""

from itertools import combinations
from pathlib import Path
from typing import Any

from flows.evaluation import places_of
from model.config import Decoding, EvaluationSpec
from model.run import load_run
from model.shipped import shipped_runs
from storage.location import Location

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


def test_only_the_test_split_in_one_pass_is_the_runs_own_report_and_no_other_is_overwritten(tmp_path: Path) -> None:
    run = Location(tmp_path)
    places = [places_of(run, CONFIG, label, EvaluationSpec(**spec)) for label, spec in ASKED]
    assert places[0] == (run, run / "predictions" / f"{CONFIG.corpus}.test.parquet")
    for one, other in combinations(places, 2):
        assert one[0] != other[0]
        assert one[1] != other[1]
