"""A probing is cached, recomputes only outdated parts, and rejects impossible requests with one line."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from model.config.probing import ProbingSpec
from model.evaluation.predictor import TrainedEncoder
from model.probing.over_training import series, series_is_cached
from model.probing.probe_run import probe
from model.probing.study import Study
from model.probing.tables import key_of
from model.probing.token_dataset import Batch
from model.runs.checkpoints import Checkpoints
from model.tokenizer import TokenLayout
from model.training.job import TrainingJob
from model.training.trainer import train
from storage.errors import UserError
from tests.builders import TOKENIZERS, Built
from tests.model.runs import LONGER, job_of

SPEC = ProbingSpec(problems=200, edited=90)


@pytest.fixture(scope="module")
def run(small: Built, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    job = job_of(small, tmp_path_factory.mktemp("probed"), LONGER)
    train(job)
    return job


@pytest.fixture(autouse=True)
def fast_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes with three iterations, because caching does not depend on their quality."""
    monkeypatch.setattr("model.probing.probes._ITERATIONS", 3)


def files_of(job: TrainingJob) -> dict[str, int]:
    folder = Path(str(job.run)) / "probes"
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_repeated_probing_computes_nothing(run: TrainingJob, monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[str]()
    model, up_to_date = probe(run.run, SPEC, done.append)
    assert (up_to_date, done) == (False, [*Study.parts()])
    rows = series(run.run, model, SPEC)
    assert {row["step"] for row in rows} == {10, 20, 30}
    assert {"digits", "kappa", "read"} <= {row["measure"].split(":")[0] for row in rows}
    assert all(row["control"] is not None for row in rows)
    assert series_is_cached(run.run, SPEC)
    before = files_of(run)
    assert {"geometry.best.parquet", "probes.best.parquet", "attention.best.parquet"} < set(before)
    # Nothing is computed.
    for name in ("draw", "states_at", "readings", "attended"):
        monkeypatch.setattr(f"model.probing.study.{name}", None)
    again = list[str]()
    assert probe(run.run, SPEC, again.append)[1]
    assert series(run.run, model, SPEC, again.append) == rows
    assert again == []
    assert files_of(run) == before


def test_the_requested_number_of_checkpoints_is_measured(run: TrainingJob) -> None:
    place = Path(str(run.run)) / "probes" / "series.parquet"
    place.unlink(missing_ok=True)
    model = TrainedEncoder.open(run.run)
    assert {row["step"] for row in series(run.run, model, SPEC.model_copy(update={"series": 2}))} == {10, 30}
    assert not series_is_cached(run.run, SPEC)
    assert series_is_cached(run.run, SPEC.model_copy(update={"series": 0}))
    # Rows of other parameters stay.
    other = SPEC.model_copy(update={"series": 1, "problems": 201})
    assert {row["step"] for row in series(run.run, model, other)} == {30}
    assert series_is_cached(run.run, SPEC.model_copy(update={"series": 2}))


def test_a_kill_before_the_table_is_replaced_keeps_the_old_one_valid(run: TrainingJob) -> None:
    place = Path(str(run.run)) / "probes" / "series.parquet"
    place.unlink(missing_ok=True)
    model = TrainedEncoder.open(run.run)
    series(run.run, model, SPEC.model_copy(update={"series": 1}))
    before = place.read_bytes()
    series(run.run, model, SPEC.model_copy(update={"series": 2}))
    place.write_bytes(before)
    assert series_is_cached(run.run, SPEC.model_copy(update={"series": 1}))
    steps = list[str]()
    series(run.run, model, SPEC.model_copy(update={"series": 2}), steps.append)
    assert steps == ["step 10"]


def test_a_damaged_or_missing_table_is_computed_again(run: TrainingJob) -> None:
    folder = Path(str(run.run)) / "probes"
    (folder / "series.parquet").unlink(missing_ok=True)
    model, _ = probe(run.run, SPEC)
    series(run.run, model, SPEC)
    intact = {path.name: path.read_bytes() for path in folder.glob("*.parquet")}
    damaged = bytearray(intact["attention.best.parquet"])
    damaged[len(damaged) // 2] ^= 1
    (folder / "attention.best.parquet").write_bytes(damaged)
    (folder / "geometry.best.parquet").unlink()
    assert not probe(run.run, SPEC)[1]
    flipped = bytearray(intact["series.parquet"])
    for place in (60, len(flipped) // 2, len(flipped) - 100):
        flipped[place] ^= 1
        (folder / "series.parquet").write_bytes(flipped)
        assert not series_is_cached(run.run, SPEC)
        flipped[place] ^= 1
    series(run.run, model, SPEC)
    assert {path.name: path.read_bytes() for path in folder.glob("*.parquet")} == intact


def test_parts_finished_before_a_kill_are_not_computed_again(run: TrainingJob) -> None:
    """Parts of the study, and checkpoints of the series, whose rows stay cached if they are deleted."""
    spec = SPEC.model_copy(update={"problems": 201})

    def killed(part: str) -> None:
        if part in ("probes", "step 20"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        probe(run.run, spec, killed)
    before = files_of(run)
    done = list[str]()
    model, up_to_date = probe(run.run, spec, done.append)
    assert (up_to_date, done) == (False, [*Study.parts()])
    after = files_of(run)
    assert all(after[f"{name}.best.parquet"] == before[f"{name}.best.parquet"] for name in ("geometry", "probes"))
    assert probe(run.run, spec)[1]
    with pytest.raises(KeyboardInterrupt):
        series(run.run, model, spec, killed)
    steps = list[str]()
    rows = series(run.run, model, spec, steps.append)
    assert steps == ["step 30"]
    index = Checkpoints(run.run / "checkpoints")
    index.prune()
    assert len(index.index().entries) < 3
    assert series_is_cached(run.run, spec)
    assert series(run.run, model, spec) == rows


def test_a_changed_option_recomputes_only_parts_that_depend_on_it(
    run: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe(run.run, SPEC)
    before = files_of(run)
    for name in ("readings", "attended"):
        monkeypatch.setattr(f"model.probing.study.{name}", None)
    assert not probe(run.run, SPEC.model_copy(update={"edited": 91}))[1]
    after = files_of(run)
    assert after.keys() == before.keys()
    changed = {name for name in after if after[name] != before[name]}
    # This small run may answer too few problems for edits.
    assert changed == {"best.json"} | {"interventions.best.parquet"} & set(after)


@pytest.mark.slow
def test_the_series_has_controls_and_its_last_checkpoint_equals_the_study(
    run: TrainingJob,
) -> None:
    model = TrainedEncoder.open(run.run, "last")
    rows = series(run.run, model, SPEC)
    last = {row["measure"]: row for row in rows if row["step"] == 30}
    study = Study(model, SPEC)
    circle = next(
        row
        for row in study.geometry()["geometry"]
        if (row["kind"], row["symbols"], row["control"], row["measure"])
        == ("embedding", "digits", "trained", "circle 10")
    )
    # The weights and the shapes of the batches are the same; sums may differ by a last bit.
    assert last["digits: circle 10"]["value"] == pytest.approx(circle["value"])
    for control, name in (("trained", "value"), ("untrained", "control")):
        best = max(
            row["kappa"]
            for row in study.probes()["probes"]
            if (row["position"], row["label"], row["split"], row["probe"], row["control"])
            == ("answer", "digit", "numbers", "linear", control)
            and row["layer"]
        )
        # A last bit can change one of the probe's predictions, and with it kappa by about one in their number.
        assert last["kappa: digit, answer"][name] == pytest.approx(best, abs=0.01)


def test_edits_use_the_layout_of_most_problems_over_all_batches(run: TrainingJob) -> None:
    rare, frequent = TokenLayout(problem=4, answer=3), TokenLayout(problem=6, answer=4)
    study = Study(TrainedEncoder.open(run.run), SPEC)
    rows = [(rare, 512), (frequent, 500), (frequent, 300)]
    study.batches = [Batch(np.arange(n), np.zeros((n, layout.width), np.uint8), layout) for layout, n in rows]
    assert study.layout == frequent


def test_naming_all_layers_equals_naming_none(run: TrainingJob) -> None:
    model = TrainedEncoder.open(run.run)
    keys = [
        {name: key_of(model, SPEC.model_copy(update={"layers": layers}), part) for name, part in Study.parts().items()}
        for layers in ((), (1, 2), (2, 1, 1), (2,))
    ]
    assert keys[0] == keys[1] == keys[2]
    assert {name for name in Study.parts() if keys[3][name] != keys[0][name]} == {"geometry", "probes", "interventions"}


@pytest.mark.slow
def test_other_layers_and_other_checkpoints_are_probed_again(run: TrainingJob) -> None:
    probe(run.run, SPEC)
    assert not probe(run.run, SPEC.model_copy(update={"layers": (2,)}))[1]
    layers = pq.read_table(f"{run.run}/probes/probes.best.parquet").column("layer").to_pylist()
    assert set(layers) == {0, 2}
    assert not probe(run.run, SPEC.model_copy(update={"checkpoint": "last"}))[1]
    assert {"probes.best.parquet", "probes.last.parquet"} < set(files_of(run))
    assert not probe(run.run, SPEC)[1]


@pytest.mark.parametrize(
    ("requested", "text"),
    [
        ({"layers": (3,)}, "layer 3 does not exist: run 'run' has layers 1 to 2"),
        ({"layers": (0,)}, "layer 0 does not exist"),
        ({"loops": (2,)}, "loop 2 does not exist: run 'run' has loops 1 to 1"),
    ],
)
def test_a_missing_layer_or_loop_is_a_one_line_error(
    run: TrainingJob, requested: dict[str, tuple[int, ...]], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        probe(run.run, SPEC.model_copy(update=requested))


def test_a_run_without_a_checkpoint_is_a_one_line_error(small: Built, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run 'fresh' has no checkpoint yet: train it first"):
        probe(job_of(small, tmp_path, LONGER, "fresh").run, SPEC)


# Triples are probed like pairs, and both kinds of learned pieces alike.
@pytest.mark.parametrize(
    "of_kind",
    [pytest.param(kind, marks=[pytest.mark.slow] * (kind in ("triples", "bpe"))) for kind in TOKENIZERS],
    indirect=True,
)
def test_every_kind_of_tokenizer_can_be_probed(of_kind: Built, tmp_path: Path) -> None:
    kind = of_kind.tokenizer.group
    values = {"positions": ("place-value",) if kind else ("learned",), "longest": 64, "layers": 1}
    spec = LONGER.model_copy(update={"steps": 2, "encoder": LONGER.encoder.model_copy(update=values)})
    job = job_of(of_kind, tmp_path, spec)
    train(job)
    study = Study(TrainedEncoder.open(job.run), SPEC)
    symbols = {row["symbols"] for row in study.geometry()["geometry"]}
    assert "digits" in symbols
    # Learned pieces may include all of them.
    assert ("numbers" in symbols) in ((kind > 1,) if kind else (True, False))
    assert bool(study.probes()["probes"]) == bool(kind)
    assert bool(study.attention()["attention"]) == bool(kind)
    assert study.interventions() == {"interventions": []}
