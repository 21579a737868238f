"""Answers what people type: one problem, a stream of them, or a conversation on a terminal."""

import json
import os
import re
import sys
from collections.abc import Iterator

from model.trained import Solution, TrainedEncoder, extent_of
from storage.errors import UserError
from storage.location import Workspace

_READ_BYTES = 1 << 16
_SHOWN = 60
_PROBLEM = re.compile(r"[0-9]+([-+*][0-9]+)+")
_AROUND_OPERATORS = re.compile(r"\s*([-+*=])\s*")


def open_run(workspace: Workspace, name: str) -> TrainedEncoder:
    """The named run's encoder, or the one that a person would mean; raises `UserError` where that isn't clear."""
    folder = workspace.root / "runs"
    names = [run for run in folder.children() if (folder / run / "run.json").exists()]
    if not name:
        if not names:
            raise UserError(f"no run in workspace {workspace.root}: train one, 'numerate run' does all of it")
        if len(names) > 1 and "notebook" not in names:
            raise UserError(f"several runs in workspace {workspace.root}: name one of {', '.join(names)} with --run")
        name = "notebook" if "notebook" in names else names[0]
    return TrainedEncoder.open(workspace.run(name))


def answer_one(model: TrainedEncoder, problem: str, as_json: bool) -> None:
    """Print the answer of one problem; raises `UserError` for one that can't be read."""
    text = read_problem(model, problem)
    print(_shown(model, text, model.solve([text])[0], as_json))


def answer_stream(model: TrainedEncoder, as_json: bool) -> None:
    """Answer standard input line by line; a line that can't be read gives an empty line and a remark.

    Raises `UserError` at the end if there was such a line.
    """
    unread = 0
    for lines in _conversation() if sys.stdin.isatty() else _piped():
        unread += _answer_lines(model, lines, as_json)
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
    model.tokenizer.row(problem, model.config.layout_for(extent_of(problem)))
    return problem


def _answer_lines(model: TrainedEncoder, lines: list[str], as_json: bool) -> int:
    problems, answers, unread = {}, [""] * len(lines), 0
    for number, line in enumerate(lines):
        try:
            if line.strip():
                problems[number] = read_problem(model, line)
        except UserError as error:
            unread += 1
            print(f"error: {error}", file=sys.stderr)
    for (number, problem), solution in zip(problems.items(), model.solve(list(problems.values())), strict=True):
        answers[number] = _shown(model, problem, solution, as_json)
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
