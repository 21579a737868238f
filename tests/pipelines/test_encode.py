from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.tokenizer import BLANK, EQUALS, PAD, Tokenizer, TokenLayout
from pipelines.generation.generate import sample_rows
from pipelines.problems.components import components
from pipelines.problems.grid import Grid
from pipelines.spec.corpus import CorpusSpec, TokenizerKind, TokenizerSpec
from pipelines.split.canonical import Canonical
from pipelines.tokens.encode import EncodeJob, encode_rows, encode_shard, encode_tasks
from pipelines.tokens.vocabulary import sample_problems, train_pieces, train_tokenizer
from storage.datasets.arrow_buffers import fixed_width_values
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from tests.builders import Built


def test_the_ids_are_sentencepieces_own(small: Built) -> None:
    for text_shard, token_shard in zip(small.corpus.shards, small.tokens.shards, strict=True):
        text = pq.read_table((small.corpus.location / text_shard.path).path)
        tokens = pq.read_table((small.tokens.location / token_shard.path).path)
        assert tokens.column("id").equals(text.column("id"))
        assert tokens.column("sum").equals(text.column("sum"))
        rows = fixed_width_values(tokens.column("tokens").combine_chunks()).reshape(text.num_rows, -1)
        pad, blank, equals = (small.tokenizer.id_of(piece) for piece in (PAD, BLANK, EQUALS))
        encode = small.tokenizer.processor.encode
        for row, problem, answer in zip(
            rows, *(text.column(c).to_pylist() for c in ("problem", "answer")), strict=True
        ):
            ids, digits = encode(problem), encode(answer)
            left = [pad] * (small.layout.problem - len(ids)) + ids + [equals]
            assert row.tolist() == left + [blank] * (small.layout.answer - len(digits)) + digits


def test_negative_answers_have_their_sign_in_the_first_slot(small: Built) -> None:
    spec = CorpusSpec(name="x", terms=2, high=99, operators=("-",))
    grid = Grid(spec, Canonical("numerate"), 5, spec.size)
    ids = np.arange(spec.size, dtype=np.uint64)
    table = grid.table(ids, grid.problems(ids))
    layout = TokenLayout(problem=5, answer=3)
    rows = encode_rows(table, small.tokenizer, layout)
    for row, answer in zip(rows, table.column("answer").to_pylist(), strict=True):
        assert row[-3:].tolist() == small.tokenizer.slots(answer, layout)
        assert small.tokenizer.decode([i for i in row[-3:] if i != small.tokenizer.id_of(BLANK)]) == answer


@pytest.mark.parametrize("kind", ["digit", "pairs", "bpe"])
def test_steps_are_encoded_as_sentencepiece_does(kind: TokenizerKind) -> None:
    spec = CorpusSpec(name="x", rows=2_000, family="steps", digits=9, operators=("+", "-", "*"))
    table, _ = sample_rows(spec, components(spec)[0], 2_000)
    problems, answers = table["problem"].to_pylist(), table["answer"].to_pylist()
    lines = [f"{problem}={answer}" for problem, answer in zip(problems, answers, strict=True)]
    tokenizer = Tokenizer(train_pieces(lines, TokenizerSpec(kind=kind)))
    layout = TokenLayout(problem=40, answer=14)
    for row, problem, answer in zip(encode_rows(table, tokenizer, layout), problems, answers, strict=True):
        assert row.tolist() == tokenizer.row(problem, layout)[:41] + tokenizer.slots(answer, layout)


def test_every_line_is_decoded_exactly(small: Built) -> None:
    lines = sample_problems(small.corpus, 5_000)
    assert [small.tokenizer.decode(ids) for ids in small.tokenizer.processor.encode(lines)] == lines


def test_sample_is_reproducible_and_only_from_train(small: Built) -> None:
    lines = sample_problems(small.corpus, 1_000)
    assert lines == sample_problems(small.corpus, 1_000)
    train = {
        f"{p}={a}"
        for path in small.corpus.paths("train")
        for p, a in zip(*(pq.read_table(path).column(c).to_pylist() for c in ("problem", "answer")), strict=True)
    }
    assert set(lines) <= train


def test_a_tokenizer_is_the_same_every_time_and_has_every_character(tmp_path: Path, small: Built) -> None:
    spec = TokenizerSpec(sample_rows=2_000, proof_rows=500)
    again, made = train_tokenizer(spec, small.corpus, LocalLocation(tmp_path / "again"))
    assert made
    assert again.identity == small.tokenizer.identity
    assert all(small.tokenizer.decode([small.tokenizer.id_of(c)]) == c for c in "0123456789+-*()=")


def test_a_tokenizer_of_another_configuration_is_not_overwritten(tmp_path: Path, small: Built) -> None:
    folder = LocalLocation(tmp_path / "t")
    train_tokenizer(TokenizerSpec(sample_rows=2_000), small.corpus, folder)
    before = (folder / "tokenizer.model").read()
    with pytest.raises(UserError, match="exists with another configuration"):
        train_tokenizer(TokenizerSpec(sample_rows=1_000), small.corpus, folder)
    assert (folder / "tokenizer.model").read() == before


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_shard_is_named_and_nothing_is_written(own_small: Built, tmp_path: Path, damage: str) -> None:
    shard = own_small.corpus.shards[0]
    place = own_small.corpus.location / shard.path
    data = bytearray(place.read())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        data = data[:-10]
    place.remove()
    if damage != "remove":
        place.write(bytes(data))
    target = LocalLocation(tmp_path / "tokens")
    job = EncodeJob(own_small.corpus.location, target, own_small.tokenizer, {"grid-16": own_small.layout})
    with pytest.raises(RunFailure, match=f"shard {place} is missing or damaged"):
        encode_shard(job, encode_tasks(own_small.corpus.shards)[0])
    assert not list(target.path.rglob("*.parquet"))


def test_a_text_wider_than_the_layout_is_refused(small: Built) -> None:
    table = pa.table({"problem": ["12+3456"], "answer": ["3468"]})
    with pytest.raises(RunFailure, match="longer than the 5 tokens"):
        encode_rows(table, small.tokenizer, TokenLayout(problem=5, answer=5))
