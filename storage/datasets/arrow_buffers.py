"""Converts between Arrow arrays and numpy buffers without a Python object per row."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def blank_words(rows: int, words: int) -> tuple[bytearray, NDArray[np.uint64]]:
    """Returns a zeroed buffer and a uint64 view of it [rows, words], with eight characters per word."""
    buffer = bytearray(rows * words * 8)
    return buffer, np.frombuffer(buffer, np.uint64).reshape(rows, words)


def to_strings(characters: bytes | bytearray, lengths: NDArray[np.integer]) -> pa.Array:
    """Returns Arrow strings [n] from the concatenated characters of all rows; zero bytes are skipped.

    `lengths` [n] is the number of characters per row; raises `ValueError` if the total does not match.
    """
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    data = characters.translate(None, b"\0")
    if len(data) != offsets[-1]:
        raise ValueError(f"there are {len(data)} characters, but the lengths add up to {offsets[-1]}")
    return pa.StringArray.from_buffers(len(lengths), pa.py_buffer(offsets), pa.py_buffer(data))


def string_buffers(array: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Returns the bytes, uint8 [total], and offsets, int32 [n + 1] from 0, of a string or binary array."""
    _, offsets_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32, len(array) + 1, array.offset * 4)
    if data_buffer is None:
        return np.zeros(0, np.uint8), offsets
    data = np.frombuffer(data_buffer, np.uint8)[offsets[0] : offsets[-1]]
    return data, offsets - offsets[0] if offsets[0] else offsets


def fixed_width_values(array: pa.Array) -> np.ndarray:
    """Returns the raw bytes, uint8 [n · width], of a numeric or fixed-size binary array."""
    width = array.type.bit_width // 8
    start = array.offset * width
    return np.frombuffer(array.buffers()[1], np.uint8)[start : start + len(array) * width]


def fixed_width_array(rows: NDArray[np.uint8]) -> pa.Array:
    """Returns a fixed-size binary array [n] with the rows of a C-ordered matrix, uint8 [n, width]."""
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(rows.shape[1]), len(rows), [None, pa.py_buffer(rows)])
