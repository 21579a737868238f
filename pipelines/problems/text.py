"""Converts blocks of numbers to text through character matrices in which a zero byte means "no character".

`storage.datasets.arrow_buffers.to_strings` removes the zero bytes in one pass, so problems of any length are written
without a Python object per row.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.problems.arithmetic import LIMB_DIGITS, Limbs
from storage.datasets.arrow_buffers import blank_words, to_strings

_HALF_LIMB = 10_000


def character_words(low: int, high: int, suffix: str = "") -> NDArray[np.unsignedinteger]:
    """Decimal text of low … high, each followed by `suffix`, as zero-padded words of 4 or 8 characters.

    Raises `ValueError` if 8 characters are too few.
    """
    texts = [f"{number}{suffix}".encode() for number in range(low, high + 1)]
    longest = max(map(len, texts))
    if longest > LIMB_DIGITS:
        raise ValueError(f"{longest} characters don't fit a word of {LIMB_DIGITS}")
    width = 4 if longest <= 4 else 8
    return np.array(texts, f"S{width}").view(f"<u{width}")


def decimal_text(magnitudes: Limbs, counts: NDArray[np.int32], negative: NDArray[np.bool_]) -> pa.Array:
    """Decimal text of numbers given by their limbs, digit counts and signs, each [n]."""
    most = int(counts.max(initial=1))
    size = -(-most // LIMB_DIGITS)
    # A sign uses the first character of the highest limb's word, or a word of its own if that is full.
    signed = int(most == size * LIMB_DIGITS and bool(negative.any()))
    characters, words = blank_words(len(counts), size + signed)
    number_words(magnitudes[:size], counts, words[:, signed:])
    words[:, 0] |= negative * np.uint64(ord("-"))
    return to_strings(characters, counts + negative)


def number_words(limbs: Limbs, counts: NDArray[np.integer], words: NDArray[np.uint64]) -> None:
    """Writes the `counts` decimal digits of numbers [n] into `words` [n, limbs], eight characters per word.

    Characters before a number's first digit are zero bytes.
    """
    fewest = int(counts.min(initial=LIMB_DIGITS * len(limbs)))
    for number, limb in enumerate(limbs):
        value = limb.astype(np.uint32)
        high = value // np.uint32(_HALF_LIMB)
        word = _FOUR_WORDS.take(value - high * np.uint32(_HALF_LIMB)).astype(np.uint64)
        word <<= np.uint64(32)
        word |= _FOUR_WORDS.take(high)
        if fewest < (number + 1) * LIMB_DIGITS:
            shown = np.clip(counts.astype(np.int16) - np.int16(number * LIMB_DIGITS), 0, LIMB_DIGITS)
            word &= _LAST_CHARACTERS.take(shown)
        words[:, len(limbs) - 1 - number] = word


# All numbers of four digits as words of four characters, and masks that keep the last 0 … 8 characters of a word.
_FOUR_WORDS = np.array([f"{number:04}" for number in range(_HALF_LIMB)], "S4").view("<u4")
_LAST_CHARACTERS = np.array([0, *((1 << 64) - (1 << 8 * (8 - shown)) for shown in range(1, 9))], np.uint64)
