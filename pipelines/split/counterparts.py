"""Which problems say the same by other numbers: 30-12=18, 30-18=12 and 12+18=30.

Whoever learnt to fill hidden operands has met all of them if one is trained on: 12+?=30 asks for
30-12, and ?-18=12 for 12+18. So a problem is judged only where none of its twins is trained on.
"""

import re
from collections.abc import Collection, Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.split.canonical import Canonical
from pipelines.split.parse import text_hashes
from pipelines.split.reserved import splits_of

_LINEAR = re.compile(r"[0-9]+(?:[+-][0-9]+)+")
_TERM = re.compile(r"([+-]?)([0-9]+)")


def twins(problem: str, answer: str) -> set[str]:
    """The sums and differences that say the same as a sum or difference, itself included; none of another problem.

    Of all numbers, the answer among them, each may stand alone on one side, in either sign.
    """
    if not _LINEAR.fullmatch(problem):
        return set()
    terms = [(sign != "-", number) for sign, number in _TERM.findall(problem)]
    terms.append((answer.startswith("-"), answer.removeprefix("-")))
    return set(_forms(terms))


def _forms(terms: list[tuple[bool, str]]) -> Iterator[str]:
    """Every way to leave one term out of terms (whether added, number) that come to zero."""
    for alone in range(len(terms)):
        rest = terms[:alone] + terms[alone + 1 :]
        for turned in (False, True):
            added = [number for plus, number in rest if plus != turned]
            taken = [number for plus, number in rest if plus == turned]
            if added:
                yield "-".join(["+".join(added), *taken])


def has_no_trained_twin(
    split_key: str, validation: float, test: float, operators: Collection[str], problems: pa.Array, answers: pa.Array
) -> NDArray[np.bool_]:
    """Whether each problem, [n], may be judged: neither it nor a twin is trained on by any corpus of this split.

    `validation` and `test` are the shares held out by the corpus that was trained on, `operators` are its own:
    twins with others can't be among its problems.
    """
    numbers, texts = list[int](), list[str]()
    foreign = {"+", "-"} - {*operators}
    for number, (problem, answer) in enumerate(zip(problems.to_pylist(), answers.to_pylist(), strict=True)):
        found = [text for text in twins(problem, answer) if not foreign & {*text}]
        texts += found
        numbers += [number] * len(found)
    judged = np.ones(len(problems), np.bool_)
    hashes = text_hashes(pa.array(texts, pa.string()), Canonical(split_key))
    judged[np.array(numbers, np.intp)[splits_of(hashes, split_key, validation, test) == 0]] = False
    return judged
