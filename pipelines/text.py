"""Numbers to text, a block at a time: character matrices in which a zero byte means 'nothing here'.

`storage.columns.to_strings` drops the zero bytes in one pass, so problems of any lengths are
written without a Python object a row.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.digits import LIMB_DIGITS, Limbs

Bytes = NDArray[np.uint8]

_LIMB = 10_000
_LIMB_DIGITS = 4


@dataclass(frozen=True)
class CharacterTable:
    """Text of a short range of numbers: `words` [size] hold up to 8 characters each, zero-padded."""

    words: NDArray[np.unsignedinteger]
    lengths: Bytes

    @classmethod
    def of_range(cls, low: int, high: int, suffix: str = "") -> "CharacterTable":
        """Decimal text of low … high, each followed by `suffix`; at most 8 characters in all."""
        matrix, lengths = decimal_characters(np.arange(low, high + 1, dtype=np.int64))
        tail = np.tile(np.frombuffer(suffix.encode(), np.uint8), (len(matrix), 1))
        matrix = np.concatenate([matrix, tail], axis=1)
        width = 4 if matrix.shape[1] <= 4 else 8
        if matrix.shape[1] > width:
            raise ValueError(f"{matrix.shape[1]} characters don't fit a word of {width}")
        words = np.zeros((len(matrix), width), np.uint8)
        words[:, : matrix.shape[1]] = matrix
        return cls(words.view(f"<u{width}")[:, 0].copy(), lengths + np.uint8(len(suffix)))


def decimal_characters(values: NDArray[np.int64]) -> tuple[Bytes, Bytes]:
    """Decimal digits of `values` [n], signs included, right-aligned: characters [n, w] and lengths [n]."""
    magnitudes = np.abs(values).view(np.uint64)
    largest = int(magnitudes.max()) if len(values) else 0
    limbs = max(1, -(-len(str(largest)) // _LIMB_DIGITS))
    matrix = np.empty((len(values), limbs * _LIMB_DIGITS + 1), np.uint8)
    rest = magnitudes
    for limb in range(limbs, 0, -1):
        quotient = rest // np.uint64(_LIMB)
        four = (rest - quotient * np.uint64(_LIMB)).astype(np.intp)
        matrix[:, (limb - 1) * _LIMB_DIGITS + 1 : limb * _LIMB_DIGITS + 1] = _FOUR_DIGITS[four]
        rest = quotient
    lengths = np.ones(len(values), np.uint8)
    for digits in range(1, len(str(largest))):
        lengths += magnitudes >= np.uint64(10**digits)
    width = matrix.shape[1]
    for column in range(width):
        matrix[:, column] *= lengths >= width - column
    negative = values < 0
    if negative.any():
        rows = np.flatnonzero(negative)
        matrix[rows, width - 1 - lengths[rows].astype(np.intp)] = ord("-")
        lengths += negative
    return matrix[:, width - int(lengths.max(initial=1)) :], lengths


def number_words(limbs: Limbs, counts: NDArray[np.integer], words: NDArray[np.uint64]) -> None:
    """Write decimal digits of numbers [n] of `counts` digits into `words` [n, limbs], eight characters a word.

    What stands before a number's first digit is left zero.
    """
    for number, limb in enumerate(limbs):
        value = limb.astype(np.uint32)
        high = value // np.uint32(_LIMB)
        word = _FOUR_WORDS.take(value - high * np.uint32(_LIMB)).astype(np.uint64)
        word <<= np.uint64(32)
        word |= _FOUR_WORDS.take(high)
        shown = np.clip(counts.astype(np.int16) - np.int16(number * LIMB_DIGITS), 0, LIMB_DIGITS)
        word &= _LAST_CHARACTERS.take(shown)
        words[:, len(limbs) - 1 - number] = word


def _four_digits() -> Bytes:
    numbers = np.arange(_LIMB)
    powers = 10 ** np.arange(_LIMB_DIGITS - 1, -1, -1)
    return (numbers[:, None] // powers % 10 + ord("0")).astype(np.uint8)


_FOUR_DIGITS = _four_digits()
# The same as words, and masks that keep the last 0 … 8 characters of a word.
_FOUR_WORDS = _FOUR_DIGITS.view("<u4")[:, 0].copy()
_LAST_CHARACTERS = np.array([0, *((1 << 64) - (1 << 8 * (8 - shown)) for shown in range(1, 9))], np.uint64)
