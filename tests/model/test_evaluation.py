import re
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import comb
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from model.config.evaluation import Decoding, EvaluationSpec
from model.evaluation.decoding import spell
from model.evaluation.evaluate import evaluate
from model.evaluation.intervals import exact_match_by_class, exact_match_interval
from model.evaluation.operand_recovery import score_operands
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.problem_batches import ProblemBatch, ProblemSet
from model.network.encoder import Encoder
from model.runs.checkpoints import CheckpointEntry, Checkpoints
from model.tokenizer import MASK
from model.training.optimizer import build_optimizers
from pipelines.generation.generate import canonical_hashes
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import job_of


def untrained(small: Built, folder: Path) -> TrainedEncoder:
    """A run whose only checkpoint holds random weights."""
    job = job_of(small, folder, TINY_TRAINING)
    encoder = Encoder(job.config.training.encoder, small.tokenizer)
    encoder.initialise(1)
    entry = CheckpointEntry(step=0, exact_match=0.0, file="step-0.safetensors")
    Checkpoints(job.run / "checkpoints").save(
        entry, job.config, encoder, build_optimizers(encoder, job.config.training), keep=1
    )
    return TrainedEncoder.open(job.run)


def test_a_model_with_random_weights_scores_zero(small: Built, tmp_path: Path) -> None:
    outcome = evaluate(
        untrained(small, tmp_path),
        ProblemSet(small.corpus, small.tokens, partial(canonical_hashes, small.spec)),
        EvaluationSpec(limit=0),
        LocalLocation(tmp_path / "predictions.parquet"),
    )
    held = small.corpus.manifest.split_rows["test"]
    assert (outcome.problems, outcome.passes) == (held, 1)
    assert outcome.exact_match == outcome.correct / held
    # By chance it may be right now and then: which answer is a little likelier than others depends on the machine.
    assert outcome.exact_match < 0.05
    table = pq.read_table(tmp_path / "predictions.parquet")
    text = pq.read_table(small.corpus.paths("test"))
    assert table.num_rows == held
    assert table.column("problem").to_pylist() == text.column("problem").to_pylist()
    assert sum(table.column("correct").to_pylist()) == outcome.correct


def test_the_answer_in_a_row_is_masked(small: Built, tmp_path: Path) -> None:
    model = untrained(small, tmp_path)
    row = np.array([small.tokenizer.row("12+34", small.layout)], np.uint8)
    filled = row.copy()
    filled[0, -small.layout.answer :] = small.tokenizer.slots("46", small.layout)
    assert np.array_equal(model.fill(row, small.layout.answer).ids, model.fill(filled, small.layout.answer).ids)
    assert small.tokenizer.id_of(MASK) in row


def test_a_limit_takes_the_first_problems(small: Built, tmp_path: Path) -> None:
    outcome = evaluate(
        untrained(small, tmp_path),
        ProblemSet(small.corpus, small.tokens, partial(canonical_hashes, small.spec)),
        EvaluationSpec(limit=700),
        LocalLocation(tmp_path / "p.parquet"),
    )
    assert outcome.problems == 700
    text = pq.read_table(small.corpus.paths("test"))
    assert pq.read_table(tmp_path / "p.parquet").column("id").to_pylist() == text.column("id").to_pylist()[:700]


@pytest.mark.parametrize(
    ("spec", "config", "message"),
    [
        ({"split_key": "other"}, {}, "split_key other, but run 'run' was trained on a corpus with numerate"),
        ({"test": 0.2}, {}, "test 0.2, but run 'run' was trained on a corpus with 0.1"),
        ({}, {"tokenizer_identity": "0" * 64}, "encoded with another tokenizer"),
    ],
)
def test_a_corpus_whose_test_problems_may_have_been_trained_on_is_refused(
    small: Built, tmp_path: Path, spec: dict[str, object], config: dict[str, object], message: str
) -> None:
    model = untrained(small, tmp_path)
    asked = replace(model, config=model.config.model_copy(update={"corpus_identity": "0" * 64, **config}))
    manifest = small.corpus.manifest
    other = replace(small.corpus, manifest=manifest.model_copy(update={"spec": {**manifest.spec, **spec}}))
    target = LocalLocation(tmp_path / "p.parquet")
    with pytest.raises(UserError, match=message):
        evaluate(asked, ProblemSet(other, small.tokens, lambda ids: ids), EvaluationSpec(), target)
    assert not target.exists()


def test_another_corpus_of_the_same_split_is_scored_with_its_facts(small: Built, longer: Built, tmp_path: Path) -> None:
    own = untrained(longer, tmp_path)
    target = LocalLocation(tmp_path / "p.parquet")
    asked = replace(own, config=own.config.model_copy(update={"corpus_identity": "0" * 64}))
    spec = EvaluationSpec(limit=101, decoding=Decoding(passes=2, loops=2))
    outcome = evaluate(
        asked, ProblemSet(longer.corpus, longer.tokens, partial(canonical_hashes, longer.spec)), spec, target
    )
    assert (outcome.problems, outcome.passes) == (101, 2)
    assert {result.order for result in outcome.by_passes} == {"confidence", "units-first"}
    rows = pq.read_table(target.path).to_pylist()
    # Every width has its share of the limit.
    held = {shard.stratum: shard.rows for shard in longer.corpus.of_split("test")}
    for stratum, count in held.items():
        share = sum(f"{row['family']}-{row['width']}" == stratum for row in rows)
        assert abs(share - 101 * count / sum(held.values())) <= 1
    for row in rows:
        left, operator, right = re.fullmatch(r"(\d+)([-+])(\d+)", row["problem"]).groups()  # type: ignore[union-attr]
        assert int(row["answer"]) == (int(left) + int(right) if operator == "+" else int(left) - int(right))
        assert (row["operators"], row["digits"]) == (operator, max(len(left), len(right)))
        assert (row["corpus"], row["negative"]) == ("longer", row["answer"].startswith("-"))


def test_slots_are_spelt_as_they_are_read(small: Built) -> None:
    rows = np.array([small.tokenizer.slots(answer, small.layout) for answer in ("0", "-7", "198", "-42")], np.uint8)
    assert spell(rows, small.tokenizer).to_pylist() == ["0", "-7", "198", "-42"]
    rows[0, -1] = small.tokenizer.id_of(MASK)
    assert spell(rows, small.tokenizer).to_pylist()[0] == "?"
    assert spell(rows[:0], small.tokenizer).to_pylist() == []


def test_the_interval_has_its_nominal_coverage() -> None:
    random = np.random.default_rng(0)
    covered, trials, truth = 0, 200, 0.8
    for _ in range(trials):
        # 300 classes of 1 to 24 problems; a class is right or wrong as a whole.
        sizes = random.integers(1, 25, 300)
        classes = np.repeat(np.arange(300), sizes)
        correct = np.repeat(random.random(300) < truth, sizes)
        (low, high), method, count = exact_match_interval(correct, classes)
        covered += low <= truth <= high
        assert method.startswith("Clopper-Pearson over 300")
        assert count == 300
    assert 0.91 <= covered / trials <= 0.99


def test_the_interval_of_independent_problems_is_the_binomials() -> None:
    correct = np.arange(10_000) % 10 > 0
    (low, high), _, _ = exact_match_interval(correct, np.arange(10_000))
    spread = 1.96 * np.sqrt(0.9 * 0.1 / 10_000)
    assert (low, high) == (pytest.approx(0.9 - spread, abs=5e-4), pytest.approx(0.9 + spread, abs=5e-4))


def test_repeated_problems_count_once_by_class() -> None:
    correct, classes = np.array([True, True, True, False, False]), np.array([7, 7, 7, 7, 3])
    assert exact_match_by_class(correct, classes) == (3 / 4 + 0) / 2


@pytest.mark.parametrize("size", [1, 4])
def test_each_error_lowers_both_bounds_and_few_errors_have_exact_bounds(size: int) -> None:
    found = []
    for errors in range(9):
        correct = np.ones(1_000, np.bool_)
        correct[:errors] = False
        (low, high), _, _ = exact_match_interval(correct, np.arange(1_000) // size)
        found.append((low, high))
        if size == 1 and errors:
            # By definition: at each bound what was seen, or what is further out, has a chance of 2.5 %.
            chances = [binomial(1_000, 1 - bound, errors) for bound in (low, high)]
            assert chances[0][0] == pytest.approx(0.025)
            assert chances[1][1] == pytest.approx(0.025)
    assert found == sorted(found, reverse=True)
    assert all(one[0] > other[0] for one, other in pairwise(found))


def binomial(trials: int, rate: float, errors: int) -> tuple[float, float]:
    """The chances of at most, and of at least, so many errors."""
    each = [comb(trials, count) * rate**count * (1 - rate) ** (trials - count) for count in range(errors + 1)]
    return sum(each), 1 - sum(each[:-1])


@pytest.mark.parametrize("right", [True, False])
def test_without_an_error_the_interval_still_has_a_width(right: bool) -> None:
    (low, high), method, _ = exact_match_interval(np.full(1_000, right), np.arange(1_000) // 4)
    assert method.startswith("Clopper-Pearson over 250")
    # The bound at which 250 classes without an error (or success) have a chance of 2.5 %.
    assert (low if right else 1 - high) ** 250 == pytest.approx(0.025)
    assert (high if right else low) == float(right)


def test_confidence_is_a_probability(small: Built, tmp_path: Path) -> None:
    rows = np.array([small.tokenizer.row(problem, small.layout) for problem in ("1+2", "99+99")], np.uint8)
    confidence = untrained(small, tmp_path).fill(rows, small.layout.answer).confidence
    assert ((confidence > 0) & (confidence <= 1)).all()


def test_missing_operands_are_predicted_with_the_answer_visible(small: Built, tmp_path: Path) -> None:
    outcome = evaluate(
        untrained(small, tmp_path),
        ProblemSet(small.corpus, small.tokens, partial(canonical_hashes, small.spec)),
        EvaluationSpec(limit=300, missing="operand"),
        LocalLocation(tmp_path / "predictions.parquet"),
    )
    assert (outcome.missing, outcome.problems, outcome.left_out, outcome.by_passes) == ("operand", 300, 0, ())
    assert outcome.exact_match < 0.05
    table = pq.read_table(tmp_path / "predictions.parquet")
    assert set(table.column("missing").to_pylist()) == {"operand"}
    first = pq.read_table(small.corpus.paths("test")).slice(0, 300)
    given = zip(first.column("problem").to_pylist(), first.column("answer").to_pylist(), strict=True)
    asked = zip(table.column("problem").to_pylist(), table.column("answer").to_pylist(), strict=True)
    for (problem, answer), (question, operand) in zip(given, asked, strict=True):
        assert question.replace("?", operand) == f"{problem}={answer}"


def test_a_correct_operand_is_scored_correct(small: Built, tmp_path: Path) -> None:
    model = untrained(small, tmp_path)
    row = np.array([small.tokenizer.row("12+34", small.layout)], np.uint8)
    row[0, -small.layout.answer :] = small.tokenizer.slots("46", small.layout)

    class Oracle(Encoder):
        def forward(self, ids, slots, **options):  # type: ignore[no-untyped-def]
            return torch.nn.functional.one_hot(torch.from_numpy(row).long(), small.tokenizer.size).float() * 50

    oracle = Oracle(model.config.training.encoder, small.tokenizer)
    batch = ProblemBatch("grid", 2, pa.table({"id": [0]}), row, small.layout.answer, np.zeros(1, np.uint64))
    scored = score_operands(replace(model, encoder=oracle), batch, np.array([0.9]))
    assert {name: column.to_pylist() for name, column in scored.facts.items()} == {
        "problem": ["12+?=46"],
        "answer": ["34"],
    }
    assert scored.prediction.to_pylist() == ["34"]
    assert scored.correct.tolist() == [True]
    assert scored.confidence == pytest.approx([1.0])


def test_problems_that_are_not_fair_to_score_are_left_out(small: Built, tmp_path: Path) -> None:
    def fair(facts: pa.Table, canonical: np.ndarray) -> np.ndarray:
        assert len(facts) == len(canonical)
        return np.array([int(answer) % 3 == 0 for answer in facts["answer"].to_pylist()])

    problems = ProblemSet(small.corpus, small.tokens, partial(canonical_hashes, small.spec), fair=fair)
    values = EvaluationSpec(limit=0), LocalLocation(tmp_path / "predictions.parquet")
    outcome = evaluate(untrained(small, tmp_path), problems, *values)
    answers = [int(answer) for answer in pq.read_table(small.corpus.paths("test")).column("answer").to_pylist()]
    assert outcome.problems == sum(answer % 3 == 0 for answer in answers)
    assert outcome.problems + outcome.left_out == len(answers)
    asked = pq.read_table(tmp_path / "predictions.parquet").column("answer").to_pylist()
    assert all(int(answer) % 3 == 0 for answer in asked)
    unfair = replace(problems, fair=lambda facts, canonical: np.zeros(len(facts), np.bool_))
    with pytest.raises(RunFailure, match=r"none of the .* problems of the test split can be scored"):
        evaluate(untrained(small, tmp_path / "none"), unfair, *values)


def test_a_missing_operand_is_filled_in_one_pass_alone() -> None:
    with pytest.raises(ValueError, match="missing is operand, which is filled in one pass"):
        EvaluationSpec(missing="operand", decoding=Decoding(passes=4))
