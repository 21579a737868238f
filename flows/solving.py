"""Answers what people type: one problem, a stream of them, or a conversation on a terminal."""

import json
import os
import re
import sys
from collections.abc import Iterator

from model.shipped import shipped_runs
from model.trained import Solution, TrainedEncoder
from storage.errors import UserError
from storage.location import Workspace

_READ_BYTES = 1 << 16
_SHOWN = 60
_PROBLEM = re.compile(r"[0-9]+([-+*][0-9]+)+")
_AROUND_OPERATORS = re.compile(r"\s*([-+*=])\s*")


class Solver:
    """The encoders that may answer: the named one, or the workspace's and behind it those that come with Numerate."""

    def __init__(self, workspace: Workspace, name: str) -> None:
        """Raises `UserError` where there is no run of that name."""
        self._opened: dict[str, TrainedEncoder] = {}
        shipped, folder = shipped_runs(), workspace.root / "runs"
        runs = {run: folder / run for run in folder.children() if (folder / run / "run.json").exists()}
        known = {**shipped, **runs}
        if name:
            if name not in known:
                raise UserError(f"run {name!r} is not there: train it, or take one of {', '.join(known)}")
            self._folders = {name: known[name]}
            return
        if len(runs) > 1 and "notebook" not in runs:
            raise UserError(f"several runs in workspace {workspace.root}: name one of {', '.join(runs)} with --run")
        first = [run for run in runs if run == "notebook" or len(runs) == 1]
        self._folders = {run: known[run] for run in [*first, *shipped]}

    def model_for(self, text: str) -> tuple[TrainedEncoder, str]:
        """The first encoder that can answer, and the problem as it reads it.

        Raises `UserError`, as the first of them does, where none can.
        """
        refused: list[UserError] = []
        for name in self._folders:
            model = self._open(name)
            try:
                return model, read_problem(model, text)
            except UserError as error:
                refused.append(error)
        raise refused[0]

    def _open(self, name: str) -> TrainedEncoder:
        if name not in self._opened:
            self._opened[name] = TrainedEncoder.open(self._folders[name])
        return self._opened[name]


def answer_one(solver: Solver, problem: str, as_json: bool) -> None:
    """Print the answer of one problem, and on standard error who answered.

    Raises `UserError` for a problem that can't be read.
    """
    model, text = solver.model_for(problem)
    print(_shown(model, text, model.solve([text])[0], as_json))
    if not as_json:
        print(f"(run {model.config.name}, step {model.checkpoint.step:,})", file=sys.stderr)


def answer_stream(solver: Solver, as_json: bool) -> None:
    """Answer standard input line by line; a line that can't be read gives an empty line and a remark.

    Raises `UserError` at the end if there was such a line.
    """
    unread = 0
    for lines in _conversation() if sys.stdin.isatty() else _piped():
        unread += _answer_lines(solver, lines, as_json)
    if unread:
        raise UserError(f"{unread} of the lines could not be read: their answers are empty lines")


def read_problem(model: TrainedEncoder, text: str) -> str:
    """The problem in `text` as the model reads it, blanks around operators and a final '=' left out.

    Raises `UserError` for what is no problem, for an operator that the run never saw and for
    a problem that is longer than the model can hold.
    """
    known = model.config.operators
    problem = _AROUND_OPERATORS.sub(r"\1", text.strip()).removesuffix("=")
    shown = repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")
    if not _PROBLEM.fullmatch(problem):
        raise UserError(f"problem {shown} can't be read: write numbers with {' '.join(known)} between them, like 12+34")
    if unknown := set(re.findall(r"[-+*]", problem)) - set(known):
        raise UserError(
            f"problem {shown} holds {' '.join(sorted(unknown))}, run {model.config.name!r} learnt "
            f"{' '.join(known)} alone: train one on a corpus with these operators"
        )
    model.tokenizer.row(problem, model.layout_of(problem))
    return problem


def _answer_lines(solver: Solver, lines: list[str], as_json: bool) -> int:
    asked: dict[str, dict[int, str]] = {}
    models: dict[str, TrainedEncoder] = {}
    answers, unread = [""] * len(lines), 0
    for number, line in enumerate(lines):
        try:
            if line.strip():
                model, problem = solver.model_for(line)
                models[model.config.name] = model
                asked.setdefault(model.config.name, {})[number] = problem
        except UserError as error:
            unread += 1
            print(f"error: {error}", file=sys.stderr)
    for name, problems in asked.items():
        solutions = models[name].solve(list(problems.values()))
        for (number, problem), solution in zip(problems.items(), solutions, strict=True):
            answers[number] = _shown(models[name], problem, solution, as_json)
    print("\n".join(answers), flush=True)
    return unread


def _conversation() -> Iterator[list[str]]:
    import readline  # noqa: F401  (gives input() a history)

    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        if line.strip():
            yield [line]


def _piped() -> Iterator[list[str]]:
    """Whole lines as they arrive, so that a program at the other end gets its answer at once."""
    rest = b""
    while data := os.read(sys.stdin.fileno(), _READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [line.decode(errors="replace") for line in lines]
    if rest:
        yield [rest.decode(errors="replace")]


def _shown(model: TrainedEncoder, problem: str, solution: Solution, as_json: bool) -> str:
    if not as_json:
        return solution.answer
    return json.dumps(
        {
            "problem": problem,
            "answer": solution.answer,
            "confidence": solution.confidence,
            "run": model.config.name,
            "checkpoint": model.checkpoint.file,
        }
    )
