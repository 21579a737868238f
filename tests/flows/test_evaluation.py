"""Paths of evaluations, and when they are computed again."""

import json
import re
import shutil
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from flows.common.parameters import EvaluateRequest
from flows.evaluate_encoder import _up_to_date, evaluate_encoder, paths_of
from flows.reports.evaluation.section import SECTION
from model.config.evaluation import Decoding, EvaluationSpec
from model.runs.checkpoint_index import CheckpointIndex
from model.runs.checkpoints import Checkpoints, file_of, hash_of_bytes
from model.runs.pretrained import shipped_runs
from model.runs.run_config import load_run, run_tokenizer
from model.training.trainer import train
from pipelines.generation.build import build_tokens
from pipelines.spec.corpus import CorpusSpec
from storage.errors import UserError
from storage.places.disk import LocalLocation
from storage.sql.query import open_catalog
from storage.workspace import Workspace
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


@pytest.mark.parametrize("damaged", ["{", "[]", "[" * 100_000])
def test_damaged_report_is_no_result(tmp_path: Path, damaged: str) -> None:
    folder = LocalLocation(tmp_path)
    (folder / SECTION).write(b"{}")
    (folder / "report.json").write(b'{"step": 3}')
    assert _up_to_date(folder, {"step": 3}) == {"step": 3}
    (folder / "report.json").write(damaged.encode())
    assert _up_to_date(folder, {"step": 3}) is None


@pytest.mark.usefixtures("recorded")
def test_first_wrong_step_of_every_wrong_answer_is_found_with_sql(tmp_path: Path) -> None:
    workspace = Workspace.create(str(tmp_path / "w"))
    shipped, run = shipped_runs()["arithmetic"], workspace.run("wrong")
    folder = Path(str(run))
    shutil.copytree(str(shipped), folder, ignore=shutil.ignore_patterns("report*"))
    config = load_run(shipped).model_copy(update={"name": "wrong"})
    (run / "run.json").write(config.model_dump_json().encode())
    entry = Checkpoints(shipped / "checkpoints").choose("best")
    tensors = Checkpoints(shipped / "checkpoints").load(entry, load_run(shipped))
    # It says 8 for 3, and marks a little more than it should.
    for name in ("model.digit_head.weight", "model.digit_head.bias"):
        tensors[name][3] = tensors[name][8] - 0.01
    tensors["model.mark_head.bias"] += 14.5
    data = file_of(tensors, entry.step, config)
    (run / "checkpoints" / entry.file).write(data)
    index = CheckpointIndex(entries=(entry.model_copy(update={"sha256": hash_of_bytes(data)}),))
    (run / "checkpoints" / "index.json").write(index.model_dump_json().encode())
    shares = {name: config.corpus_spec[name] for name in ("validation", "test")}
    shape = {"terms": 4, "digits": 2, "depth": 2, "operators": ("+", "-", "*")}
    spec = CorpusSpec(name="own", family="expression", rows=20_000, rows_per_shard=20_000, **shape, **shares)
    corpus = build_corpus_plainly(spec, workspace.corpus("own"))
    build_tokens(corpus, run_tokenizer(run, config), workspace.tokens("own", config.tokenizer), in_flight=0)
    request = EvaluateRequest(workspace=str(workspace.root), name="wrong", corpus="own")
    assert 0 < evaluate_encoder.fn(request)["exact_match"] < 1
    manual = (Path(__file__).parents[2] / "model" / "README.md").read_text()
    (query,) = re.findall(r"```sql\n(SELECT problem, state, span, result FROM predictions .*?)```", manual, re.DOTALL)
    with open_catalog(workspace) as connection:
        found = connection.sql(query).fetchall()
        wrong = connection.sql("SELECT problem FROM predictions WHERE NOT correct").fetchall()
    # No wrong answer is left without a first wrong step: this encoder marks too much, never nothing.
    assert sorted(problem for problem, *_ in found) == sorted(problem for (problem,) in wrong)
    assert any(result is None for *_, result in found)
    for _, state, span, result in found:
        if result is not None:
            # At one of the places where the span can be, its result changes the value of the state.
            places = [match.start() for match in re.finditer(f"(?={re.escape(span)})", state)]
            assert any(eval(state[:at] + result + state[at + len(span) :]) != eval(state) for at in places)
    page = next(folder.rglob("index.html"))
    assert page.read_text().count("<h3>Some rewritings</h3>") == 1
