"""Evaluation suites for encoders that rewrite: each is a few cells of problems, drawn from the ordinary families.

An encoder that rewrites can read problems of any length, so these suites go far beyond what it was trained on.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from pipelines.spec.corpus import MixturePart

RewritingSuiteName = Literal[
    "expressions", "short", "signed", "chains", "long", "products", "special", "small", "notebook"
]

_TIMES = ("*",)
_SIGNS = ("+", "-")
_ALL = (*_SIGNS, *_TIMES)


class Cells(NamedTuple):
    """The problems of a suite."""

    parts: tuple[dict[str, Any], ...]
    """Parameters of a `MixturePart` for each cell."""
    problems: int = 0
    """Number of test problems; 0 takes all problems of the families."""
    remark: str = ""
    only_test: bool = True

    def parts_for(self, operators: Sequence[str]) -> list[MixturePart]:
        """The cells, with those of their operators that are in `operators`; cells without any are left out."""
        fitting = [(part, [each for each in part["operators"] if each in operators]) for part in self.parts]
        return [MixturePart.model_validate({**part, "operators": found}) for part, found in fitting if found]


def _products(digits: int) -> dict[str, Any]:
    return {"family": "digits", "operators": _TIMES, "terms": 2, "min_digits": digits, "digits": digits}


def _expressions(**shape: Any) -> dict[str, Any]:
    return {"family": "expression", "operators": _ALL, **shape}


def _sums(digits: int) -> dict[str, Any]:
    return {"family": "digits", "operators": _SIGNS, "terms": 2, "min_digits": digits, "digits": digits}


CELLS: dict[RewritingSuiteName, Cells] = {
    # As in training, and with far more numbers, brackets or digits.
    "expressions": Cells(
        (
            _expressions(min_terms=2, terms=6, digits=4, depth=2, weight=5),
            _expressions(min_terms=20, terms=20, digits=4, depth=4),
            _expressions(min_terms=40, terms=40, digits=4, depth=6),
            _expressions(min_terms=10, terms=12, digits=4, min_depth=8, depth=8),
            _expressions(min_terms=22, terms=24, digits=4, min_depth=20, depth=20, weight=0.35),
            _expressions(min_terms=3, terms=4, min_digits=30, digits=30, min_depth=1, depth=2),
        ),
        9_500,
    ),
    # More problems of the first cell of `expressions`.
    "short": Cells((_expressions(min_terms=2, terms=6, digits=4, depth=2),), 101_000),
    # About one number in eight has a minus of its own.
    "signed": Cells(
        ({"family": "expression", "operators": _SIGNS, "min_terms": 2, "terms": 2, "digits": 20, "depth": 0},), 101_000
    ),
    "chains": Cells(({"family": "listed", "listing": "chains", "operators": _SIGNS, "digits": 60},)),
    "long": Cells(({**_sums(200), "weight": 10}, _sums(1_000)), 1_200),
    # 81 combinations of lengths, and three; there are few test problems of one digit times one digit. The larger cells
    # get more, because the number of problems in the test split varies.
    "products": Cells(
        (
            {"family": "digits", "operators": _TIMES, "terms": 2, "digits": 9, "weight": 100},
            *({**_products(digits), "weight": 1.8} for digits in (12, 20, 50)),
        ),
        107_000,
    ),
    "special": Cells(({"family": "listed", "listing": "products", "operators": _TIMES, "digits": 12},)),
    "small": Cells(
        (
            {"family": "grid", "operators": _ALL, "terms": 2, "high": 99},
            {"family": "grid", "operators": ("+",), "terms": 4, "high": 9},
        ),
        remark="all problems are evaluated, those of the train split included",
        only_test=False,
    ),
    "notebook": Cells(({"family": "grid", "operators": ("+",), "terms": 4, "high": 99},), 101_000),
}
