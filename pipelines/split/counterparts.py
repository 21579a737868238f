"""Counterparts: problems that state the same equation with other numbers, such as 30-12=18, 30-18=12 and 12+18=30.

A model that fills in masked operands learns all counterparts of a training problem: 12+?=30 requires 30-12, and ?-18=12
requires 12+18. A problem is therefore scored only if none of its counterparts is in the training split.
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


def counterparts(problem: str, answer: str) -> set[str]:
    """The sums and differences that state the same equation, the problem itself included; empty for other problems.

    Each number of the equation, the answer included, can be alone on one side, with either sign.
    """
    if not _LINEAR.fullmatch(problem):
        return set()
    terms = [(sign != "-", number) for sign, number in _TERM.findall(problem)]
    terms.append((answer.startswith("-"), answer.removeprefix("-")))
    return set(_forms(terms))


def _forms(terms: list[tuple[bool, str]]) -> Iterator[str]:
    """Yields every way to isolate one of the terms (is added, number), whose total is zero."""
    for alone in range(len(terms)):
        rest = terms[:alone] + terms[alone + 1 :]
        for turned in (False, True):
            added = [number for plus, number in rest if plus != turned]
            taken = [number for plus, number in rest if plus == turned]
            if added:
                yield "-".join(["+".join(added), *taken])


def has_no_trained_counterpart(
    split_key: str, validation: float, test: float, operators: Collection[str], problems: pa.Array, answers: pa.Array
) -> NDArray[np.bool_]:
    """Whether each problem [n] can be scored: no corpus of this split trains on it or on a counterpart.

    `validation` and `test` are the held-out shares of the training corpus, and `operators` are its operators: it cannot
    contain counterparts with other operators.
    """
    numbers, texts = list[int](), list[str]()
    foreign = {"+", "-"} - {*operators}
    for number, (problem, answer) in enumerate(zip(problems.to_pylist(), answers.to_pylist(), strict=True)):
        forms = [text for text in counterparts(problem, answer) if not foreign & {*text}]
        texts += forms
        numbers += [number] * len(forms)
    scored = np.ones(len(problems), np.bool_)
    hashes = text_hashes(pa.array(texts, pa.string()), Canonical(split_key))
    scored[np.array(numbers, np.intp)[splits_of(hashes, split_key, validation, test) == 0]] = False
    return scored
