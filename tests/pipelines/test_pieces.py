import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.evaluation.decoding import spell
from model.tokenizer import PAD, TokenLayout
from pipelines.tokens.encode import encode_rows, in_tokens
from pipelines.tokens.pieces import pieces_of
from storage.errors import RunFailure
from tests.builders import Built
from tests.model.test_tokenizer import few, texts

LAYOUT = TokenLayout(problem=120, answer=14)


@few
@given(rows=st.lists(texts, min_size=1, max_size=20), skipped=st.integers(0, 3))
def test_ids_equal_those_of_each_single_text(of_kind: Built, rows: list[str], skipped: int) -> None:
    ids, counts = pieces_of(pa.array(["9"] * skipped + rows).slice(skipped), of_kind.tokenizer)
    alone = [of_kind.tokenizer.encode(text) for text in rows]
    assert counts.tolist() == list(map(len, alone))
    assert ids.tolist() == [number for text in alone for number in text]


@few
@given(rows=st.lists(st.tuples(texts, st.integers(-(10**13) + 1, 10**13 - 1)), min_size=1, max_size=20))
def test_rows_equal_those_of_each_single_problem_and_are_decoded_exactly(
    of_kind: Built, rows: list[tuple[str, int]]
) -> None:
    tokenizer = of_kind.tokenizer
    problems, answers = [problem for problem, _ in rows], [str(answer) for _, answer in rows]
    found = encode_rows(pa.table({"problem": problems, "answer": answers}), tokenizer, LAYOUT)
    assert found.dtype == tokenizer.id_type
    pad = tokenizer.id_of(PAD)
    for row, problem, answer in zip(found.tolist(), problems, answers, strict=True):
        assert row[: LAYOUT.problem + 1] == tokenizer.row(problem, LAYOUT)[: LAYOUT.problem + 1]
        assert row[-LAYOUT.answer :] == tokenizer.slots(answer, LAYOUT)
        assert tokenizer.decode([number for number in row[: LAYOUT.problem] if number != pad]) == problem
    assert spell(found[:, -LAYOUT.answer :], tokenizer).to_pylist() == answers


def test_a_layout_is_as_wide_as_the_longest_problem_in_tokens(of_kind: Built) -> None:
    for shard in of_kind.corpus.shards:
        table = pq.ParquetFile((of_kind.corpus.location / shard.path).path).read()
        lengths = [
            max(len(of_kind.tokenizer.encode(text.removeprefix("-"))) for text in table.column(name).to_pylist())
            for name in ("problem", "answer")
        ]
        measured = in_tokens(of_kind.corpus.location, of_kind.tokenizer, shard)
        assert [measured.problem_length, measured.answer_digits] == lengths


def test_a_text_with_more_tokens_than_the_layout_is_refused(of_kind: Built) -> None:
    table = pa.table({"problem": ["12+34+56+78"], "answer": ["180"]})
    with pytest.raises(RunFailure, match=r"of the layout"):
        encode_rows(table, of_kind.tokenizer, TokenLayout(problem=6, answer=5))
