"""Marks against two oracles in plain Python: a tree with operands that are literals, and a regular expression."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.hub.dataset_card import corpus_card
from flows.reports.corpus import sample_of
from flows.reports.evaluation.section import _figures
from model.evaluation.evaluate import Evaluation
from model.tokenizer import Tokenizer
from pipelines.generation.describe import describe
from pipelines.generation.generate import sample_rows
from pipelines.problems.components import components
from pipelines.problems.rewriting.mark_rules import marks_and_counts, marks_of
from pipelines.problems.rewriting.marks import Marks
from pipelines.spec.corpus import LONGEST_CHAIN, CorpusSpec, ProblemSpec
from pipelines.spec.presets import CORPORA
from pipelines.split.canonical import Canonical
from pipelines.split.parse import canonical_form, text_hashes
from pipelines.tokens.vocabulary import train_pieces
from storage.sql.query import open_catalog
from storage.workspace import Workspace
from tests.builders import TOKENIZERS, build_corpus_plainly, build_small
from tests.pipelines.mark_oracles import by_rules, by_tree, carried_out, marks_at, spans_in, with_brackets

CANONICAL = Canonical("numerate")
LITERAL = re.compile(r"-?(0|[1-9]\d*)")
OPERATORS = st.lists(st.sampled_from("+-*"), min_size=1, max_size=3, unique=True).map(tuple)


@st.composite
def specs(draw: st.DrawFn) -> ProblemSpec:
    terms, digits = draw(st.integers(2, 9)), draw(st.integers(1, 26))
    return ProblemSpec(
        family="marks", terms=terms, min_terms=draw(st.integers(2, terms)), digits=digits,
        min_digits=draw(st.integers(1, digits)), depth=draw(st.integers(0, 5)), operators=draw(OPERATORS),
        whole_brackets=draw(st.booleans()),
    )  # fmt: skip


def rows_of(spec: ProblemSpec, key: int, rows: int = 150) -> pa.Table:
    family, positions = Marks(spec, CANONICAL, key, 10**9), np.arange(rows, dtype=np.uint64)
    return family.table(positions, family.problems(positions))


@given(spec=specs(), key=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_marks_are_the_operations_whose_operands_are_literals(spec: ProblemSpec, key: int) -> None:
    table = rows_of(spec, key)
    for row in table.to_pylist():
        text, marks = row["problem"], row["answer"]
        spans, others = by_tree(text), by_rules(text)
        if spec.whole_brackets:
            spans, others = with_brackets(text, spans), with_brackets(text, others)
        assert marks == marks_at(text, spans) == marks_at(text, others), text
        # Every span is a run of marks of its own: at least one character without a mark separates two.
        assert spans_in(marks) == spans
        assert row["marked"] == len(spans)
        assert row["finished"] == (not spans) == bool(LITERAL.fullmatch(text))


@given(spec=specs(), key=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_rows_are_described_by_python(spec: ProblemSpec, key: int) -> None:
    for row in rows_of(spec, key).to_pylist():
        text = row["problem"]
        numbers, binary = re.findall(r"\d+", text), re.findall(r"(?<=[\d)])[-+*]", text)
        assert row["value"] == str(eval(text))
        assert row["operators"] == "".join(binary)
        assert set(binary) <= set(spec.operators)
        assert row["terms"] == len(numbers) == len(binary) + 1
        assert row["terms"] in {1, *range(spec.min_terms, spec.terms + 1)}
        assert row["digits"] == max(map(len, numbers))
        assert all(spec.min_digits <= len(number) <= spec.digits for number in numbers)
        assert not any(re.match(r"0\d", number) for number in numbers)
        assert row["depth"] == max(text[:place].count("(") - text[:place].count(")") for place in range(len(text)))
        assert row["depth"] <= spec.depth
        assert row["signs"] == text.count("-") - binary.count("-")
        assert row["signs"] == 0 or "-" in spec.operators
        assert not re.search(r"(?<![\d)])-0", text)
        assert not row["negative"]
        assert row["answer_digits"] == len(row["answer"]) == len(text)
        assert len(text) <= spec.most_tokens(1)[0] == spec.most_tokens(1)[1] - 1


@given(spec=specs(), key=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_repeated_marks_end_in_the_value(spec: ProblemSpec, key: int) -> None:
    table = rows_of(spec, key)
    texts, values = table["problem"].to_pylist(), table["value"].to_pylist()
    passes, limit = 0, max(map(len, texts))
    while True:
        marks = marks_of(pa.array(texts), spec.whole_brackets).to_pylist()
        if not any("^" in mark for mark in marks):
            break
        texts = [carried_out(text, mark) for text, mark in zip(texts, marks, strict=True)]
        assert [str(eval(text)) for text in texts] == values
        passes += 1
        assert passes <= limit
    assert all(LITERAL.fullmatch(text) for text in texts)
    # The span '-(0)' has the value 0, so '--(0)' becomes '-0'.
    assert ["0" if text == "-0" else text for text in texts] == values


@given(spec=specs(), key=st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_hashes_are_those_of_the_text_and_equal_only_for_equal_forms(spec: ProblemSpec, key: int) -> None:
    family, positions = Marks(spec, CANONICAL, key, 10**9), np.arange(100, dtype=np.uint64)
    problems = family.problems(positions)
    texts = family.table(positions, problems)["problem"].combine_chunks()
    hashes = family.canonical(problems)
    assert np.array_equal(hashes, text_hashes(texts, CANONICAL))
    forms = [canonical_form(text) for text in texts.to_pylist()]
    assert len(set(forms)) == len(set(hashes.tolist())) == len(set(zip(forms, hashes.tolist(), strict=True)))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("---(2+3)", "-(2+3)"), ("((3))", "3"), ("3*-4", "-(3*4)"), ("--5", "5"), ("5--2", "5+2"),
        ("(2*3)+1", "1+3*2"), ("-(-12)", "12"), ("((3+4))", "4+3"), ("(-2)*(-(-3))", "-2*3"),
        ("1-(-(2-3))", "1+2-3"), ("-(2*(3))*4", "-2*3*4"),
    ],
)  # fmt: skip
def test_redundant_brackets_and_chains_of_signs_vanish_in_the_canonical_form(text: str, plain: str) -> None:
    first, second = text_hashes(pa.array([text, plain]), CANONICAL)
    assert first == second
    assert canonical_form(text) == canonical_form(plain)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("12*(3+45)-7", "....^^^^..."), ("12*(48)-7", "...^^^^.."), ("-57", "..."), ("0", "."), ("-0", ".."),
        ("3*-0", "^^^^"), ("--5", "^^^"), ("---5", ".^^^"), ("5--2", "^^^^"), ("5---2", "..^^^"), ("4*--5", "..^^^"),
        ("-(-12)", "^^^^^^"), ("--(3)", ".^^^^"), ("((5))", ".^^^."), ("-((5))", "..^^^."), ("-(2)*3", "^^^^.."),
        ("2*3*4", "^^^.."), ("-2*3", "^^^^"), ("--2*3", "^^^.."), ("1-2*3", "..^^^"), ("1-2-3", "^^^.."),
        ("1+2*(3)", "....^^^"), ("(1+2)*(3-4)", ".^^^...^^^."),
    ],
)  # fmt: skip
def test_marks_of_small_expressions(text: str, marks: str) -> None:
    assert marks_of(pa.array([text])).to_pylist() == [marks]
    assert marks_at(text, by_tree(text)) == marks_at(text, by_rules(text)) == marks


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("12*(3+45)-7", "...^^^^^^.."), ("2-(-3*-4)", "..^^^^^^^"), ("(1+2)*(3-4)", "^^^^^.^^^^^"),
        ("-(3-3)", "..^^^."), ("4*-(3+1)", "....^^^."),
        ("(2*3*4)", ".^^^..."), ("(1+2*3)", "...^^^."), ("((5))", ".^^^."), ("((5--2))", ".^^^^^^."), ("(1+2", ".^^^"),
    ],
)  # fmt: skip
def test_an_operation_that_fills_a_bracket_is_marked_with_it(text: str, marks: str) -> None:
    assert marks_of(pa.array([text]), whole_brackets=True).to_pylist() == [marks]


EXPRESSIONS = st.recursive(
    st.from_regex(r"-{0,3}(0|[1-9][0-9]{0,3})", fullmatch=True),
    lambda inner: st.one_of(
        st.builds("{}({})".format, st.sampled_from(["", "-", "--", "---"]), inner),
        st.builds("{}{}{}".format, inner, st.sampled_from("+-*"), inner),
    ),
    max_leaves=12,
)


@given(st.lists(EXPRESSIONS | st.just(""), max_size=12), st.integers(0, 3), st.booleans())
@settings(max_examples=400, deadline=None)
def test_marks_of_any_column_are_those_of_each_text(texts: list[str], offset: int, whole_brackets: bool) -> None:
    column = pa.array([*["1+2"] * offset, *texts], pa.string()).slice(offset)
    marks, counts = marks_and_counts(column, whole_brackets)
    expected = [by_tree(text) if text else [] for text in texts]
    if whole_brackets:
        expected = [with_brackets(text, spans) for text, spans in zip(texts, expected, strict=True)]
    assert marks.type == pa.string()
    assert marks.to_pylist() == [marks_at(text, spans) for text, spans in zip(texts, expected, strict=True)]
    assert counts.tolist() == [len(spans) for spans in expected]


@given(EXPRESSIONS, st.booleans())
@settings(max_examples=300, deadline=None)
def test_marked_spans_cover_whole_numbers_and_never_touch(text: str, whole_brackets: bool) -> None:
    (marks,) = marks_of(pa.array([text]), whole_brackets).to_pylist()
    spans = with_brackets(text, by_rules(text)) if whole_brackets else by_rules(text)
    assert spans_in(marks) == spans
    for (_, end), (begin, _) in pairwise(spans):
        assert end < begin
        assert re.search(r"[-+*]", text[end:begin])
    for number in re.finditer(r"\d+", text):
        assert len({*marks[number.start() : number.end()]}) == 1


def test_columns_of_many_blocks_have_the_same_marks() -> None:
    texts = rows_of(CORPORA["marks"].parts[0], 1, 3_000)["problem"].to_pylist()
    column = pa.array(texts * 8)
    assert column.nbytes > 1 << 19
    marks, counts = marks_and_counts(column)
    assert marks.to_pylist() == [marks_at(text, by_rules(text)) for text in texts] * 8
    assert counts.tolist() == [mark.count(".^") + mark.startswith("^") for mark in marks.to_pylist()]


@given(spec=specs(), key=st.integers(0, 99), step=st.integers(1, 60))
@settings(max_examples=20, deadline=None)
def test_a_row_does_not_depend_on_its_block(spec: ProblemSpec, key: int, step: int) -> None:
    family, positions = Marks(spec, CANONICAL, key, 10**9), np.arange(120, dtype=np.uint64)
    whole = family.problems(positions)
    table = family.table(positions, whole)
    parts = [positions[first : first + step] for first in range(0, 120, step)]
    assert table.equals(
        pa.concat_tables([family.table(part, family.problems(part)) for part in parts]).combine_chunks()
    )
    chosen = np.array([100, 3, 3, 57])
    assert table.take(pa.array(chosen)).equals(family.table(positions[chosen], whole.take(chosen)))


SAMPLE = CORPORA["marks"].model_copy(update={"rows": 100_000})


@pytest.fixture(scope="module")
def sample() -> list[dict]:
    table, _ = sample_rows(SAMPLE, components(SAMPLE)[0], 30_000)
    return table.to_pylist()


def redundant(text: str) -> bool:
    """Whether a pair of brackets without a minus before it can be left out."""
    for opening in re.finditer(r"(?<!-)\(|(?<=[\d)]-)\(", text):
        deep, place = 1, opening.end()
        while deep:
            deep += (text[place] == "(") - (text[place] == ")")
            place += 1
        bare = text[: opening.start()] + text[opening.end() : place - 1] + text[place:]
        if canonical_form(bare) == canonical_form(text):
            return True
    return False


def test_all_kinds_of_states_occur(sample: list[dict]) -> None:
    shapes = Counter(re.sub(r"\d+", "N", row["problem"]) for row in sample)
    for shape in ["N", "-N", "N+N", "N-N", "N*N", "N--N", "N*-N", "--N", "---N", "(N)", "-(-N)", "((N))", "(N+N)"]:
        assert shapes[shape], shape
    for part in (
        r"\(N\)", r"\(\(N[-+*]N", r"\(N\*N\)[-+*]", r"(?<!N)--N", r"(?<!N)---\(N", r"-\(-N\)", r"\*-N", r"--N",
        r"^\(.*\)$",
    ):  # fmt: skip
        assert sum(count for shape, count in shapes.items() if re.search(part, shape)) >= 100, part
    assert len(shapes) > 20_000


def test_chains_of_all_lengths_occur_and_longer_ones_are_rarer(sample: list[dict]) -> None:
    chains = [chain for row in sample for chain in re.findall(r"(?:^|[(+*])(-+)(?=[\d(])", row["problem"])]
    counts = Counter(map(len, chains))
    assert sorted(counts) == [*range(1, LONGEST_CHAIN + 1)]
    assert counts[LONGEST_CHAIN] >= 50
    assert all(counts[length] > counts[length + 1] for length in range(1, LONGEST_CHAIN))


def test_kinds_of_states_have_their_shares(sample: list[dict]) -> None:
    def share(condition: object) -> float:
        return sum(map(bool, condition)) / len(sample)  # type: ignore[call-overload]

    finished = [row for row in sample if row["finished"]]
    assert share(row["finished"] for row in sample) == pytest.approx(0.03, abs=0.005)
    assert sum(row["signs"] for row in finished) / len(finished) == pytest.approx(0.5, abs=0.07)
    assert share(row["signs"] == 0 for row in sample) == pytest.approx(0.3, abs=0.03)
    assert 0.2 < share(row["signs"] >= max(2, row["terms"] / 2) for row in sample) < 0.4
    assert share(redundant(row["problem"]) for row in sample) == pytest.approx(1 / 3, abs=0.04)
    lengths = Counter(len(number) for row in sample for number in re.findall(r"\d+", row["problem"]))
    assert lengths[1] / lengths.total() == pytest.approx(1 / 3, abs=0.02)
    assert all(lengths[length] / lengths.total() == pytest.approx(2 / 33, abs=0.01) for length in range(2, 13))
    terms = Counter(row["terms"] for row in sample)
    assert terms[2] < terms[3] < terms[4] < terms[5] < terms[6]


def test_cards_and_reports_show_marks(tmp_path: Path) -> None:
    spec = SAMPLE.model_copy(update={"name": "marked", "rows": 2_000})
    workspace = Workspace.create(str(tmp_path / "workspace"))
    corpus = build_corpus_plainly(spec, workspace.corpus(spec.name))
    problem, answer = describe(spec).examples[0]["problem"], describe(spec).examples[0]["answer"]
    assert f"| `{problem}` | `{answer}` |" in corpus_card(corpus)
    page = sample_of(workspace, corpus, "problem", "answer", "carries", "depth")
    assert page.columns == ["problem", "answer", "depth"]
    assert page.rows[0][1] == marks_at(page.rows[0][0], by_rules(page.rows[0][0]))
    with open_catalog(workspace) as connection:
        query = "SELECT bool_and(finished = (marked = 0) AND length(problem) = answer_digits) FROM corpus_marked"
        assert connection.sql(query).fetchall() == [(True,)]


def test_an_evaluation_of_marks_has_no_figure_by_the_answers_value() -> None:
    outcome = cast(Evaluation, SimpleNamespace(breakdown={}))
    for answers, titles in (("('.'), ('^^^')", []), ("('12'), ('-3')", ["Exact match by answer"])):
        with duckdb.connect() as connection:
            connection.execute(f"CREATE TABLE scored AS SELECT true AS correct, * FROM (VALUES {answers}) t(answer)")
            assert [title for title, _ in _figures(connection, outcome)] == titles


@pytest.mark.parametrize("depth", [0, 15])
@pytest.mark.parametrize(("operators", "terms", "digits"), [(("-", "+"), 32, 300), (("*", "-"), 8, 60), (("*",), 2, 1)])
def test_large_and_small_specs_can_be_generated(operators: tuple, terms: int, digits: int, depth: int) -> None:
    shape = {"terms": terms, "min_terms": terms, "digits": digits, "min_digits": digits, "depth": depth}
    spec = ProblemSpec(family="marks", operators=operators, **shape)
    for row in rows_of(spec, 5, 40).to_pylist():
        assert row["answer"] == marks_at(row["problem"], by_rules(row["problem"]))
        assert row["value"] == str(eval(row["problem"]))


# Not with 'unigram': SentencePiece breaks ties, as of 2|22 and 22|2, by rounding errors of the whole text.
@pytest.mark.parametrize("kind", ["digit", "pairs", "triples", "bpe"])
def test_a_corpus_of_marks_is_encoded_exactly_with_one_token_for_each_mark(tmp_path: Path, kind: str) -> None:
    spec = CorpusSpec(
        name="small-marks", rows=4_000, rows_per_shard=2_000, validation=0.1, test=0.1,
        **{**CORPORA["marks"].parts[0].parameters(), "digits": 5, "depth": 1},
    )  # fmt: skip
    assert not {"^", "."} & set(Tokenizer(train_pieces(["1+2=3"], TOKENIZERS[kind])).pieces())
    built = build_small(tmp_path, spec, TOKENIZERS[kind])
    tokenizer = built.tokenizer
    assert {"^", "."} <= set(tokenizer.pieces())
    assert not [piece for piece in tokenizer.pieces() if len(piece) > 1 and re.search(r"[.^]", piece)]
    for text_shard, token_shard in zip(built.corpus.shards, built.tokens.shards, strict=True):
        text = pq.read_table((built.corpus.location / text_shard.path).path)
        tokens = pq.read_table((built.tokens.location / token_shard.path).path)
        layout = built.tokens.manifest.spec["layouts"][text_shard.stratum]
        for problem, answer, row in zip(
            *(text[name].to_pylist() for name in ("problem", "answer")), tokens["tokens"].to_pylist(), strict=True
        ):
            ids = np.frombuffer(row, tokenizer.id_type).tolist()
            slots = ids[layout["problem"] + 1 :]
            assert tokenizer.decode(ids[: layout["problem"]]).replace("[PAD]", "") == problem
            assert tokenizer.decode(slots).replace("[BLANK]", "") == answer
            assert len(slots) - slots.count(tokenizer.id_of("[BLANK]")) == len(answer)
