"""Parsing of typed problems, limits of an encoder, and withheld answers."""

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.cli.app import run
from flows.cli.grammar import read
from flows.cli.verbs.solve import Style, _BatchSize, _first_lines, _reason, nothing_to_continue, read_problem
from model.evaluation.predictor import Solution, TrainedEncoder
from model.runs.pretrained import shipped_runs
from model.training.trainer import train
from pipelines.spec.corpus import CorpusSpec
from pipelines.split.reserved import listing
from storage.errors import UserError
from storage.places.place import Location
from tests.builders import TINY_TRAINING, Built, build_small
from tests.flows.test_command import assert_one_line, numerate
from tests.model.runs import job_of

Solved = Callable[..., tuple[int, str, str]]

NESTED = CorpusSpec(
    name="nested",
    family="expression",
    terms=4,
    digits=2,
    depth=2,
    operators=("+", "-", "*"),
    rows=4_000,
    rows_per_shard=2_000,
    validation=0.1,
    test=0.1,
)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build_small(tmp_path_factory.mktemp("nested"), NESTED)


@pytest.fixture(scope="module")
def unsure(nested: Built, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A run that was trained, for a few steps, on expressions: on no machine is it sure of an answer."""
    job = job_of(nested, tmp_path_factory.mktemp("runs"), TINY_TRAINING)
    train(job)
    return job.run


@pytest.fixture(scope="module")
def expressions(unsure: Location) -> TrainedEncoder:
    return TrainedEncoder.open(unsure)


def problems_of(built: Built) -> list[str]:
    return [text for path in built.corpus.paths("train") for text in pq.read_table(path)["problem"].to_pylist()]


def test_every_problem_of_a_corpus_can_be_parsed_and_solved(nested: Built, expressions: TrainedEncoder) -> None:
    problems = problems_of(nested)
    assert any("(" in problem for problem in problems)
    assert any(problem.startswith("-") for problem in problems)
    for problem in [*problems[:500], *(case.text for case in listing("edge")[:100])]:
        assert read(problem).text == problem
    for problem in problems[:50]:
        assert read_problem(expressions, problem) == problem
    assert len(expressions.solve(problems[:50])) == 50


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("007+5", "7+5"),
        ("00-05", "0-5"),
        ("10+100", "10+100"),
        ("0*000", "0*0"),
        ("(0100-001)*00", "(100-1)*0"),
        ("-02 - 0010 =", "-2-10"),
    ],
)
def test_leading_zeros_are_removed(typed: str, text: str) -> None:
    assert read(typed).text == text


@pytest.mark.parametrize(("typed", "text"), [("2×3", "2*3"), ("4·5 − 6", "4*5-6"), ("−7–8", "-7-8"),
    ("2x3", "2*3"), ("2⋅3=?", "2*3"), ("\ufeff1＋２ = ?", "1+2"), ("（1－2）＊3＝", "(1-2)*3")],
)  # fmt: skip
def test_signs_are_read_as_people_type_them(typed: str, text: str) -> None:
    assert read(typed).text == text


@pytest.mark.parametrize("text", ["--5", "3---4", "(5)", "-(-7)", "12"])
def test_an_encoder_that_rewrites_also_reads_chains_of_minuses_and_single_numbers(text: str) -> None:
    assert read(text, chains=True).text == text
    with pytest.raises(UserError):
        read(text)


@given(st.text(alphabet="12 +-*()", max_size=12))
def test_parser_accepts_exactly_the_valid_expressions(text: str) -> None:
    expected = is_expression(text)
    try:
        found = read(text)
    except UserError:
        assert expected is not True
        return
    assert expected is not False
    assert found.text == re.sub(r"\s", "", text)
    assert found.signed == any(isinstance(node, ast.UnaryOp) for node in ast.walk(ast.parse(found.text)))


def is_expression(text: str) -> bool | None:
    """Whether Python parses the text; None if it accepts more signs: +5 and any number of minuses."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except SyntaxError:
        return False
    if any(isinstance(node, ast.Call | ast.Tuple | ast.Pow) for node in nodes):
        return False
    signs = [node for node in nodes if isinstance(node, ast.UnaryOp)]
    if any(isinstance(sign.op, ast.UAdd) or isinstance(sign.operand, ast.UnaryOp) for sign in signs):
        return None
    return any(isinstance(node, ast.BinOp) for node in nodes)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("", "it is empty"),
        ("twelve", "'t' at 1 is not a digit"),
        ("7/2", "'/' at 2"),
        ("1+", "a number is missing at its end"),
        ("1+*2", "a number is missing before '*' at 3"),
        ("1---2", "a number is missing before '-' at 4"),
        ("12", "there is no operator"),
        ("1 2+3", "an operator is missing before '2' at 3"),
        ("(1+2", "the bracket at 1 is never closed"),
        ("1+2)", "the bracket at 4 was never opened"),
        ("2(3+4)", "an operator is missing before '(' at 2"),
        ("()+1", "a number is missing before the bracket at 2"),
        ("1=2", "'=' at 2"),
        ("1+2" + "0" * 99 + "y", "'y' at 103"),
    ],
)
def test_error_names_the_position_in_one_line(problem: str, words: str) -> None:
    with pytest.raises(UserError) as failure:
        read(problem)
    assert words in str(failure.value)
    assert "\n" not in str(failure.value)
    assert len(str(failure.value)) < 200


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("(1+2)", "brackets nested 1 deep, but the run was trained on up to 0"),
        ("1+-2", "a minus before an operand, run 'addition' was trained without"),
        ("3*4", r"has \*, run 'addition' was trained only on \+"),
    ],
)
def test_operators_and_signs_outside_the_training_are_rejected(problem: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        read_problem(TrainedEncoder.open(shipped_runs()["addition"]), problem)


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        ("((1+(2+3))*4)", "brackets nested 3 deep, but the run was trained on up to 2"),
        ("1+2+3+4+5", "5 operands"),
        ("123-4", "3 digits"),
    ],
)
def test_problem_larger_than_the_trained_expressions_is_rejected(
    expressions: TrainedEncoder, problem: str, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        read_problem(expressions, problem)


@pytest.mark.parametrize("below", [-0.1, 1.1, float("nan")])
def test_invalid_confidence_is_rejected(below: float) -> None:
    with pytest.raises(UserError, match="a confidence is between 0 and 1"):
        Style(abstain_below=below)


def test_answers_with_low_confidence_are_withheld() -> None:
    assert not Style().withholds(Solution("1", 0.0))
    assert not Style(abstain_below=0.5).withholds(Solution("1", 0.5))
    assert Style(abstain_below=0.5).withholds(Solution("1", 0.49))
    assert Style(abstain_below=0.5).withholds(Solution("1", float("nan")))


def test_withheld_answer_is_a_question_mark_or_null(
    unsure: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def solve(*arguments: str) -> tuple[str, str]:
        assert run(["solve", *arguments]) == 0
        return capsys.readouterr()

    sure = json.loads(solve("12+34+5+99", "--json", "--abstain-below", "0.5")[0])
    assert (sure["answer"], sure["abstained"]) == ("150", False)
    asked = ("1+2", "--run", str(unsure), "--abstain-below")
    given = json.loads(solve(*asked, "0", "--json")[0])
    assert not given["abstained"]
    assert 0 < given["confidence"] < 1
    withheld = json.loads(solve(*asked, "1", "--json")[0])
    assert withheld == {**given, "answer": None, "abstained": True}
    answer, remark = solve(*asked, "1")
    assert answer == "?\n"
    assert re.fullmatch(r"\(run run, step 12, only \d+\.\d % sure\)\n", remark.replace("%", " %"))


@pytest.mark.slow
def test_stream_prints_a_question_mark_per_withheld_answer(unsure: Location, tmp_path: Path) -> None:
    problems = "12+34\n1+2\n"
    result = numerate("solve", "--run", str(unsure), "--abstain-below", "1", stdin=problems, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (0, "?\n?\n")
    assert_one_line(numerate("solve", "1+2", "--abstain-below", "2", cwd=tmp_path), 2, "abstain-below is 2.0")


@pytest.fixture
def solved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Solved:
    """Solve a stream in an empty folder; returns the exit code, the output and the messages."""
    monkeypatch.chdir(tmp_path)

    def solve(stream: str, *options: str) -> tuple[int, str, str]:
        (tmp_path / "problems").write_text(stream)
        with (tmp_path / "problems").open() as problems:
            monkeypatch.setattr(sys, "stdin", problems)
            code = run(["solve", *options])
        return code, *capsys.readouterr()

    return solve


def test_messages_of_a_stream_name_the_line(solved: Solved) -> None:
    code, answers, messages = solved("1+2\n\n3/4\n5*(6\n7*8")
    assert code == 2
    assert answers == "3\n\n\n\n56\n"
    assert [line.partition("problem")[0] for line in messages.splitlines()] == [
        "error: line 3: ",
        "error: line 4: ",
        "error: 2 lines could not be answered: the answer of each is an empty line",
    ]


def test_every_line_of_a_json_stream_is_an_object(solved: Solved) -> None:
    code, answers, _ = solved("1+2\n\n3/4\n", "--json")
    assert code == 2
    found = [json.loads(line) for line in answers.splitlines()]
    assert [each["answer"] for each in found] == ["3", None, None]
    assert (found[1]["error"], found[2]["problem"]) == ("the line is empty", "3/4")
    assert "'/' at 2 is not a digit" in found[2]["error"]


def test_much_longer_line_does_not_delay_those_before_it() -> None:
    short, product = ["1+2", "34*(5-6)"], f"{'9' * 80}*{'8' * 80}"
    assert _first_lines([*short, product, *short], 64) == short
    assert _first_lines([product, *short], 64) == [product, *short]
    assert _first_lines(short * 50, 64) == (short * 50)[:64]
    for lines in ([product], short):
        assert _first_lines(lines, 1) == lines[:1]


@pytest.mark.parametrize("damage", ["no checkpoint", "truncated checkpoint", "damaged configuration"])
def test_shipped_encoder_answers_if_the_run_of_the_same_name_cannot(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "workspace" / "runs" / "arithmetic"
    shutil.copytree(str(shipped_runs()["arithmetic"]), own)
    (checkpoint,) = own.glob("checkpoints/*.safetensors")
    if damage == "no checkpoint":
        shutil.rmtree(own / "checkpoints")
    elif damage == "truncated checkpoint":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    else:
        (own / "run.json").write_text("{")
    for words in (["2*(3+4)"], ["2*(3+4)", "--trace"]):
        assert run(["solve", *words]) == 0
        answer, messages = capsys.readouterr()
        assert answer.splitlines()[-1] == "14"
        assert "(run arithmetic, step 9,000)" in messages
        assert messages.count("warning: ") == (damage == "truncated checkpoint")
    # The named run has no other to answer for it.
    assert run(["solve", "1+2", "--run", "arithmetic"]) != 0


def test_words_of_a_problem_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, answer in ((["12", "+", "3"], "15"), (["12", "-", "3"], "9"), (["--5"], "5"), (["-5+3"], "-2")):
        assert run(["solve", *words]) == 0
        assert capsys.readouterr().out == f"{answer}\n"


def test_interrupted_solve_does_not_speak_of_continuing() -> None:
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted$"), nothing_to_continue():
        raise KeyboardInterrupt


def test_a_trace_needs_an_encoder_that_rewrites(
    unsure: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for other in (str(unsure), "addition"):
        assert run(["solve", "1+2", "--trace", "--run", other]) == 2
        assert "answers at once and has no trace: leave out --trace or --run" in capsys.readouterr().err
    assert run(["solve", "2*(3+4)", "--trace"]) == 0
    assert capsys.readouterr().out.splitlines() == ["2*(3+4)", "2*(7)", "2*7", "14"]


def test_the_confidence_of_a_withheld_answer_is_rounded_down() -> None:
    for confidence, shown in ((0.99999, "99.9%"), (0.5, "50.0%"), (float("nan"), "nan%")):
        assert _reason(Solution("1", confidence)) == f"only {shown} sure"


def test_input_without_line_breaks_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # Endless: it was read until memory ended.
    with open("/dev/zero") as zeros:
        monkeypatch.setattr(sys, "stdin", zeros)
        assert run(["solve"]) == 2
    assert capsys.readouterr() == (
        "",
        "error: a line has more than 1,048,576 characters: write one problem per line\n",
    )


def test_a_stream_goes_on_after_lines_that_are_no_problem(tmp_path: Path) -> None:
    bad = ["2.5+1", "7/2", "2*(3+4", "abc", "", f"{'1' * 100_000}+1"]
    result = numerate("solve", "--trace", stdin="\n".join(["1+2", *bad, "2*3"]), cwd=tmp_path)
    assert result.returncode == 2
    # The long line begins a batch of its own. An empty line follows every answer.
    assert result.stdout == "1+2\n3\n\n" + "\n\n" * len(bad) + "2*3\n6\n\n"
    *lines, last = result.stderr.splitlines()
    assert [line.split(":")[1] for line in lines] == [f" line {number}" for number in (2, 3, 4, 5, 7)]
    assert all(len(line) < 400 for line in lines)
    assert last == "error: 5 lines could not be answered: the answer of each is an empty line"


def test_batches_of_a_stream_grow_while_they_are_fast() -> None:
    size = _BatchSize()
    for seconds, most in ((1, 128), (19, 256), (30, 256), (61, 128), (0.1, 256)):
        size.adapt(size.most, seconds)
        assert size.most == most
    # A batch that was not full says nothing.
    size.adapt(3, 0.1)
    assert size.most == 256


def test_a_missing_run_is_an_error_before_any_line_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["solve", "--run", "../nowhere"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.fullmatch(r"error: run 'nowhere' does not exist \([^\n]+\n", shown.err)
