"""Answers what people type: one problem, a stream of them, or a conversation on a terminal."""

import json
import os
import sys
from collections.abc import Iterator

from model.trained import TrainedEncoder
from storage.errors import UserError
from storage.location import Workspace

_READ_BYTES = 1 << 16


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
    text = _tidied(problem)
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


def _answer_lines(model: TrainedEncoder, lines: list[str], as_json: bool) -> int:
    problems, answers, unread = [_tidied(line) for line in lines], [""] * len(lines), 0
    readable = []
    for number, problem in enumerate(problems):
        try:
            model.tokenizer.row(problem, model.config.layout)
            readable.append(number)
        except UserError as error:
            unread += 1
            print(f"error: {error}", file=sys.stderr)
    for number, answer in zip(readable, model.solve([problems[n] for n in readable]), strict=True):
        answers[number] = _shown(model, problems[number], answer, as_json)
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


def _tidied(problem: str) -> str:
    return "".join(problem.split()).removesuffix("=")


def _shown(model: TrainedEncoder, problem: str, answer: str, as_json: bool) -> str:
    if not as_json:
        return answer
    return json.dumps(
        {"problem": problem, "answer": answer, "run": model.config.name, "checkpoint": model.checkpoint.file}
    )
