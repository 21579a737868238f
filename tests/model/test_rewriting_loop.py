"""The loop of a rewriting decides nothing by itself: it has no arithmetic, and uses the encoder's outputs alone."""

import ast
import random
from pathlib import Path

import pyarrow as pa
import pytest
import torch

import model.evaluation.rewriting.loop as loop
from model.config.presets import ENCODERS
from model.evaluation.rewriting.loop import Rewriter
from model.evaluation.rewriting.table import step_table, value_of
from model.evaluation.rewriting.trace import Step, Trace
from model.network.rewriting.encoder import RewritingEncoder, StepLogits
from model.network.rewriting.rows import MULTIPLY, SUBTRACT, Operations, Units
from model.tokenizer import MARK, REGISTER, UNMARKED, Tokenizer
from pipelines.problems.rewriting.mark_rules import marks_of
from pipelines.tokens.vocabulary import train_pieces

CONFIG = ENCODERS["rewriting"].model_copy(update={"width": 16, "heads": 2, "feedforward": 32})
IMPORTED = {
    "REGISTER", "Iterable", "Iterator", "Result", "RewritingEncoder", "Sequence", "Step", "Tensor", "Tokenizer",
    "Trace", "accumulate", "answering", "dataclass", "groupby", "mark_confidence", "math", "np", "of_similar_length",
    "re", "results_of", "torch",
}  # fmt: skip
CALLED = {
    # Texts, lists and tensors.
    "accumulate", "any", "append", "astype", "cpu", "dict", "extend", "findall", "float", "from_numpy", "fromkeys",
    "fullmatch", "groupby", "gt", "items", "iter", "join", "keys", "len", "list", "list[Trace]", "isinstance", "next",
    "parameters", "set", "to", "tolist", "values", "zip",
    # Names and logarithms of probabilities, and the probabilities' product.
    "compile", "dataclass", "prod",
    # The encoder, what it reads and what its outputs are.
    "answering", "logits", "mark", "mark_confidence", "of_similar_length", "operations", "results_of", "right_aligned",
    "settled", "units", "Step", "Trace",
    # This file's own.
    "ids", "_carried_out", "_filled", "_marked", "_rewritten",
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_pieces([f"12*3{REGISTER}45={MARK}{UNMARKED}"]))


class ByCode(RewritingEncoder):
    """An oracle in the place of the encoder: its logits come from the rules of marks, and from Python's integers."""

    def __init__(self, tokenizer: Tokenizer, digits_per_step: int = 1, whole_brackets: bool = False) -> None:
        super().__init__(CONFIG.model_copy(update={"digits_per_step": digits_per_step}), tokenizer)
        self.pieces, self.whole_brackets = tokenizer.pieces(), whole_brackets

    def mark(self, units: Units, loops: int) -> torch.Tensor:
        logits = torch.full(units.ids.shape, -9.0)
        for row, (ids, inside) in enumerate(zip(units.ids, units.inside, strict=True)):
            # Only the first digit of a number is read.
            text = "".join(self.pieces[number - 1] for number in ids[inside].tolist())
            marks = marks_of(pa.array([text]), self.whole_brackets).to_pylist()[0]
            logits[row, inside] = torch.tensor([9.0 if mark == MARK else -9.0 for mark in marks])
        return logits

    def settled(self, operations: Operations) -> torch.Tensor:
        return torch.zeros(0)

    def logits(self, operations: Operations, states: torch.Tensor) -> StepLogits:
        width = operations.fields.shape[2] - 2
        digits, ends = (
            torch.full((len(operations.places), width, 10), -9.0),
            torch.full((len(operations.places), 4), -9.0),
        )
        for row, fields in enumerate(operations.fields[:, :, 1:-1].tolist()):
            a, b, register = (int("".join(str(d) for d in reversed(field) if d < 10) or "0") for field in fields)
            length = int(operations.lengths[row, 1])
            signs = [-1 if negative else 1 for negative in operations.negative[row].tolist()]
            if operations.kind[row] == MULTIPLY:
                size = self.config.digits_per_step
                left = (length - 1) // size * size
                value = signs[0] * signs[1] * (10**size * register + a * (b // 10**left))
            else:
                value = signs[0] * a + signs[1] * b * (-1 if operations.kind[row] == SUBTRACT else 1)
            for place in range(width):
                digits[row, place, abs(value) // 10**place % 10] = 9.0
            ends[row, int(value < 0)] = 9.0
            ends[row, 2 + int(operations.kind[row] != MULTIPLY or length <= self.config.digits_per_step)] = 9.0
        return StepLogits(digits, ends, torch.zeros(0), torch.zeros(0))


def expression(rng: random.Random, numbers: int, depth: int) -> str:
    if numbers == 1:
        number = rng.choice(("", "", "-", "--")) + str(rng.randrange(10 ** rng.randint(1, 6)))
        return f"({number})" if depth and rng.random() < 0.2 else number
    left = rng.randint(1, numbers - 1)
    text = f"{expression(rng, left, depth)}{rng.choice('+-*')}{expression(rng, numbers - left, depth)}"
    return f"{rng.choice(('', '-'))}({text})" if depth and rng.random() < 0.5 else text


def test_the_loop_has_no_arithmetic_and_no_parser() -> None:
    source = Path(loop.__file__ or "").read_text()
    assert len(source.splitlines()) <= 120
    nodes = [*ast.walk(ast.parse(source))]
    operations = [node.op for node in nodes if isinstance(node, ast.BinOp)]
    # Only types are joined, by `|`.
    assert all(isinstance(operation, ast.BitOr) for operation in operations)
    assert not any(isinstance(node, ast.AugAssign) for node in nodes)
    called = {ast.unparse(node.func).split(".")[-1] for node in nodes if isinstance(node, ast.Call)}
    assert called <= CALLED
    # Only tensors have the method `float`.
    names = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert "float" not in names
    imports = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    assert {alias.asname or alias.name for alias in imports} <= IMPORTED


@pytest.mark.parametrize(("digits_per_step", "whole_brackets"), [(1, False), (1, True), (2, False), (4, True)])
def test_with_right_marks_and_right_values_every_answer_is_exact(
    tokenizer: Tokenizer, digits_per_step: int, whole_brackets: bool
) -> None:
    rng = random.Random(4)
    problems = [expression(rng, rng.randint(1, 12), rng.randint(0, 6)) for _ in range(300)]
    traces = Rewriter(ByCode(tokenizer, digits_per_step, whole_brackets), tokenizer, torch.float32).traces(problems)
    for problem, trace in zip(problems, traces, strict=True):
        assert (trace.answer or trace.reason) == str(eval(problem)), trace.states
        assert trace.states[0] == problem
        assert {value_of(state) for state in trace.states} == {eval(problem)}


def test_every_step_of_an_exact_trace_is_right_and_a_wrong_one_is_found(tokenizer: Tokenizer) -> None:
    traces = Rewriter(ByCode(tokenizer), tokenizer, torch.float32).traces(["12*(3+45)-7", "2+3*4"])
    rows = step_table([8, 9], traces).to_pylist()
    assert [(row["id"], row["step"], row["pass"], row["span"], row["result"]) for row in rows] == [
        (8, 1, 1, "3+45", "48"), (8, 2, 2, "(48)", "48"), (8, 3, 3, "12*48", "576"), (8, 4, 4, "576-7", "569"),
        (9, 1, 1, "3*4", "12"), (9, 2, 2, "2+12", "14"),
    ]  # fmt: skip
    assert all(row["right"] for row in rows)
    # A step that could not be carried out is wrong, even if the state has the same value without it.
    refused = Trace(["---5"], [[Step(0, "--", "", 0.0)]])
    assert [(row["result"], row["right"]) for row in step_table([1], [refused]).to_pylist()] == [(None, False)]
    wrong = Trace(["2+3*4", "5*4", "21"], [[Step(0, "2+3", "5", 1.0)], [Step(0, "5*4", "21", 1.0)]])
    assert [row["right"] for row in step_table([1], [wrong]).to_pylist()] == [False, False]


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_answer_nothing(tokenizer: Tokenizer, seed: int) -> None:
    encoder = RewritingEncoder(CONFIG, tokenizer)
    encoder.initialise(seed)
    rng = random.Random(seed)
    problems = [expression(rng, rng.randint(2, 6), 2) for _ in range(200)]
    traces = Rewriter(encoder, tokenizer, torch.float32).traces(problems)
    right = sum(trace.answer == str(eval(problem)) for problem, trace in zip(problems, traces, strict=True))
    assert right == 0
    assert all(bool(trace.answer) != bool(trace.reason) for trace in traces)


def test_what_the_encoder_marks_wrongly_is_an_abstention_with_a_reason(tokenizer: Tokenizer) -> None:
    class Everything(ByCode):
        def mark(self, units: Units, loops: int) -> torch.Tensor:
            return super().mark(units, loops).abs()

    class Nothing(ByCode):
        def mark(self, units: Units, loops: int) -> torch.Tensor:
            return -super().mark(units, loops).abs()

    class Unfinished(ByCode):
        def logits(self, operations: Operations, states: torch.Tensor) -> StepLogits:
            found = super().logits(operations, states)
            return found._replace(ends=found.ends[:, [0, 1, 3, 2]])

    for kind, reason in (
        (Everything, "the encoder marks 2*(3+4) in 2*(3+4), which is no operation"),
        (Nothing, "the encoder marks nothing in 2*(3+4)"),
        (Unfinished, "the encoder marks 3+4 in 2*(3+4), and asks for another pass after 3+4"),
    ):
        (trace,) = Rewriter(kind(tokenizer), tokenizer, torch.float32).traces(["2*(3+4)"])
        assert (trace.answer, trace.reason) == ("", reason)
        # What was marked and could not be carried out is a wrong step.
        refused = [(row["span"], row["result"], row["right"]) for row in step_table([1], [trace]).to_pylist()]
        assert refused == ([] if kind is Nothing else [(reason.split()[3], None, False)])


def test_whatever_the_encoder_says_a_problem_has_no_more_passes_than_characters(tokenizer: Tokenizer) -> None:
    rng = random.Random(5)

    class Wild(ByCode):
        """Marks any one thing that looks like an operation, and gives it any result."""

        def mark(self, units: Units, loops: int) -> torch.Tensor:
            logits = torch.full(units.ids.shape, -9.0)
            for row, (ids, inside) in enumerate(zip(units.ids, units.inside, strict=True)):
                # Each number has one unit and here one digit.
                text = "".join(self.pieces[number - 1] for number in ids[inside].tolist())
                if spans := [*loop.OPERATION.finditer(text)]:
                    begin, end = rng.choice(spans).span()
                    marks = torch.full((len(text),), -9.0)
                    marks[begin:end] = 9.0
                    logits[row, inside] = marks
            return logits

        def logits(self, operations: Operations, states: torch.Tensor) -> StepLogits:
            found = super().logits(operations, states)
            signs = torch.tensor([[9.0, -9.0] if rng.random() < 0.2 else [-9.0, 9.0] for _ in found.ends])
            return found._replace(ends=torch.cat([signs, found.ends[:, 2:]], 1))

    problems = [expression(rng, rng.randint(1, 12), rng.randint(0, 6)) for _ in range(300)]
    traces = Rewriter(Wild(tokenizer), tokenizer, torch.float32).traces(problems)
    assert all(bool(trace.answer) != bool(trace.reason) for trace in traces)
    assert all(len(trace.steps) <= len(problem) for problem, trace in zip(problems, traces, strict=True))
    assert max(len(trace.steps) for trace in traces) > 12


def test_a_batch_answers_as_single_problems_do(tokenizer: Tokenizer) -> None:
    encoder = RewritingEncoder(CONFIG, tokenizer)
    encoder.initialise(1)
    rng = random.Random(2)
    texts = [f"{rng.randrange(10 ** rng.randint(1, 40))}*{rng.randrange(10**9)}{REGISTER}7" for _ in range(60)]
    read = encoder.reader.operations(torch.from_numpy(tokenizer.right_aligned(texts).astype("int64")))
    together = encoder.logits(read, encoder.after(read, 6)).digits
    for row, text in enumerate(texts):
        alone = encoder.reader.operations(torch.from_numpy(tokenizer.right_aligned([text]).astype("int64")))
        places = int(alone.places[0])
        # Float32 with another number of blocks: the order of additions differs.
        expected = encoder.logits(alone, encoder.after(alone, 6)).digits[0, :places]
        torch.testing.assert_close(together[row, :places], expected, rtol=1e-3, atol=1e-3)
