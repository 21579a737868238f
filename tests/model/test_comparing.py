import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from model.comparison.compare import compare
from model.comparison.tables import page
from model.config.comparison import ComparingSpec
from model.config.training import TrainingSpec
from model.runs.metrics import MetricsWriter, step_seconds
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from tests.builders import TINY_TRAINING, Built, build_small
from tests.model.conftest import OPERATIONS


def comparing(built: Built, **values: object) -> ComparingSpec:
    """A comparison of a tiny encoder with itself."""
    parameters = {
        "workspace": str(built.workspace.root),
        "corpus": built.spec.name,
        "beyond": (),
        "trainings": {"tiny": TINY_TRAINING},
        "units": ("none", "residue"),
        "seeds": 1,
        "seconds": 1.0,
        "timed_seconds": 0.5,
        "at_once": 2,
        "validations": 3,
        "validation_rows": 64,
        "batch_size": 64,
        "problems": 200,
        "curve_problems": 100,
    }
    return ComparingSpec.model_validate(parameters | values)


@pytest.mark.slow
def test_a_comparison_writes_tables_and_repeats_only_missing_parts(tmp_path: Path) -> None:
    built = build_small(tmp_path, OPERATIONS)
    folder = compare(comparing(built))
    assert folder
    table = pq.read_table((folder / "table.parquet").path)
    rows = table.to_pylist()
    kinds = {(row["unit"], row["applied"], row["operator"]) for row in rows}
    assert kinds == {
        (unit, applied, operator)
        for unit, applied in (("none", "on"), ("residue", "on"), ("residue", "off"))
        for operator in "+-*"
    }
    assert all(row["problems_seen"] == row["steps"] * 64 and row["seconds"] > 0 for row in rows)
    assert all((row["operation_read"] is None) == ((row["unit"], row["applied"]) != ("residue", "on")) for row in rows)
    curves = pq.read_table((folder / "curves.parquet").path)
    assert set(curves.column("run").to_pylist()) == {"units-tiny-none", "units-tiny-residue"}
    steps = table.group_by("run").aggregate([("steps", "max")])
    assert curves.group_by("run").aggregate([("step", "max")]).sort_by("run").column(1) == steps.sort_by("run").column(
        1
    )
    assert not [name for name in (built.workspace.root / "runs").children() if "timed" in name]
    # Steps and results are cached, also results in the folder and with the key of earlier versions.
    results = folder / "results" / "units-tiny-none.json"
    values = json.loads(results.read())
    values["rows"][0]["correct"] = -1
    values["rows"] = [{"asked": row.pop("evaluation_corpus"), **row} for row in values["rows"]]
    results.remove()
    (folder / "asked" / "units-tiny-none.json").write(json.dumps(values).encode())
    assert compare(comparing(built)) == folder
    cached = pq.read_table((folder / "table.parquet").path)
    assert -1 in cached.column("correct").to_pylist()
    assert cached.schema == table.schema
    assert set(cached.column("evaluation_corpus").to_pylist()) == {built.spec.name}
    assert not results.exists()
    with pytest.raises(UserError, match="other parameters"):
        compare(comparing(built, seconds=2.0))


def test_an_encoder_that_does_not_fit_the_corpus_is_rejected_before_any_work(small: Built, tmp_path: Path) -> None:
    training = TINY_TRAINING.model_copy(update={"encoder": TINY_TRAINING.encoder.model_copy(update={"places": 2})})
    spec = comparing(small, workspace=str(tmp_path), trainings={"tiny": training})
    with pytest.raises(UserError, match="corpus 'small'"):
        compare(spec)


@pytest.mark.parametrize("damaged", ["{", "[" * 100_000])
def test_damaged_parameters_of_a_comparison_are_named(small: Built, tmp_path: Path, damaged: str) -> None:
    spec = comparing(small)
    folder = small.workspace.comparison(spec.name)
    (folder / "comparison.json").write(damaged.encode())
    with pytest.raises(RunFailure, match=r"comparison\.json is damaged: delete it"):
        compare(spec)
    folder.remove()


def test_an_encoder_has_the_same_training_with_every_unit() -> None:
    variants = ComparingSpec().variants()
    assert list(variants) == [
        (encoder, unit) for encoder in ("vanilla", "ours") for unit in ("none", "residue", "primes", "nalu")
    ]
    for (encoder, unit), training in variants.items():
        plain = variants[encoder, "none"]
        assert training.encoder.unit == unit
        assert training.model_copy(update={"encoder": plain.encoder}) == plain
        assert isinstance(training, TrainingSpec)


@pytest.mark.parametrize("validations", [1, 7, 30, 100])
def test_every_checkpoint_of_a_comparison_is_kept_for_its_curve(validations: int) -> None:
    spec = ComparingSpec(validations=validations)
    variant = next(iter(spec.variants().values()))
    for steps in range(1, 500):
        training = spec.planned(variant, steps)
        made = {*range(training.checkpoint_every, steps + 1, training.checkpoint_every), steps}
        # Besides the last one; the best may be among them.
        assert len(made) <= training.keep + 1, steps


def test_seconds_per_step_are_those_of_the_second_half(tmp_path: Path) -> None:
    writer = MetricsWriter(LocalLocation(tmp_path))
    seconds = [10.0, 20.0, 30.0, 30.5, 31.0, 31.5]
    for step, at in enumerate(seconds, 1):
        row = {"run": "x", "epoch": 0.0, "problems": 1, "loss": 1.0, "learning_rate": 1.0, "data_seconds": 0.0}
        writer.add({**row, "step": step, "seconds": at})
    writer.flush()
    assert step_seconds(LocalLocation(tmp_path)) == pytest.approx(0.5)
    with pytest.raises(RunFailure, match="too few"):
        step_seconds(LocalLocation(tmp_path / "none"))


def test_the_page_separates_learned_only_with_the_unit_and_with_the_unit_switched_off() -> None:
    def row(unit: str, applied: str, seed: int, right: float, until: int | None) -> dict[str, object]:
        """Results of one run."""
        scored = {"evaluation_corpus": "mixed", "operator": "*", "exact_match": right, "problems_until_goal": until}
        more = {"problems_seen": 9_000, "parameters": 1_234, "rows_per_second": 100.0, "seconds": 90.0, "gate": 0.5}
        return {"encoder": "ours", "unit": unit, "applied": applied, "seed": seed, **scored, **more}

    rows = [row("none", "on", seed, right, None) for seed, right in enumerate((0.1, 0.2, 0.4))]
    rows += [row("residue", "on", seed, 1.0, until) for seed, until in enumerate((1_000, 3_000, None))]
    rows += [row("residue", "off", seed, 0.0, None) for seed in range(3)]
    lines = page(rows, "mixed", 0.99).splitlines()
    assert "| ours | learned only | 3 | 20.0 (10.0–40.0) | never |" in lines
    assert "| ours | with residue | 3 | 100.0 (100.0–100.0) | 2,000 (2 of 3) |" in lines
    assert "| ours | with residue, switched off in evaluation | 3 | 0.0 (0.0–0.0) |  |" in lines
    assert "| ours | learned only | 0 | 10.0 |  | 9,000 | 1,234 | 100 | 90 |" in lines
