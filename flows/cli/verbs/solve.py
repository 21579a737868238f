"""Solves typed problems: a single one, a stream of lines, or an interactive session on a terminal."""

import json
import math
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from flows.cli.grammar import quoted, read
from flows.common.progress import counted
from model.evaluation.predictor import Solution, TrainedEncoder, TrainedModel, TrainedRewriter, open_trained
from model.runs.pretrained import shipped_runs
from model.runs.run_config import load_run
from storage.errors import RunFailure, UserError
from storage.places.opening import open_location
from storage.places.place import Location
from storage.workspace import Workspace

_READ_BYTES = 1 << 16
# No valid problem is nearly as long. The limit stops input without line breaks, such as /dev/zero.
_LONGEST_LINE = 1 << 20
_WITHHELD = "?"
# Marking a longer expression takes minutes: every pass reads all of it, and a sum of n numbers takes n passes.
_LONGEST_PROBLEM = 4_096
_LONGEST_REASON = 200
# A line of a stream waits for the next batch if it is so many times as long as all lines before it in its batch, which
# count as at least so long.
_MUCH_LONGER, _SHORT = 4, 32


class NotTrainedError(UserError):
    """A problem contains something that the encoder was not trained on."""


class Solver:
    """The candidate encoders: the named one, or those of the workspace followed by those that come with Numerate."""

    def __init__(self, workspace: Workspace, name: str, *, traced: bool = False) -> None:
        """Opens the named run; raises `UserError` or `RunFailure` if it does not exist or cannot be used.

        With `traced`, only encoders that rewrite are candidates, because others have no trace.
        """
        self._opened: dict[str, TrainedModel] = {}
        shipped, folder = shipped_runs(), workspace.root / "runs"
        runs = {run: folder / run for run in folder.children() if (folder / run / "run.json").exists()}
        known = {**shipped, **runs}
        if "/" in name:
            # An exported run is used from its own folder.
            self._folders = {name: open_location(name, "run")}
        elif name:
            if name not in known:
                raise UserError(f"run {name!r} does not exist: train it, or use one of {', '.join(known)}")
            self._folders = {name: known[name]}
        if name:
            if not isinstance(self._open(name), TrainedRewriter) and traced:
                raise UserError(f"run {name!r} answers at once and has no trace: leave out --trace or --run")
            return
        # The workspace's copies of shipped runs exist only for their evaluations, and give the same answers.
        own = [run for run in runs if not run.startswith("shipped-")]
        candidates = {run: known[run] for run in sorted(own, key=lambda run: (run != "notebook", run))}
        # A run of the workspace comes first, but may have no checkpoint yet.
        candidates |= {run if run not in runs else f"shipped-{run}": folder for run, folder in shipped.items()}
        # Encoders that rewrite answer problems of every kind, so they come first.
        rewriting = {run: folder for run, folder in candidates.items() if _rewrites(folder)}
        self._folders = rewriting if traced else {**rewriting, **candidates}

    def model_for(self, text: str) -> tuple[TrainedModel, str]:
        """The first encoder that can solve the problem, and the problem as the encoder reads it.

        If there is none, raises the `UserError` of the first encoder that knows the operators.
        """
        refused: list[UserError] = []
        for name in [*self._folders]:
            if not (model := self._usable(name)):
                continue
            try:
                return model, read_problem(model, text)
            except UserError as error:
                refused.append(error)
        raise next((error for error in refused if not isinstance(error, NotTrainedError)), refused[0])

    def _usable(self, name: str) -> TrainedModel | None:
        """The encoder; None if it is damaged or has no checkpoint yet, and another one can answer instead."""
        try:
            return self._open(name)
        except (UserError, RunFailure) as error:
            if len(self._folders) == 1:
                raise
            if isinstance(error, RunFailure):
                print(f"warning: {error}", file=sys.stderr)
            del self._folders[name]
            return None

    def _open(self, name: str) -> TrainedModel:
        if name not in self._opened:
            self._opened[name] = open_trained(self._folders[name])
        return self._opened[name]


@dataclass(frozen=True)
class Style:
    """Output format of the answers."""

    as_json: bool = False
    abstain_below: float = 0.0
    """Minimum confidence, 0 to 1; answers below it are withheld."""
    trace: bool = False
    """Print the states of a rewriting below each other, instead of the answer alone."""

    def __post_init__(self) -> None:
        if not 0 <= self.abstain_below <= 1:
            raise UserError(f"abstain-below is {self.abstain_below}, a confidence is between 0 and 1: change it")

    def withholds(self, solution: Solution) -> bool:
        """Whether there is no answer, or its confidence is too low to give it."""
        # Negated, so that a NaN confidence is withheld.
        return solution.abstained or not solution.confidence >= self.abstain_below


@contextmanager
def nothing_to_continue() -> Iterator[None]:
    """An interruption prints no hint to continue, because the same command starts again."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted") from None


def answer_one(solver: Solver, problem: str, style: Style) -> None:
    """Print the answer of one problem, `?` if it is withheld, and the run that answered on standard error.

    Raises `UserError` for a problem that cannot be read.
    """
    model, text = solver.model_for(problem)
    (solution,) = model.solve([text])
    print(_answer_text(model, text, solution, style))
    if not style.as_json:
        confidence = f", {_reason(solution)}" if style.withholds(solution) else ""
        print(f"(run {model.config.name}, step {model.checkpoint.step:,}{confidence})", file=sys.stderr)


def answer_stream(solver: Solver, style: Style) -> None:
    """Solve standard input line by line; a line that cannot be answered prints an empty line and an error message.

    Raises `UserError` at the end if there was such a line, and at once for a line that is too long.
    """
    if sys.stdin.isatty():
        for line in _typed():
            _answer_lines(solver, [line], [""], style)
        return
    invalid = read = 0
    size = _BatchSize()
    for lines in _piped():
        while lines:
            batch, began = _first_lines(lines, size.most), time.monotonic()
            places = [f"line {read + number:,}: " for number in range(1, len(batch) + 1)]
            invalid += _answer_lines(solver, batch, places, style)
            size.adapt(len(batch), time.monotonic() - began)
            read, lines = read + len(batch), lines[len(batch) :]
    if invalid:
        known = "an error" if style.as_json else "an empty line"
        verb = f"its answer is {known}" if invalid == 1 else f"the answer of each is {known}"
        raise UserError(f"{counted(invalid, 'line')} could not be answered: {verb}")


def read_problem(model: TrainedModel, text: str) -> str:
    """The problem in `text` as the model reads it, without spaces and final '='.

    Raises `UserError` for invalid problems, for operators, signs and brackets that the run was not trained on, and for
    problems that are longer than the model can hold.
    """
    config, known = model.config, model.config.operators
    problem = read(text, chains=isinstance(model, TrainedRewriter))
    if unknown := problem.operators - set(known):
        raise NotTrainedError(
            f"problem {quoted(text)} has {' '.join(sorted(unknown))}, run {config.name!r} was trained only on "
            f"{' '.join(known)}: train one on a corpus with these operators"
        )
    if problem.signed and not config.signed_operands:
        raise NotTrainedError(
            f"problem {quoted(text)} has a minus before an operand, run {config.name!r} was trained without: "
            "train one on a corpus of expressions with -"
        )
    if isinstance(model, TrainedEncoder):
        model.tokenizer.row(problem.text, model.layout_of(problem.text))
    elif len(problem.text) > _LONGEST_PROBLEM:
        raise UserError(
            f"problem {quoted(text)} has {len(problem.text):,} characters, but the maximum is {_LONGEST_PROBLEM:,}: "
            "use a shorter problem"
        )
    return problem.text


def _answer_lines(solver: Solver, lines: list[str], places: list[str], style: Style) -> int:
    """Print one answer per line, in batches per encoder; returns the number of lines that could not be answered.

    Messages begin with the `places` of their lines.
    """
    problems_of: dict[str, dict[int, str]] = {}
    models: dict[str, TrainedModel] = {}
    answers, invalid = [_no_answer("", "the line is empty", style)] * len(lines), 0
    for number, line in enumerate(lines):
        try:
            if line.strip():
                model, problem = solver.model_for(line)
                models[model.config.name] = model
                problems_of.setdefault(model.config.name, {})[number] = problem
        except UserError as error:
            invalid += 1
            answers[number] = _no_answer(line, str(error), style)
            print(f"error: {places[number]}{error}", file=sys.stderr)
    for name, problems in problems_of.items():
        solutions = models[name].solve(list(problems.values()))
        for (number, problem), solution in zip(problems.items(), solutions, strict=True):
            answers[number] = _answer_text(models[name], problem, solution, style)
            if solution.abstained:
                print(f"{places[number]}problem {quoted(problem)} has no answer: {_reason(solution)}", file=sys.stderr)
    # An empty line follows every trace.
    for answer in answers:
        print(answer, end="\n\n" if style.trace and not style.as_json else "\n")
    sys.stdout.flush()
    return invalid


@dataclass
class _BatchSize:
    """The most lines of a stream that are answered together: more while batches are fast, fewer after a slow one."""

    most: int = 64

    _LARGEST: ClassVar = 4_096
    # Larger batches answer more problems a second, but their first answers come later.
    _FAST_SECONDS: ClassVar = 20.0
    _SLOW_SECONDS: ClassVar = 60.0

    def adapt(self, lines: int, seconds: float) -> None:
        """Take notice of a batch that had so many lines and took so long."""
        if lines == self.most and seconds < self._FAST_SECONDS:
            self.most = min(2 * self.most, self._LARGEST)
        elif seconds > self._SLOW_SECONDS:
            self.most = max(lines // 2, 1)


def _first_lines(lines: list[str], most: int) -> list[str]:
    """The first lines, which are answered together, so that a much longer one does not delay their answers."""
    longest = _SHORT
    for number, line in enumerate(lines[:most]):
        if number and len(line) > _MUCH_LONGER * longest:
            return lines[:number]
        longest = max(longest, len(line))
    return lines[:most]


def _no_answer(line: str, reason: str, style: Style) -> str:
    """The answer to a line that is no problem."""
    return json.dumps({"problem": line, "answer": None, "error": reason}) if style.as_json else ""


def _typed() -> Iterator[str]:
    """The lines of an interactive session."""
    import readline  # noqa: F401  (gives input() a history)

    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        if line.strip():
            yield line


def _piped() -> Iterator[list[str]]:
    """Complete lines as they arrive, so that a program on the other side gets each answer at once."""
    rest = b""
    while data := os.read(sys.stdin.fileno(), _READ_BYTES):
        *lines, rest = (rest + data).split(b"\n")
        if lines:
            yield [line.decode(errors="replace") for line in lines]
        if len(rest) > _LONGEST_LINE:
            raise UserError(f"a line has more than {_LONGEST_LINE:,} characters: write one problem per line")
    if rest:
        yield [rest.decode(errors="replace")]


def _answer_text(model: TrainedModel, problem: str, solution: Solution, style: Style) -> str:
    withheld = style.withholds(solution)
    if not style.as_json:
        answer = _WITHHELD if withheld else solution.answer
        if style.trace and solution.trace:
            states = solution.trace.states
            return "\n".join([*(states[:-1] if states[-1] == solution.answer else states), answer])
        return answer
    values: dict[str, Any] = {
        "problem": problem,
        "answer": None if withheld else solution.answer,
        "confidence": solution.confidence if math.isfinite(solution.confidence) else None,
        "abstained": withheld,
        "run": model.config.name,
        "checkpoint": model.checkpoint.file,
        "step": model.checkpoint.step,
    }
    if solution.trace:
        steps = solution.trace.steps
        values["states"] = solution.trace.states
        values["steps"] = [
            {"state": number, **step._asdict(), "result": step.result or None}
            for number, operations in enumerate(steps)
            for step in operations
        ]
        if solution.trace.reason:
            values["reason"] = solution.trace.reason
    return json.dumps(values)


def _reason(solution: Solution) -> str:
    """Why an answer is withheld."""
    if solution.trace and solution.trace.reason:
        reason = solution.trace.reason
        return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"
    # Rounded down: no answer is withheld for being 100.0 % sure.
    known = math.isfinite(solution.confidence)
    return f"only {math.floor(1_000 * solution.confidence) / 10 if known else math.nan:.1f}% sure"


def _rewrites(folder: Location) -> bool:
    """Whether a run's encoder answers by rewriting; False if the run cannot be read."""
    with suppress(UserError, RunFailure):
        return load_run(folder).training.encoder.kind == "rewriting"
    return False
