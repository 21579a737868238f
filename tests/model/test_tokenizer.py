from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config.encoder import EncoderConfig
from model.config.evaluation import EvaluationSpec
from model.config.training import TrainingSpec
from model.evaluation.decoding import spell
from model.evaluation.evaluate import evaluate
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.problem_batches import ProblemSet
from model.network.positions import Positions
from model.tokenizer import BLANK, EQUALS, MASK, PAD, Tokenizer, right_groups
from model.training.batches import held_rows
from model.training.preflight import prepare
from model.training.trainer import train
from pipelines.generation.generate import canonical_hashes
from pipelines.spec.corpus import CorpusSpec, TokenizerSpec
from pipelines.tokens.vocabulary import train_pieces
from storage.errors import UserError
from storage.places.disk import LocalLocation
from tests.builders import TINY_TRAINING, TOKENIZERS, Built, build_small, encode_plainly

# Problems with numbers of any length, brackets and leading zeros, whether they make sense or not.
texts = st.lists(st.text("0123456789", max_size=12), min_size=1, max_size=6).map("+".join).filter(bool)
texts |= st.text("0123456789+-*()", min_size=1, max_size=30)
few = settings(max_examples=30, deadline=None)


def groups_of(text: str, size: int) -> list[str]:
    """Groups from the right, one character after the other."""
    found: list[str] = []
    for character in reversed(text):
        grows = character.isdigit() and bool(found) and found[-1].isdigit() and len(found[-1]) < size
        if grows:
            found[-1] = character + found[-1]
        else:
            found.append(character)
    return found[::-1]


def trained(built: Built, spec: TrainingSpec = TINY_TRAINING, name: str = "run") -> TrainedEncoder:
    """A run of a few steps on tokens of any kind, by the one path that there is."""
    kind = next(kind for kind in TOKENIZERS if built.tokens.location.name.endswith(kind))
    positions = ("place-value", "relative") if built.tokenizer.group else ("sinusoidal", "learned")
    encoder = spec.encoder.model_copy(update={"positions": positions})
    spec = spec.model_copy(update={"encoder": encoder})
    corpus = built.spec.name
    (job,) = prepare(built.workspace, f"{name}-{corpus}-{kind}", corpus, built.tokens.location.name, spec)
    train(replace(job, threads=1))
    return TrainedEncoder.open(built.workspace.run(f"{name}-{corpus}-{kind}"))


def token_rows(built: Built, split: str) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """The problems of a split and their rows of ids, both in the manifest's order."""
    problems, rows = [], []
    for text_shard, token_shard in zip(built.corpus.of_split(split), built.tokens.of_split(split), strict=True):
        problems += pq.ParquetFile((built.corpus.location / text_shard.path).path).read().to_pylist()
        column = pq.ParquetFile((built.tokens.location / token_shard.path).path).read().column("tokens")
        rows += [np.frombuffer(row, built.tokenizer.id_type) for row in column.to_pylist()]
    return problems, rows


@few
@given(text=texts, size=st.integers(1, 4))
def test_groups_are_those_counted_off_from_the_right(text: str, size: int) -> None:
    assert right_groups(text, size) == groups_of(text, size)


@few
@given(text=texts)
def test_any_text_comes_back_exactly(of_kind: Built, text: str) -> None:
    assert of_kind.tokenizer.decode(of_kind.tokenizer.encode(text)) == text


@few
@given(text=texts)
def test_a_piece_is_within_a_number_and_signs_are_separate(of_kind: Built, text: str) -> None:
    pieces = [of_kind.tokenizer.pieces()[number] for number in of_kind.tokenizer.encode(text)]
    assert all(piece.isdigit() or len(piece) == 1 for piece in pieces)
    if of_kind.tokenizer.group:
        assert pieces == groups_of(text, of_kind.tokenizer.group)


@few
@given(number=st.integers(-(10**9) + 1, 10**9 - 1))
def test_an_answer_is_spelt_as_its_slots_were_read(of_kind: Built, number: int) -> None:
    layout = of_kind.layout.model_copy(update={"answer": 10})
    slots = of_kind.tokenizer.slots(str(number), layout)
    assert len(slots) == 10
    assert spell(np.array([slots], of_kind.tokenizer.id_type), of_kind.tokenizer).to_pylist() == [str(number)]


def test_a_special_piece_in_a_slot_is_spelt_as_a_question(of_kind: Built) -> None:
    tokenizer = of_kind.tokenizer
    ids = np.array([[tokenizer.id_of(piece) for piece in (BLANK, "7", MASK)]], tokenizer.id_type)
    assert spell(ids, tokenizer).to_pylist() == ["7?"]


@pytest.mark.parametrize("sample", [[], ["12+34=46"]])
@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_every_number_and_sign_can_be_read_whatever_the_sample_holds(kind: str, sample: list[str]) -> None:
    tokenizer = Tokenizer(train_pieces(sample, TOKENIZERS[kind]))
    for text in (*"0123456789+-*()=", "7", "00", "07", "100", "-5+(12345*678)=-90"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_groups_are_distinguished_from_equal_learned_pieces() -> None:
    pairs = [f"{number:02d}" for number in range(100)]
    learned = Tokenizer(train_pieces(pairs, TokenizerSpec(kind="bpe", vocabulary=120)))
    assert set(pairs) == {piece for piece in learned.pieces() if len(piece) == 2}
    assert learned.group == 0
    for kind in ("digit", "pairs", "triples"):
        spec = TokenizerSpec(kind=kind)  # type: ignore[arg-type]
        assert Tokenizer(train_pieces([], spec)).group == spec.group


@few
@given(text=texts)
def test_the_place_of_a_group_is_its_number_from_the_right(of_kind: Built, text: str) -> None:
    tokenizer, layout = of_kind.tokenizer, of_kind.layout.model_copy(update={"problem": 120})
    if not tokenizer.group:
        return
    groups = groups_of(text, tokenizer.group)
    places: list[int] = []
    for number, group in reversed(list(enumerate(groups))):
        inside = number + 1 < len(groups) and groups[number + 1].isdigit() and group.isdigit()
        places.append((places[-1] + 1 if inside else 1) if group.isdigit() else 0)
    where = Positions(tokenizer)(torch.tensor([tokenizer.row(text, layout)]), layout.answer)
    slots = [0, *range(layout.answer - 1, 0, -1)]
    assert where.place_value[0].tolist() == [0] * (120 - len(groups)) + places[::-1] + [0, *slots]


def test_the_rows_that_training_reads_are_the_corpuss_equations(of_kind: Built) -> None:
    tokenizer, layouts = of_kind.tokenizer, set()
    left_out = {tokenizer.id_of(piece) for piece in (PAD, BLANK)}
    for layout, rows, _ in held_rows(of_kind.tokens, "train", 256, 0):
        assert rows.dtype == tokenizer.id_type
        assert rows.shape[1] == layout.width
        layouts.add(layout)
        for row in rows.tolist():
            problem, answer = tokenizer.decode([number for number in row if number not in left_out]).split(EQUALS)
            assert eval(problem) == int(answer)
    assert of_kind.layout in layouts


def test_predictions_are_scored_by_comparing_text(of_kind: Built, tmp_path: Path) -> None:
    model, target = trained(of_kind), LocalLocation(tmp_path / "p.parquet")
    hashes = partial(canonical_hashes, of_kind.spec)
    outcome = evaluate(model, ProblemSet(of_kind.corpus, of_kind.tokens, hashes), EvaluationSpec(limit=90), target)
    found = pq.read_table(target.path).to_pylist()
    problems, rows = token_rows(of_kind, "test")
    assert [row["correct"] for row in found] == [row["prediction"] == row["answer"] for row in found]
    assert outcome.correct == sum(row["correct"] for row in found)
    assert outcome.problems == len(found) == 90
    asked, pieces, tokenizer = {row["id"]: row for row in found}, of_kind.tokenizer.pieces(), of_kind.tokenizer
    for layout in model.config.layouts:
        chosen = [n for n, row in enumerate(rows) if len(row) == layout.width and problems[n]["id"] in asked]
        ids = model.fill(np.stack([rows[number] for number in chosen]), layout.answer).ids
        for number, slots in zip(chosen, ids.tolist(), strict=True):
            parts = ["?" if pieces[slot].startswith("[") else pieces[slot] for slot in slots if pieces[slot] != BLANK]
            row = asked[problems[number]["id"]]
            assert (row["problem"], row["prediction"]) == (problems[number]["problem"], "".join(parts))
            # What stands in the corpus is what a prediction is compared with.
            answer = rows[number][-layout.answer :]
            assert spell(answer[None], tokenizer).to_pylist() == [problems[number]["answer"]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(TOKENIZERS))
def test_the_same_training_learns_with_every_tokenizer(kind: str, tmp_path: Path) -> None:
    corpus = CorpusSpec(name="few", terms=2, high=19, rows_per_shard=1_000, validation=0.2, test=0.2)
    digits = build_small(tmp_path, corpus)
    built = encode_plainly(digits.workspace, corpus, digits.corpus, TOKENIZERS[kind])
    steps = TINY_TRAINING.model_copy(
        update={
            "steps": 300,
            "validate_every": 300,
            "validation_rows": 64,
            "checkpoint_every": 300,
            "encoder": EncoderConfig(width=32, heads=2, feedforward=64),
        }
    )
    model, target = trained(built, steps), LocalLocation(tmp_path / "p.parquet")
    hashes = partial(canonical_hashes, corpus)
    outcome = evaluate(
        model, ProblemSet(built.corpus, built.tokens, hashes), EvaluationSpec(split="train", limit=0), target
    )
    rows = pq.read_table(target.path).to_pylist()
    right = sum(row["prediction"] == str(eval(row["problem"])) for row in rows)
    assert outcome.correct == right > len(rows) // 2


def test_a_problem_is_encoded_in_a_row_with_room_for_its_answer(of_kind: Built) -> None:
    model = trained(of_kind)
    problems = ["1+2", "12-345", "999999999+1", "100000-999999999", "7+0"]
    for problem in problems:
        layout, ids = model.layout_of(problem), of_kind.tokenizer.encode(problem)
        answer = of_kind.tokenizer.encode(str(abs(eval(problem))))
        assert layout.problem >= len(ids)
        assert layout.answer > len(answer)
        assert of_kind.tokenizer.row(problem, layout)[-layout.answer - 1 - len(ids) : -layout.answer - 1] == ids
    together, alone = model.solve(problems), [model.solve([problem])[0] for problem in problems]
    assert len(together) == len(problems)
    # A problem's confidence differs by rounding with the size of its batch.
    assert [each.confidence for each in together] == pytest.approx([each.confidence for each in alone], abs=1e-3)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("positions", [("place-value",), ("relative",), ("sinusoidal", "relative")])
def test_learned_pieces_have_no_place_values(longer: Built, kind: str, positions: tuple[str, ...]) -> None:
    built = encode_plainly(longer.workspace, longer.spec, longer.corpus, TOKENIZERS[kind])
    spec = TINY_TRAINING.model_copy(update={"encoder": EncoderConfig(width=16, heads=2, positions=positions)})
    with pytest.raises(
        UserError, match=r"learned pieces: use positions sinusoidal or learned, or a tokenizer"
    ) as error:
        prepare(built.workspace, "refused", "longer", f"longer-{kind}", spec)
    assert "\n" not in str(error.value)
    assert positions[-1] in str(error.value)
    assert not (built.workspace.run("refused") / "run.json").exists()


@pytest.mark.parametrize(("kind", "places"), [("digit", 10), ("pairs", 5), ("triples", 4)])
def test_places_are_counted_in_groups(longer: Built, kind: str, places: int) -> None:
    built = encode_plainly(longer.workspace, longer.spec, longer.corpus, TOKENIZERS[kind])
    for bound in (places, places - 1):
        spec = TINY_TRAINING.model_copy(update={"encoder": EncoderConfig(width=16, heads=2, places=bound)})
        name = f"places-{kind}-{bound}"
        if bound == places:
            prepare(built.workspace, name, "longer", f"longer-{kind}", spec)
            continue
        with pytest.raises(UserError, match=rf"encoder.places is {bound}, {places} is needed for this corpus"):
            prepare(built.workspace, name, "longer", f"longer-{kind}", spec)
