"""An encoder that rewrites is trained, resumed, distributed and evaluated like every other one."""

from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from model.config.encoder import EncoderConfig
from model.config.evaluation import EvaluationSpec
from model.config.training import CurriculumStage, TrainingSpec
from model.evaluation.evaluate import check_corpus, evaluate, steps_beside
from model.evaluation.predictor import TrainedEncoder, TrainedRewriter, open_trained
from model.evaluation.problem_batches import ProblemSet
from model.evaluation.rewriting.outputs import results_of
from model.network.rewriting.encoder import RewritingEncoder
from model.objectives.rewriting import RewritingObjective
from model.runs.metrics import read_metrics
from model.training.batches import layouts_of, stages_of, token_rows
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.generate import canonical_hashes
from pipelines.spec.corpus import CorpusSpec, MixturePart
from storage.errors import UserError
from storage.order import derive_key
from storage.places.disk import LocalLocation
from tests.builders import SMALL, TINY_TRAINING, Built, build_small
from tests.model.runs import job_of, losses, same_bits
from tests.model.workers import Countdown, train_with

ALL = ("+", "-", "*")
REWRITING = CorpusSpec(
    name="small",
    rows=9_000,
    rows_per_shard=9_000,
    validation=0.1,
    test=0.1,
    mixture=(
        MixturePart(weight=1, family="marks", operators=ALL, terms=4, digits=3, depth=1),
        MixturePart(weight=2, family="steps", operators=ALL, digits=4),
    ),
)
ENCODER = EncoderConfig(
    kind="rewriting", width=16, heads=2, layers=1, feedforward=32, loops=6, min_loops=5, warm_loops=3, reach=4
)
SPEC = TINY_TRAINING.model_copy(
    update={"objective": "rewriting", "encoder": ENCODER, "oversample": "", "steps": 30, "checkpoint_every": 10}
)


@pytest.fixture(scope="module")
def rewriting(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_small(tmp_path_factory.mktemp("rewriting"), REWRITING)


def test_marks_and_steps_have_layouts_that_tell_them_apart(rewriting: Built) -> None:
    kinds = rewriting.tokens.manifest.spec["layouts"]
    assert {name.split("-")[0] for name in kinds} == {"marks", "steps"}
    for name, layout in kinds.items():
        assert (layout["answer"] == layout["problem"] + 1) == name.startswith("marks"), name
    assert len(layouts_of(rewriting.tokens)) == len(kinds)


@pytest.mark.parametrize("digits_per_step", [2, 3])
def test_steps_that_consume_several_digits_are_learned_and_answered(
    digits_per_step: int, rewriting: Built, tmp_path: Path
) -> None:
    steps = MixturePart(weight=2, family="steps", operators=ALL, digits=4, digits_per_step=digits_per_step)
    corpus = CorpusSpec(**{**REWRITING.model_dump(), "mixture": (REWRITING.mixture[0], steps)})
    built = build_small(tmp_path, corpus)
    with pytest.raises(UserError, match=rf"is 1, but steps of .* consume {digits_per_step}: use the same"):
        prepare(built.workspace, "run", "small", "small-digit", SPEC)
    encoder = ENCODER.model_copy(update={"digits_per_step": digits_per_step})
    job = job_of(built, tmp_path / "runs", SPEC.model_copy(update={"encoder": encoder, "steps": 40}))
    assert train(job).finished
    model = open_trained(job.run, "last")
    assert len(model.solve(["1234*-567", "12*(3+45)-7"])) == 2
    with pytest.raises(
        UserError, match=rf"steps with digits_per_step 1, but run 'run' was trained with {digits_per_step}"
    ):
        check_corpus(model, rewriting.corpus, rewriting.tokens)
    for is_operations, most in ((True, 0.9), (False, 0.98)):
        curve = [loss for _, loss in losses(job) if (loss > 1) == is_operations]
        few = len(curve) // 3
        assert sum(curve[-few:]) < most * sum(curve[:few])


def test_a_training_learns_and_a_resume_changes_nothing(rewriting: Built, tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"steps": 40})
    whole, cut = job_of(rewriting, tmp_path / "a", spec), job_of(rewriting, tmp_path / "b", spec)
    assert train(whole).finished
    assert train(cut, stop=Countdown(1)).step == 20
    assert train(cut).finished
    assert same_bits(whole, cut)
    # Batches of marks lose ln 2 at most at first, and those of operations far more. They come in random order.
    for is_operations, most in ((True, 0.85), (False, 0.98)):
        curve = [loss for _, loss in losses(whole) if (loss > 1) == is_operations]
        few = len(curve) // 3
        assert sum(curve[-few:]) < most * sum(curve[:few])


def test_a_curriculum_selects_hard_steps_by_sql(rewriting: Built, tmp_path: Path) -> None:
    hard = "column_total >= 10 OR carry_bound >= 3"
    spec = SPEC.model_copy(update={"curriculum": (CurriculumStage(where=hard, steps=10),), "oversample": hard})
    whole, job = (job_of(rewriting, tmp_path / name, spec) for name in "ab")
    assert train(whole).finished
    assert train(job, stop=Countdown(0)).step == 10
    assert train(job).finished
    assert same_bits(whole, job)
    stages = stages_of(rewriting.tokens, spec, job.config.oversampled)
    layouts = {
        stage.first: {batch[1].shape[1] for batch in islice(stage.batches.reader.batches(0), 20)} for stage in stages
    }
    # Marks have no column totals, so only the second stage has rows of both kinds.
    assert layouts[0] < layouts[10]


def test_difficulties_are_columns_of_the_corpus(rewriting: Built) -> None:
    objective = RewritingObjective(SPEC, rewriting.tokenizer)
    tokens, seen = rewriting.tokens, set[str]()
    for shard, path in zip(tokens.shards, tokens.paths_of(tokens.shards), strict=True):
        rows = pq.read_table(path)
        if "column_total" in rows.column_names:
            # The minus of a zero such as (-0) has a bound of one more here, as its zero counts as a digit.
            is_zero = pc.and_(pc.equal(rows["column_total"], 0), pc.equal(pc.cast(rows["operators"], pa.string()), ""))
            rows = rows.filter(pc.invert(is_zero))
        ids = torch.from_numpy(token_rows(rows["tokens"].combine_chunks(), tokens)).long()
        found = objective.difficulty(ids, tokens.manifest.spec["layouts"][shard.stratum]["answer"])
        assert {name: values.tolist() for name, values in found.items()} == {
            name: rows[name].to_pylist() for name in found
        }
        seen |= found.keys()
    assert seen == {"depth", "column_total", "carry_bound"}


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_validation_counts_errors_by_difficulty(rewriting: Built, tmp_path: Path, ranks: int) -> None:
    job = job_of(rewriting, tmp_path, SPEC)
    train_with(job, ranks) if ranks > 1 else train(job)
    folder, metrics = job.run / "validation", read_metrics(job.run / "metrics")
    errors = pa.concat_tables(pq.read_table(str(folder / name)) for name in folder.children())
    matches = {
        step: match
        for step, match in zip(metrics["step"].to_pylist(), metrics["validation_exact_match"].to_pylist(), strict=True)
        if match is not None
    }
    assert {*errors["step"].to_pylist()} == {*matches}
    for step, match in matches.items():
        counted = errors.filter(pc.equal(errors["step"], step)).group_by("difficulty")
        sums = {
            row["difficulty"]: row for row in counted.aggregate([("problems", "sum"), ("wrong", "sum")]).to_pylist()
        }
        # Every operation has a column total and a bound of its carries, every expression a depth.
        assert [sums["column_total"][name] for name in ("problems_sum", "wrong_sum")] == [
            sums["carry_bound"][name] for name in ("problems_sum", "wrong_sum")
        ]
        rows, wrong = (sums["depth"][name] + sums["carry_bound"][name] for name in ("problems_sum", "wrong_sum"))
        assert match == pytest.approx(1 - wrong / rows), step


def test_two_ranks_have_the_losses_of_one(rewriting: Built, tmp_path: Path) -> None:
    # Sums in another order differ by a last bit, which grows from step to step.
    spec = SPEC.model_copy(update={"precision": "float32", "steps": 12})
    jobs = [job_of(rewriting, tmp_path / str(ranks), spec) for ranks in (1, 2)]
    train(jobs[0])
    train_with(jobs[1], 2)
    for (step, one), (_, other) in zip(*map(losses, jobs), strict=True):
        assert one == pytest.approx(other, rel=1e-3), step


def test_steps_are_evaluated_alone_and_expressions_by_rewriting(rewriting: Built, tmp_path: Path) -> None:
    job = job_of(rewriting, tmp_path, SPEC.model_copy(update={"validation_rows": 4_096}))
    result = train(job)
    model = open_trained(job.run, "last")
    assert isinstance(model, TrainedRewriter)
    problems = ProblemSet(rewriting.corpus, rewriting.tokens, partial(canonical_hashes, REWRITING))
    target = LocalLocation(tmp_path / "predictions" / "p.parquet")
    outcome = evaluate(model, problems, EvaluationSpec(limit=0, checkpoint="last"), target)
    assert outcome.problems == rewriting.corpus.manifest.split_rows["test"]
    # Validation asks the same problems, but for those that fill no lane.
    spec = EvaluationSpec(limit=0, checkpoint="last", split="validation")
    held_out = evaluate(model, problems, spec, LocalLocation(tmp_path / "predictions" / "v.parquet"))
    assert 0 < held_out.exact_match == pytest.approx(result.exact_match, rel=0.5)
    table = pq.read_table(target.path)
    marks = table.filter(pc.equal(table["family"], "marks"))
    assert pc.all(pc.equal(pc.utf8_length(marks["problem"]), pc.utf8_length(marks["prediction"]))).as_py()
    assert pq.read_table(steps_beside(target).path).num_rows == 0


def test_an_encoder_that_rewrites_is_refused_where_answers_at_once_are_needed(rewriting: Built, tmp_path: Path) -> None:
    job = job_of(rewriting, tmp_path, SPEC.model_copy(update={"steps": 1}))
    train(job)
    with pytest.raises(
        UserError, match="answers by rewriting, but this needs an encoder that fills the slots of an answer"
    ):
        TrainedEncoder.open(job.run)


def test_objective_encoder_and_corpus_must_fit(rewriting: Built, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set both to rewriting, or none"):
        TrainingSpec(objective="rewriting")
    for change, words in (
        ({"encoder": {**SPEC.encoder.model_dump(), "unit": "residue"}}, "have no symbolic unit: set it to none"),
        ({"running_sum": 0.5}, "has no running sums: set it to 0"),
    ):
        with pytest.raises(ValueError, match=words):
            TrainingSpec.model_validate({**SPEC.model_dump(), **change})
    plain = build_small(tmp_path, SMALL)
    with pytest.raises(UserError, match="use a corpus of marks and steps"):
        prepare(plain.workspace, "run", "small", "small-digit", SPEC)
    with pytest.raises(UserError, match="whose answers are marks"):
        prepare(rewriting.workspace, "run", "small", "small-digit", TINY_TRAINING)


def test_loops_stop_only_where_every_output_is_certain(rewriting: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small change alone is not enough: the next loop can still change a digit that is in doubt."""
    monkeypatch.setattr("model.network.rewriting.encoder._LARGEST_CHANGE", float("inf"))
    tokenizer = rewriting.tokenizer
    encoder = RewritingEncoder(ENCODER, tokenizer)
    encoder.initialise(0)
    ids = torch.from_numpy(tokenizer.right_aligned(["12+34", "7*23:5", "999-1000"]).astype(np.int64))
    operations = encoder.reader.operations(ids)
    with torch.inference_mode():
        first, last = encoder.after(operations, 4), encoder.after(operations, 2 * operations.fields.shape[2])
        for head, sure in ((encoder.end_head, [9.0, -9.0] * 2), (encoder.digit_head, [9.0] + [-9.0] * 9)):
            # Weights at random are in doubt about every row.
            assert torch.equal(encoder.settled(operations), last)
            head.weight.zero_()
            head.bias.copy_(torch.tensor(sure))
        assert torch.equal(encoder.settled(operations), first)
        # Results of zero need no sign.
        encoder.end_head.bias.copy_(torch.tensor([0.0, 0.0, 9.0, -9.0]))
        assert torch.equal(encoder.settled(operations), first)
        results = results_of(operations, encoder.logits(operations, first))
        assert min(result.confidence for result in results) > 0.99
        encoder.digit_head.bias.copy_(torch.tensor([-9.0] * 9 + [9.0]))
        assert torch.equal(encoder.settled(operations), last)


def test_marks_can_have_layers_of_their_own(rewriting: Built, tmp_path: Path) -> None:
    encoder = SPEC.encoder.model_copy(update={"mark_layers": "own"})
    job = job_of(rewriting, tmp_path, SPEC.model_copy(update={"encoder": encoder}))
    assert train(job).finished
    model = open_trained(job.run, "last")
    assert isinstance(model, TrainedRewriter)
    shared = RewritingEncoder(SPEC.encoder, model.tokenizer)
    layers = sum(weight.numel() for weight in shared.layers.parameters())
    assert model.parameters == shared.parameter_count() + layers
    # Both kinds of layers were trained, and only operations change if the layers of operations do.
    fresh = RewritingEncoder(encoder, model.tokenizer)
    fresh.initialise(derive_key(SPEC.seed, "weights"))
    for name, weight in model.encoder.named_parameters():
        if "layers" in name and weight.ndim == 2:
            assert not torch.equal(weight.cpu(), fresh.get_parameter(name)), name
    units, operations = model.units(["12*(3+4)"]), model.operations(["12+34"])
    with torch.inference_mode():
        marks, slots = model.encoder.mark(units, 2), model.encoder.after(operations, 2)
        model.encoder.layers[0].expand.weight.zero_()
        assert torch.equal(model.encoder.mark(units, 2), marks)
        assert not torch.equal(model.encoder.after(operations, 2), slots)
