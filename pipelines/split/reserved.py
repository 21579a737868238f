"""Lists of problems; edge cases of each length and AdderBoard's public suite are in the test split of every corpus."""

import random
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.split.canonical import Canonical, split_numbers
from pipelines.split.cases import Case, carry_chains, special_products
from pipelines.split.hash_set import HashSet
from pipelines.split.parse import text_hashes
from storage.datasets.manifest import SPLITS
from storage.order import UInt64s

ListingName = Literal["edge", "adderboard", "products", "chains"]

_LONGEST = 200

# The last generator version that reserves more problems.
LAST_RESERVED = 5

# The edge cases and random draws of the suite (anadim/AdderBoard: ten cases and Python's Random(2025)).
_ADDERBOARD_EDGES = (
    (0, 0), (0, 1), (9_999_999_999, 0), (9_999_999_999, 1), (9_999_999_999, 9_999_999_999),
    (5_000_000_000, 5_000_000_000), (1_111_111_111, 8_888_888_889), (1_234_567_890, 9_876_543_210),
    (9_999_999_999, 9_999_999_999), (1, 9_999_999_999),
)  # fmt: skip
_ADDERBOARD_ROWS = 10_000


@lru_cache(maxsize=64)
def listing(name: ListingName, operators: tuple[str, ...] = ("+", "-", "*"), digits: int = _LONGEST) -> list[Case]:
    """The problems of a list in order, limited to these operators and to operands of at most `digits` digits."""
    lists = {"edge": _edges, "adderboard": _adderboard, "products": special_products, "chains": carry_chains}
    cases = lists[name]()
    return [case for case in cases if case.operator in operators and case.digits <= digits]


@lru_cache(maxsize=4)
def reserved(split_key: str, after: int = 0) -> HashSet:
    """Canonical hashes of the problems that only generator versions above `after` reserve, under one split key.

    Computed once per process.
    """
    cases = (*_edges(), *_adderboard())
    hashes = text_hashes(pa.array([case.text for case in cases], pa.string()), Canonical(split_key))
    later = np.array([case.since > after for case in cases])
    return HashSet.of(np.setdiff1d(hashes[later], hashes[~later]))


def splits_of(canonical: UInt64s, split_key: str, validation: float, test: float) -> NDArray[np.uint8]:
    """Split numbers, as indices of `SPLITS`, of canonical hashes [n]; reserved problems are test."""
    splits = split_numbers(canonical, validation, test)
    splits[reserved(split_key).find(canonical)[0]] = SPLITS.index("test")
    return splits


@lru_cache(maxsize=1)
def _edges() -> tuple[Case, ...]:
    cases: dict[str, Case] = {}
    for digits in range(1, _LONGEST + 1):
        for case in _edges_of(digits):
            cases.setdefault(case.text, case)
    return tuple(cases.values())


def _edges_of(digits: int) -> Iterator[Case]:
    """Sums, differences and products of `digits` digits that are rare among random operands.

    Each chain that carries or borrows through all columns has a similar problem in which no carry starts. A model that
    treats every long run of nines as a carry fails there.
    """
    power = 10 ** (digits - 1)
    nines, fives = 10 * power - 1, 5 * (10 * power - 1) // 9
    counted = int(("1234567890" * -(-digits // 10))[:digits])
    yield Case(nines, "+", 1, "carry chain")
    yield Case(1, "+", nines, "carry chain")
    yield Case(nines, "+", nines, "nines")
    yield Case(power, "-", 1, "borrow chain")
    yield Case(power, "-", nines, "negative")
    yield Case(nines, "*", nines, "nines")
    yield Case(nines, "*", 1, "nines")
    for number in (fives, counted):
        yield Case(number, "+", nines + 1 - number, "carry chain", LAST_RESERVED)
        yield Case(number, "+", nines - number, "chain without a carry", LAST_RESERVED)
    if digits > 1:
        low = fives // 10
        yield Case(9 * power + low - 1, "-", low, "borrow chain", LAST_RESERVED)
        yield Case(9 * power + low, "-", low, "chain without a borrow", LAST_RESERVED)
        yield Case(1, "-", power, "negative", LAST_RESERVED)
    yield Case(counted, "-", nines, "negative", LAST_RESERVED)
    yield Case(0, "-", counted, "negative", LAST_RESERVED)
    yield Case(nines, "-", nines, "nines", LAST_RESERVED)
    for left, operator, right in (
        (0, "+", counted), (counted, "+", 0), (power, "+", power), (counted, "-", 0), (counted, "-", counted),
        (0, "*", counted), (counted, "*", 0), (power, "*", power),
    ):  # fmt: skip
        yield Case(left, operator, right, "zeros", LAST_RESERVED)


@lru_cache(maxsize=1)
def _adderboard() -> tuple[Case, ...]:
    draw = random.Random(2025)
    pairs = [(draw.randint(0, 9_999_999_999), draw.randint(0, 9_999_999_999)) for _ in range(_ADDERBOARD_ROWS)]
    edges = [Case(left, "+", right, "edge") for left, right in _ADDERBOARD_EDGES]
    return (*edges, *(Case(left, "+", right, "random") for left, right in pairs))
