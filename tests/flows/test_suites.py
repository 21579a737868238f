import re
from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from flows.common.parameters import EvaluateRequest, SuiteName
from flows.common.rewriting_suites import CELLS
from flows.common.suites import fair_to, prepare, suite_of
from flows.evaluate_encoder import evaluate_encoder
from flows.reports.evaluation.suite_figures import edge_figure, grid_cells, grid_figure, kind_cells
from model.config.encoder import EncoderConfig
from model.config.evaluation import EvaluationSpec
from model.evaluation.evaluate import Evaluation, evaluate
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.problem_batches import ProblemSet
from model.runs.pretrained import shipped_runs
from model.runs.run_config import RunConfig, load_run
from model.tokenizer import Tokenizer
from pipelines.generation.build import spec_of
from pipelines.generation.generate import canonical_hashes, generator_version
from pipelines.spec.presets import CORPORA
from pipelines.split.canonical import Canonical
from pipelines.split.parse import canonical_form, text_hashes
from pipelines.split.reserved import listing
from pipelines.tokens.vocabulary import train_pieces
from storage.datasets.manifest import SPLITS
from storage.errors import UserError
from storage.workspace import Workspace

ADDITION = load_run(shipped_runs()["addition"])


def config_of(corpus: str, encoder: EncoderConfig | None = None, version: int = 0) -> RunConfig:
    """The configuration of a run on a preset's corpus, with an encoder for any length and its version by default."""
    training = ADDITION.training.model_copy(update={"encoder": encoder or ADDITION.training.encoder})
    identity = CORPORA[corpus].identity()
    spec = {**identity, "generator_version": version or generator_version(identity)}
    return ADDITION.model_copy(update={"name": "mine", "corpus_spec": spec, "training": training})


Made = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """The rows of a suite for a run on a preset's corpus; each suite is made once, and not to be changed by a test."""

    @cache
    def rows(corpus: str, name: SuiteName, digits: int = 0) -> list[dict[str, Any]]:
        config, tokenizer = config_of(corpus), Tokenizer(train_pieces([]))
        workspace = Workspace.create(str(tmp_path_factory.mktemp(name)))
        made, tokens = prepare(workspace, config, tokenizer, suite_of(config, name, digits))
        assert made.manifest.rows == made.manifest.split_rows["test"] == tokens.manifest.rows
        return [row for path in made.paths("test") for row in pq.ParquetFile(path).read().to_pylist()]

    return rows


@pytest.mark.parametrize(
    ("name", "corpus", "digits"), [("grid", "signed-5", 12), ("edge", "long", 9), ("nested", "arithmetic", 0)]
)
def test_suite_has_only_test_rows_with_the_answers_of_python(
    made: Made, name: SuiteName, corpus: str, digits: int
) -> None:
    rows = made(corpus, name, digits)
    assert len(rows) > 200
    assert all(row["answer"] == str(eval(row["problem"])) for row in rows)


def test_adderboard_has_its_10_010_problems_in_order(made: Made) -> None:
    rows = sorted(made("addition-10", "adderboard"), key=lambda row: row["id"])
    assert [row["problem"] for row in rows] == [case.text for case in listing("adderboard")]
    assert Counter(row["kind"] for row in rows) == {"edge": 10, "random": 10_000}


def test_grid_has_held_out_problems_of_all_pairs_of_lengths(made: Made) -> None:
    rows = made("signed-5", "grid", 12)
    cells = Counter((row["operators"], *(len(number) for number in re.split(r"\D", row["problem"]))) for row in rows)
    # Short lengths have no more test problems than these.
    wide = {(o, a, b) for o in "+-" for a in range(1, 13) for b in range(1, 13) if a + b > 5}
    assert wide <= cells.keys()
    assert min(cells[cell] for cell in wide) >= 3


def test_nested_problems_are_one_to_three_brackets_deeper_than_trained(made: Made) -> None:
    rows = made("arithmetic", "nested", 0)

    def deepest(problem: str) -> int:
        return max(problem[:place].count("(") - problem[:place].count(")") for place in range(len(problem)))

    assert [row["depth"] for row in rows] == [deepest(row["problem"]) for row in rows]
    counts = Counter(row["depth"] for row in rows)
    assert counts.keys() == {4, 5, 6}
    assert min(counts.values()) > 500


@pytest.mark.parametrize(
    ("name", "config", "words"),
    [
        ("grid", config_of("notebook"), "has problems of 2 operands, run 'mine' was trained on 4"),
        ("nested", config_of("addition-10"), "has none: train a run on family 'expression'"),
        ("adderboard", config_of("multiplication"), r"has sums, run 'mine' was trained on \*"),
        ("edge", config_of("addition-10", EncoderConfig(operands=2, places=2)), ""),
    ],
)
def test_suite_that_does_not_fit_a_run_is_rejected(name: SuiteName, config: RunConfig, words: str) -> None:
    if not words:
        assert suite_of(config, name).corpus.parts[0].digits == 1
        return
    with pytest.raises(UserError, match=words):
        suite_of(config, name)


def test_problems_that_an_encoder_cannot_hold_are_left_out_with_a_remark(tmp_path: Path) -> None:
    config = config_of("signed-5", EncoderConfig(positions=("place-value",), places=8))
    suite = suite_of(config, "grid", 12)
    # A sum has a digit more than its operands.
    assert {part.operators: part.digits for part in suite.corpus.parts} == {("+",): 7, ("-",): 8}
    assert suite.remarks == (
        "+ up to 7 digits instead of 12: encoder.places is 8, 13 is needed",
        "- up to 8 digits instead of 12: encoder.places is 8, 12 is needed",
    )
    (remark,) = suite_of(config_of("addition-10"), "edge", 3).remarks
    assert re.fullmatch(rf"\d+ of the {len(listing('edge')):,} edge cases are evaluated: \+ up to 3 digits", remark)


def test_limits_of_an_encoder_count_groups_of_digits() -> None:
    config = config_of("signed-5", EncoderConfig(positions=("place-value",), places=8)).model_copy(update={"group": 2})
    suite = suite_of(config, "grid", 20)
    # Eight groups are sixteen digits.
    assert {part.operators: part.digits for part in suite.corpus.parts} == {("+",): 15, ("-",): 16}


def test_problems_that_an_older_generator_trained_on_are_left_out() -> None:
    assert fair_to(config_of("addition-10")) is None
    fair = fair_to(config_of("addition-10", version=4))
    assert fair
    # Reserved from the first, since version 5, the same beyond what was learnt, and by AdderBoard too.
    problems = ["99+1", "55+45", "55555555555+44444444445", "0+1"]
    hashes = text_hashes(pa.array(problems), Canonical("numerate"))
    assert fair(pa.table({"digits": [2, 2, 11, 1]}), hashes).tolist() == [True, False, True, True]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Evaluation, Path]]:
    """Results of the shipped encoder on small parts of the suites, and its predictions."""
    folder = tmp_path_factory.mktemp("evaluated")
    workspace, model = Workspace.create(str(folder)), TrainedEncoder.open(shipped_runs()["addition"])
    found = {}
    for name, digits, limit in (("grid", 12, 100), ("edge", 14, 0), ("adderboard", 0, 100)):
        corpus, tokens = prepare(workspace, model.config, model.tokenizer, suite_of(model.config, name, digits))  # type: ignore[arg-type]
        target = workspace.root / f"{name}.parquet"
        canonical = partial(canonical_hashes, spec_of(corpus))
        spec = EvaluationSpec(limit=limit)
        outcome = evaluate(
            model, ProblemSet(corpus, tokens, canonical, suite=name, fair=fair_to(model.config)), spec, target
        )
        found[name] = outcome, target.path
    return found


def test_shipped_adder_solves_every_suite(
    evaluated: dict[str, tuple[Evaluation, Path]],
) -> None:
    assert {name: outcome.correct for name, (outcome, _) in evaluated.items()} == {
        name: outcome.problems for name, (outcome, _) in evaluated.items()
    }
    assert evaluated["edge"][0].problems > 100
    assert sum(outcome.left_out for outcome, _ in evaluated.values()) == 0


def test_predictions_have_suite_split_and_checkpoint(evaluated: dict[str, tuple[Evaluation, Path]]) -> None:
    for name, (outcome, path) in evaluated.items():
        table = pq.read_table(path)
        rows = set(zip(*(table[column].to_pylist() for column in ("suite", "split", "checkpoint")), strict=True))
        assert rows == {(name, "test", "best")}
        assert len(table) == outcome.problems


def test_cells_of_both_figures_agree_with_the_predictions(evaluated: dict[str, tuple[Evaluation, Path]]) -> None:
    with duckdb.connect() as connection:
        for name in ("grid", "edge"):
            connection.register("scored", pq.read_table(evaluated[name][1]))
            rows = pq.read_table(evaluated[name][1]).to_pylist()
            kinds = sorted({row["kind"] for row in rows if row["kind"]})
            expected: dict[tuple[int, int], list[bool]] = {}
            for row in rows:
                first, second = (len(number) - 1 for number in row["problem"].split("+"))
                place = second if name == "grid" else kinds.index(row["kind"])
                column = first if name == "grid" else max(first, second)
                key = (place // 3, column // 3) if name == "grid" else (place, column // 3)
                expected.setdefault(key, []).append(row["correct"])
            cells = grid_cells(connection, "+", 3) if name == "grid" else kind_cells(connection, kinds, 3)
            assert {cell[:2]: cell[2:] for cell in cells} == {
                key: (len(correct), sum(correct)) for key, correct in expected.items()
            }
            assert "<svg" in (grid_figure(connection, {"+": 10}) if name == "grid" else edge_figure(connection, kinds))


def test_grid_of_missing_operands_has_the_cells_of_the_complete_problems(tmp_path: Path) -> None:
    workspace, model = Workspace.create(str(tmp_path)), TrainedEncoder.open(shipped_runs()["addition"])
    corpus, tokens = prepare(workspace, model.config, model.tokenizer, suite_of(model.config, "grid", 12))
    target, spec = workspace.root / "missing.parquet", EvaluationSpec(limit=100, missing="operand")
    evaluate(model, ProblemSet(corpus, tokens, partial(canonical_hashes, spec_of(corpus)), suite="grid"), spec, target)
    rows = pq.read_table(target.path).to_pylist()
    assert all(row["problem"].count("?") == row["problem"].count("=") == 1 for row in rows)
    expected = Counter[tuple[int, int]]()
    for row in rows:
        problem, _, _ = row["problem"].replace("?", row["answer"]).partition("=")
        first, second = (len(number) - 1 for number in problem.split("+"))
        expected[second // 3, first // 3] += 1
    with duckdb.connect() as connection:
        connection.register("scored", pq.read_table(target.path))
        assert {cell[:2]: cell.problems for cell in grid_cells(connection, "+", 3)} == expected
        assert "<svg" in grid_figure(connection, {"+": 10})


@pytest.mark.usefixtures("recorded")
def test_a_grid_of_missing_operands_has_a_report(tmp_path: Path) -> None:
    values = {"name": "addition", "suite": "grid", "suite_digits": 12, "limit": 100, "missing": "operand"}
    report = evaluate_encoder.fn(EvaluateRequest(workspace=str(tmp_path), **values))
    assert (report["missing"], report["problems"] + report["left_out"]) == ("operand", 100)
    (page,) = tmp_path.glob("runs/shipped-addition/evaluations/*missing-operand/report/index.html")
    assert "Exact match by the lengths of both operands" in page.read_text()


def test_breakdown_adds_up_to_the_total(evaluated: dict[str, tuple[Evaluation, Path]]) -> None:
    outcome, path = evaluated["edge"]
    assert {"digits", "carries", "kind"} <= outcome.breakdown.keys()
    rows = pq.read_table(path).to_pylist()
    for column, groups in outcome.breakdown.items():
        right = Counter(row[column] for row in rows if row["correct"])
        assert {group.value: group.problems for group in groups} == Counter(row[column] for row in rows)
        assert all(group.correct == right[group.value] for group in groups)
        assert all(group.interval[0] <= group.exact_match <= group.interval[1] for group in groups)
        assert len({canonical_form(row["problem"]) for row in rows}) == outcome.classes


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"suite": "grid", "corpus": "x"}, "has its own corpus: omit corpus 'x'"),
        ({"suite": "edge", "split": "train"}, "chooses its problems itself: omit split 'train'"),
        ({"suite_digits": 4}, "suite_digits applies to suites grid and edge, not to 'test'"),
        ({"suite": "none"}, "'test', 'grid', 'edge', 'adderboard', 'nested', 'expressions'"),
        ({"compare": ("a", "a")}, "lists a run twice"),
    ],
)
def test_contradictory_request_is_rejected(values: dict, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        EvaluateRequest(**values)


REWRITING = load_run(shipped_runs()["arithmetic"])


@pytest.mark.parametrize("name", ["special", "small", "long", "chains"])
def test_suites_of_an_encoder_that_rewrites_have_the_problems_that_they_name(name: SuiteName, tmp_path: Path) -> None:
    suite = suite_of(REWRITING, name)
    corpus, _ = prepare(Workspace.create(str(tmp_path)), REWRITING, Tokenizer(train_pieces([])), suite)
    rows = [row for split in SPLITS for path in corpus.paths(split) for row in pq.ParquetFile(path).read().to_pylist()]
    assert all(row["answer"] == str(eval(row["problem"])) for row in rows)
    if name == "small":
        pairs = {f"{a}{operator}{b}" for a in range(100) for b in range(100) for operator in "+-*"}
        sums = {"+".join(digits) for digits in product("0123456789", repeat=4)}
        assert sorted(row["problem"] for row in rows) == sorted(pairs | sums)
        assert suite.split == "all"
        return
    assert corpus.manifest.rows == corpus.manifest.split_rows["test"] > 1_000
    if name == "long":
        lengths = Counter(len(number) for row in rows for number in re.findall("[0-9]+", row["problem"]))
        assert lengths.keys() == {200, 1_000}
        assert lengths[1_000] > 150
    elif name == "chains":
        kinds = Counter(row["kind"] for row in rows)
        assert set(kinds) == {"carry chain", "chain without a carry", "borrow chain", "chain without a borrow"}
        assert min(kinds.values()) >= 1_000
    else:
        assert Counter(row["kind"] for row in rows).keys() == set(_SPECIAL)
        for row in rows:
            left, right = row["problem"].split("*")
            assert re.fullmatch(_SPECIAL[row["kind"]], left)
            assert any(re.fullmatch(pattern, right) for pattern in _SPECIAL.values())


_SPECIAL = {
    "repeated digit": r"(\d)\1+",
    "nines": r"9*(9|8|7)9*(9|8|7)?",
    "inner zeros": r"[1-9]0+[1-9]",
    "near a power of ten": r"10*|9+|10*1|1[01]|9",
}


def test_suites_for_rewriting_say_what_they_need() -> None:
    for name in ("products", "expressions"):
        with pytest.raises(UserError, match=r"needs an encoder that rewrites.* or evaluate 'arithmetic'"):
            suite_of(ADDITION, name)
    sums = REWRITING.model_copy(update={"corpus_spec": {**REWRITING.corpus_spec, "mixture": _only_sums(REWRITING)}})
    with pytest.raises(UserError, match="other operators than run 'arithmetic' was trained on, which are \\+"):
        suite_of(sums, "products")
    assert [part.operators for part in suite_of(sums, "small").corpus.parts] == [("+",), ("+",)]
    assert all(cells.parts_for(("+", "-", "*")) for cells in CELLS.values())


def _only_sums(config: RunConfig) -> list[dict[str, Any]]:
    return [{**part, "operators": ["+"]} for part in config.corpus_spec["mixture"]]


def test_edge_suite_of_a_grid_of_four_numbers_has_all_corners(tmp_path: Path) -> None:
    config = config_of("notebook", EncoderConfig())
    suite = suite_of(config, "edge")
    assert suite.split == "all"
    corpus, _ = prepare(Workspace.create(str(tmp_path)), config, Tokenizer(train_pieces([])), suite)
    paths = [path for split in ("train", "validation", "test") for path in corpus.paths(split)]
    rows = [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]
    found = {(row["problem"], row["answer"]) for row in rows}
    small = product(range(10), repeat=4)
    large = product(range(90, 100), repeat=4)
    assert len(rows) == len(found) == 20_000
    assert found == {("+".join(map(str, numbers)), str(sum(numbers))) for numbers in (*small, *large)}
