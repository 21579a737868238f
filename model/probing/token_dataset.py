"""The tokens that are probed, with their labels and their hidden states."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from model.evaluation.predictor import TrainedEncoder
from model.network.encoder import Encoder
from model.probing.hooks import State, logits_of, recorded
from model.probing.labels import OPERATORS, Problem, answer_labels, operand_labels, operator_labels
from model.tokenizer import TokenLayout
from storage.order import derive_key, keyed_hash

# Slots are those of an encoder that rewrites.
Kind = Literal["operand", "operator", "answer", "slot"]
KINDS: tuple[Kind, ...] = ("operand", "operator", "answer")
# Most tokens per problem and kind.
_MOST_TOKENS = 2
# Group numbers are operand · _NUMBER + position, so it exceeds every position.
_NUMBER = 10_000
_BATCH = 512

Labels = dict[str, NDArray[np.int64]]


class Batch(NamedTuple):
    """Problems of one layout."""

    problems: NDArray[np.intp]
    """Indices of the problems, [n]."""
    rows: NDArray[np.integer]
    """Token rows with masked answers, [n, width]."""
    layout: TokenLayout


@dataclass(frozen=True)
class Examples:
    """m tokens of one kind."""

    kind: Kind
    problem: NDArray[np.intp]
    """Index of the token's problem, [m]."""
    column: NDArray[np.intp]
    """Column of the token in its row, [m]."""
    group: NDArray[np.int64]
    """Operand and digit position as one number, [m]; tokens of a group differ only in their content."""
    labels: Labels
    """Labels of the tokens, [m] each; `UNKNOWN` if a label does not apply."""
    numbers: NDArray[np.int64]
    """Different numbers of two or more digits in the token's problem, [m, k]; -1 for none."""
    columns: NDArray[np.int64]
    """Hash of the digits in the token's column, and in the next lower one, [m, 2]; -1 if there is none."""
    types: NDArray[np.int64]
    """Type of each token, [m]: its piece. For answer slots, which are all masked, the digits of its column."""

    def number_lengths(self, problems: Sequence[Problem]) -> NDArray[np.int64]:
        """Digits of the number of each token, [m]; only for operand tokens."""
        numbers = zip(self.problem.tolist(), (self.group // _NUMBER).tolist(), strict=True)
        return np.array([len(str(problems[problem].numbers[number])) for problem, number in numbers], np.int64)


UNKNOWN = -1 - 2**40


def batches_of(model: TrainedEncoder, problems: Sequence[Problem]) -> list[Batch]:
    """Problems as token rows, in batches of one layout and at most 512 problems."""
    layouts = [model.layout_of(problem.text) for problem in problems]
    found = []
    for layout in dict.fromkeys(layouts):
        chosen = [number for number, other in enumerate(layouts) if other == layout]
        for first in range(0, len(chosen), _BATCH):
            part = chosen[first : first + _BATCH]
            rows = np.array([model.tokenizer.row(problems[n].text, layout) for n in part], model.tokenizer.id_type)
            found.append(Batch(np.array(part), rows, layout))
    return found


def examples_of(problems: Sequence[Problem], batches: Sequence[Batch], kind: Kind) -> Examples:
    """At most two tokens of a kind per problem, chosen by a hash, with their labels."""
    found: list[tuple[int, int, int, int, dict[str, int]]] = []
    for batch in batches:
        for number in batch.problems.tolist():
            found += [(number, *each) for each in _tokens(problems[number], number, batch.layout, kind)]
    names = list(dict.fromkeys(name for *_, labels in found for name in labels))
    labels = {name: np.array([each[-1].get(name, UNKNOWN) for each in found], np.int64) for name in names}
    numbers = np.array([each[:3] for each in found], np.int64).reshape(-1, 3).T
    problem, column = (each.astype(np.intp) for each in numbers[:2])
    # For operands, the group also contains the operand; operators have no column.
    places = numbers[2] % _NUMBER if kind != "operator" else np.full(len(problem), -1)
    columns = [
        [_column(problems[n], place), _column(problems[n], place - 1)] for n, place in zip(problem, places, strict=True)
    ]
    return Examples(
        kind,
        problem,
        column,
        numbers[2],
        labels,
        _long_numbers(problems)[problem],
        np.array(columns, np.int64).reshape(-1, 2),
        np.array([each[3] for each in found], np.int64),
    )


def states_at(
    encoder: Encoder, batches: Sequence[Batch], examples: Sequence[Examples], states: Sequence[State]
) -> list[dict[State, NDArray[np.float32]]]:
    """The encoder's hidden states at the tokens of each set of examples, float32 [m, d] per state."""
    found = [
        {state: np.zeros((len(each.problem), encoder.config.width), np.float32) for state in states}
        for each in examples
    ]
    for batch in batches:
        with recorded(encoder, states) as hidden:
            logits_of(encoder, ids_of(encoder, batch.rows), batch.layout.answer)
        values = {state: hidden[state].float().cpu().numpy() for state in states}
        row_of_problem = {number: row for row, number in enumerate(batch.problems.tolist())}
        for each, kept in zip(examples, found, strict=True):
            in_batch = np.flatnonzero(np.isin(each.problem, batch.problems))
            rows = [row_of_problem[number] for number in each.problem[in_batch].tolist()]
            for state in states:
                kept[state][in_batch] = values[state][rows, each.column[in_batch]]
    return found


def ids_of(encoder: Encoder, rows: NDArray[np.integer]) -> torch.Tensor:
    """Token rows on the encoder's device, int64."""
    return torch.from_numpy(rows.astype(np.int64)).to(encoder.tokens.weight.device)


def orders_of(rows: NDArray[np.integer]) -> NDArray[np.intp]:
    """Group index per row [n, width], equal for rows with the same tokens in any order, such as 3+4 and 4+3.

    Answers within a group are not independent. Some unrelated problems share a group, which makes intervals slightly
    too wide.
    """
    return np.unique(np.sort(rows, 1), axis=0, return_inverse=True)[1].ravel()


def _tokens(
    problem: Problem, number: int, layout: TokenLayout, kind: Kind
) -> Iterator[tuple[int, int, int, dict[str, int]]]:
    """Column, group, type and labels of the selected tokens of a kind in a problem."""
    tokens, first = problem.tokens, layout.problem - len(problem.tokens)
    if kind == "answer":
        for place in chosen_places(number, problem.answer_length):
            digits = sorted(token.text for token in tokens if token.place == place)
            yield layout.width - 1 - place, place, _type_of(*digits), answer_labels(problem, place)
    elif kind == "operand":
        for at in _few(number, [at for at, token in enumerate(tokens) if token.number >= 0]):
            group = _NUMBER * tokens[at].number + tokens[at].place
            yield first + at, group, _type_of(tokens[at].text), operand_labels(problem, at)
    else:
        for at in _few(number, [at for at, token in enumerate(tokens) if token.text in OPERATORS]):
            yield first + at, 0, _type_of(tokens[at].text), operator_labels(problem, at)


def _type_of(*texts: str) -> int:
    """Hash of a token, or of the tokens of a column."""
    return derive_key("type", *texts) >> 1


def _column(problem: Problem, place: int) -> int:
    """Hash of the signed digits in a column of a sum or difference, in any order; -1 if there is no column."""
    if not problem.columns or "*" in problem.text or place < 0:
        return -1
    minus = OPERATORS.index("-")
    digits = sorted(
        f"{'-' * (problem.operators[token.number] == minus)}{token.text}"
        for token in problem.tokens
        if token.place == place
    )
    return derive_key("column", " ".join(digits)) >> 1


def _long_numbers(problems: Sequence[Problem]) -> NDArray[np.int64]:
    """Different numbers of two or more digits in each problem, [problems, k], padded with -1."""
    found = np.full((len(problems), max((len(problem.numbers) for problem in problems), default=0)), -1, np.int64)
    for row, problem in enumerate(problems):
        numbers = [number for number in dict.fromkeys(problem.numbers) if number > 9]
        found[row, : len(numbers)] = numbers
    return found


def chosen_places(number: int, places: int) -> list[int]:
    """At most two of the places 0 to `places`, selected by a hash of the problem's index."""
    return _few(number, list(range(places)))


def _few(number: int, choices: list[int]) -> list[int]:
    """At most two of the choices, selected by a hash of the problem's index."""
    order = keyed_hash(number + 1, np.arange(len(choices), dtype=np.uint64))
    return [choices[place] for place in np.argsort(order)[:_MOST_TOKENS].tolist()]
