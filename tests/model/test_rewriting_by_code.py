"""References of evaluations: code that marks, and code that computes values."""

import ast
import random
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from flows.evaluate_encoder import paths_of
from model.config.evaluation import Decoding, EvaluationSpec
from model.evaluation.evaluate import decoding_text
from model.evaluation.predictor import TrainedEncoder, TrainedRewriter, open_trained
from model.evaluation.rewriting.by_code import MarksByCode, ValuesByCode, marked_parts, value_of
from model.evaluation.rewriting.trace import Trace
from model.runs.pretrained import shipped_runs
from model.runs.run_config import load_run
from model.tokenizer import MARK
from pipelines.problems.rewriting.mark_rules import marks_of
from storage.errors import UserError
from storage.places.opening import open_location
from tests.pipelines.mark_oracles import by_tree

PROBLEMS = ["12*(3+45)-7", "-(-(-3))", "(12-34)*-5+6", "--5--5", "2*-3*4", "7", "0-0", "-(0)", "999*999", "1-2-3-4"]


@pytest.fixture(scope="module")
def trained() -> TrainedRewriter:
    model = open_trained(shipped_runs()["arithmetic"])
    assert isinstance(model, TrainedRewriter)
    return model


def _expression(draw: random.Random, depth: int) -> str:
    if depth == 0 or draw.random() < 0.2:
        return "-" * draw.choice((0, 0, 0, 1, 1, 2, 3)) + str(draw.randint(0, 120))
    parts = draw.choice("+-*").join(_expression(draw, depth - 1) for _ in range(draw.randint(1, 3)))
    return f"{draw.choice(('', '-'))}({parts})" if draw.random() < 0.5 else parts


def test_marks_are_those_of_the_corpus_and_of_a_tree() -> None:
    draw = random.Random(3)
    states = [*PROBLEMS, *(_expression(draw, 4) for _ in range(3_000))]
    for state, marks in zip(states, marks_of(pa.array(states)).to_pylist(), strict=True):
        parts = marked_parts(state)
        assert "".join(text for _, text in parts) == state
        assert "".join((MARK if marked else ".") * len(text) for marked, text in parts) == marks.replace("^", MARK), (
            state
        )
        spans, begin = [], 0
        for marked, text in parts:
            if marked:
                spans.append((begin, begin + len(text)))
            begin += len(text)
        if len(state) < 200:
            assert spans == sorted(by_tree(state)), state


@pytest.mark.parametrize(
    ("operation", "value"),
    [("12+-5", "7"), ("-12--5", "-7"), ("3-45", "-42"), ("-3*-4", "12"), ("0*-7", "0"), ("-(-5)", "5"),
     ("(-5)", "-5"), ("-(5)", "-5"), ("(0)", "0"), ("-(0)", "0"), ("--5", "5"), ("007+1", "8"),
     ("(3+4)", "7"), ("(-3*-4)", "12")],
)  # fmt: skip
def test_value_of_an_operation(operation: str, value: str) -> None:
    assert value_of(operation) == value


def test_together_they_are_exact_arithmetic(trained: TrainedRewriter) -> None:
    class Both(MarksByCode, ValuesByCode):
        pass

    draw = random.Random(4)
    problems = [*PROBLEMS, *(_expression(draw, 3) for _ in range(300))]
    traces: list[Trace] = Both(trained.encoder, trained.tokenizer, torch.float32).traces(problems)
    for trace in traces:
        assert trace.answer == str(eval(trace.states[0])), (trace.states, trace.reason)


@pytest.mark.parametrize("decoding", [Decoding(marks="code"), Decoding(values="code")])
def test_shipped_encoder_answers_with_either_half_by_code(trained: TrainedRewriter, decoding: Decoding) -> None:
    found = trained.solve(PROBLEMS, decoding)
    assert [solution.answer for solution in found] == [str(eval(problem)) for problem in PROBLEMS]


def test_options_that_fit_no_encoder_are_refused(trained: TrainedRewriter) -> None:
    with pytest.raises(ValueError, match="nothing is left to the encoder"):
        Decoding(marks="code", values="code")
    with pytest.raises(UserError, match="whose only decoding options are marks and values: remove the others"):
        trained.solve(["1+1"], Decoding(marks="code", passes=2))
    plain = open_trained(shipped_runs()["signed"])
    assert isinstance(plain, TrainedEncoder)
    with pytest.raises(UserError, match="are for encoders that rewrite, but run 'signed' answers at once: remove them"):
        plain.solve(["1+1"], Decoding(values="code"))


def test_another_method_than_the_encoders_is_refused(trained: TrainedRewriter) -> None:
    plain = open_trained(shipped_runs()["signed"])
    rewriting, slots = (Decoding.model_validate(name) for name in ("rewriting", "slots"))
    assert (rewriting.method, slots.method) == ("rewriting", "slots")
    assert trained.solve(["12*(3+45)"], rewriting)[0].answer == "576"
    assert plain.solve(["3-45"], slots)[0].answer == "-42"
    with pytest.raises(UserError, match=r"run 'arithmetic' answers by rewriting: remove decoding.method"):
        trained.solve(["1+1"], slots)
    with pytest.raises(UserError, match="run 'signed' fills the slots of an answer: name a run whose encoder rewrites"):
        plain.solve(["1+1"], rewriting)


def test_the_method_alone_makes_no_other_evaluation(tmp_path: Path) -> None:
    config = load_run(shipped_runs()["arithmetic"])
    folders = [
        paths_of(open_location(str(tmp_path)), config, "suite.x", EvaluationSpec(decoding=decoding))
        for decoding in (Decoding(), Decoding(method="rewriting"), Decoding(marks="code"))
    ]
    assert folders[0] == folders[1] != folders[2]
    assert decoding_text(EvaluationSpec(decoding=Decoding(method="slots"))) == decoding_text(EvaluationSpec()) == ""


def test_answers_by_the_encoder_use_no_code() -> None:
    folder = Path(__file__).parents[2] / "model"
    users = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "model.evaluation.rewriting.by_code"
    }
    assert users == {"evaluation/predictor.py"}
    assert Decoding().marks == Decoding().values == "encoder"
