"""Encodes texts as pieces within numbers: groups of digits from the right, or learned pieces.

Ids of groups are looked up by their digits, for a whole block at once. Learned pieces come from SentencePiece, which
encodes each distinct number of a block once. Signs and brackets are separate pieces.
"""

from itertools import chain, product

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from model.tokenizer import DIGITS, Tokenizer
from storage.datasets.arrow_buffers import string_buffers


def pieces_of(text: pa.Array, tokenizer: Tokenizer) -> tuple[np.ndarray, NDArray[np.int32]]:
    """The concatenated ids of non-empty texts [n], and the number of ids per text, int32 [n]."""
    characters, offsets = string_buffers(text)
    digit = characters - np.uint8(ord("0")) <= 9
    begins, ends = _numbers(digit, offsets)
    if tokenizer.group:
        counts, ids = _groups(characters, begins, ends, tokenizer)
    else:
        counts, ids = _learned_pieces(characters, digit, ends - begins, tokenizer)
    # Tokens up to each character: a number's tokens count at its first digit, and any other character is one token.
    tokens = (~digit).astype(np.int32)
    tokens[begins] = counts
    upto = np.cumsum(tokens, dtype=np.int32)
    others = np.flatnonzero(~digit)
    within = np.ones(upto[-1] if len(upto) else 0, np.bool_)
    within[upto[others] - 1] = False
    all_ids = np.empty(len(within), tokenizer.id_type)
    all_ids[~within] = _sign_ids(tokenizer).take(characters.take(others))
    all_ids[within] = ids
    return all_ids, np.diff(upto[offsets[1:] - 1], prepend=np.int32(0))


def _numbers(digit: NDArray[np.bool_], offsets: np.ndarray) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Where each number in the texts begins and ends, from flags of the digits [total]."""
    # Text boundaries separate the last number of one text from the first number of the next.
    starts, stops = digit.copy(), digit.copy()
    starts[1:] &= ~digit[:-1]
    stops[:-1] &= ~digit[1:]
    firsts, lasts = offsets[:-1], offsets[1:] - 1
    starts[firsts] = digit[firsts]
    stops[lasts] = digit[lasts]
    return np.flatnonzero(starts), np.flatnonzero(stops) + 1


def _groups(
    characters: np.ndarray, begins: NDArray[np.intp], ends: NDArray[np.intp], tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """The number of digit groups of each number, counted from the right, and the ids of all groups in order."""
    size = tokenizer.group
    counts = -(-(ends - begins) // size)
    # Number of digits after each group; then the positions of a group's last digit and its number's first digit.
    digits_after = (np.repeat(np.cumsum(counts), counts) - 1 - np.arange(counts.sum())) * size
    lasts, firsts = np.repeat(ends - 1, counts) - digits_after, np.repeat(begins, counts)
    codes = np.zeros(len(lasts), np.int32)
    for place in range(size):
        positions = lasts - place
        digits = characters.take(positions, mode="clip") - np.uint8(ord("0") - 1)
        codes += np.where(positions >= firsts, digits, 0) * np.int32(11**place)
    return counts, _group_ids(tokenizer).take(codes)


def _group_ids(tokenizer: Tokenizer) -> np.ndarray:
    """Ids of all groups, indexed by their digits plus one in base 11, where 0 means no digit."""
    table = np.zeros(11**tokenizer.group, tokenizer.id_type)
    for length in range(1, tokenizer.group + 1):
        for digits in product(DIGITS, repeat=length):
            code = sum((int(digit) + 1) * 11**place for place, digit in enumerate(reversed(digits)))
            table[code] = tokenizer.id_of("".join(digits))
    return table


def _learned_pieces(
    characters: np.ndarray, digit: NDArray[np.bool_], lengths: NDArray[np.intp], tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """The number of pieces of each number of `lengths` digits, and the ids of all pieces in order."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    numbers = pa.StringArray.from_buffers(
        len(lengths), pa.py_buffer(offsets), pa.py_buffer(characters.compress(digit))
    ).dictionary_encode()
    pieces = tokenizer.processor.encode(numbers.dictionary.to_pylist(), out_type=int, num_threads=1)
    sizes = np.fromiter(map(len, pieces), np.intp, len(pieces))
    ids = np.fromiter(chain.from_iterable(pieces), tokenizer.id_type, sizes.sum())
    which = numbers.indices.to_numpy()
    counts = sizes.take(which)
    firsts = (np.cumsum(sizes) - sizes).take(which)
    return counts, ids.take(np.repeat(firsts - (np.cumsum(counts) - counts), counts) + np.arange(counts.sum()))


def _sign_ids(tokenizer: Tokenizer) -> np.ndarray:
    """For each of the 256 byte values, the id of its character or of the unknown piece."""
    ids = np.full(256, tokenizer.processor.unk_id(), tokenizer.id_type)
    for number, piece in enumerate(tokenizer.pieces()):
        if len(piece) == 1 and ord(piece) < 128:
            ids[ord(piece)] = number
    return ids
