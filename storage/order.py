"""The row order of a corpus: a keyed permutation of any size, and the keys from which it is derived.

It uses numpy and its own counter-based hash. The order is therefore independent of any library's random generator, and
any part of it can be computed on any machine.
"""

import hashlib
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt64s = NDArray[np.uint64]
UInt32s = NDArray[np.uint32]

_ROUNDS = 4
LARGEST_SIZE = 1 << 62


def derive_key(*parts: int | str) -> int:
    """Returns a 64-bit key that depends on every part and on their order."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def mix64(values: UInt64s) -> UInt64s:
    """Bijective finaliser of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), elementwise, any shape."""
    mixed = values ^ (values >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def keyed_hash(key: int, counters: UInt64s) -> UInt64s:
    """Returns 64 pseudo-random bits per counter, in the same shape; equal keys and counters give equal bits."""
    return mix64(mix64(counters * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)) ^ np.uint64(key >> 1))


def uniforms(key: int, counters: UInt64s) -> NDArray[np.float64]:
    """Returns one number in [0, 1) per counter, in the same shape."""
    return (keyed_hash(key, counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


@dataclass(frozen=True)
class Permutation:
    """A keyed bijection on 0 … size−1, computed for single rows in any order, without a table.

    A Feistel network over two nearly equal moduli with cycle walking (Black and Rogaway, "Ciphers with arbitrary finite
    domains", 2002). Raises `ValueError` for a size outside 1 … 2⁶².
    """

    size: int
    key: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= LARGEST_SIZE:
            raise ValueError(f"a permutation of {self.size} rows is not possible, take 1 to {LARGEST_SIZE}")

    def __call__(self, positions: UInt64s) -> UInt64s:
        """Returns the images of `positions`, each below `size`; uint64 [n]."""
        images = self._shuffle(positions)
        outside = np.flatnonzero(images >= np.uint64(self.size))
        while outside.size:
            images[outside] = self._shuffle(images[outside])
            outside = outside[images[outside] >= np.uint64(self.size)]
        return images

    def _shuffle(self, positions: UInt64s) -> UInt64s:
        return _feistel(positions, *halves(self.size), self.key, None)


def permuted(positions: UInt64s, sizes: UInt64s, high: UInt64s, low: UInt64s, key: int, salt: UInt32s) -> UInt64s:
    """Returns the images of `positions` [n] under bijections on 0 … sizes[i]−1, one bijection per `salt` [n].

    `high` and `low` are the `halves` of each size.
    """
    images = _feistel(positions, high, low, key, salt)
    outside = np.flatnonzero(images >= sizes)
    while outside.size:
        again = images.take(outside)
        images[outside] = _feistel(again, high.take(outside), low.take(outside), key, salt.take(outside))
        outside = outside[images.take(outside) >= sizes.take(outside)]
    return images


def halves(size: int) -> tuple[np.uint64, np.uint64]:
    """Returns two nearly equal moduli whose product is `size` or slightly more."""
    high = isqrt(size - 1) + 1
    return np.uint64(high), np.uint64(-(-size // high))


def _feistel(positions: UInt64s, high_modulus: Any, low_modulus: Any, key: int, salt: UInt32s | None) -> UInt64s:
    quotient = positions // low_modulus
    low = (positions - quotient * low_modulus).astype(np.uint32)
    high = quotient.astype(np.uint32)
    for number in range(0, _ROUNDS, 2):
        first, second = derive_round(key, number), derive_round(key, number + 1)
        high = _add_modulo(high, _round(low, first, high_modulus, salt), high_modulus)
        low = _add_modulo(low, _round(high, second, low_modulus, salt), low_modulus)
    return high.astype(np.uint64) * low_modulus + low


def derive_round(key: int, number: int) -> tuple[np.uint32, np.uint32]:
    """Returns two 32-bit constants of one Feistel round."""
    bits = int(keyed_hash(key, np.array([number], np.uint64))[0])
    return np.uint32(bits & 0xFFFFFFFF), np.uint32(bits >> 32)


def _round(half: UInt32s, constants: tuple[np.uint32, np.uint32], modulus: Any, salt: UInt32s | None) -> UInt32s:
    # The 32-bit finaliser of MurmurHash3, keyed before and between its steps, then scaled to the modulus.
    mixed = half ^ constants[0]
    if salt is not None:
        mixed += salt
    mixed *= np.uint32(0x85EBCA6B)
    mixed ^= mixed >> np.uint32(13)
    mixed += constants[1]
    mixed *= np.uint32(0xC2B2AE35)
    mixed ^= mixed >> np.uint32(16)
    scaled = mixed.astype(np.uint64)
    scaled *= modulus
    scaled >>= np.uint64(32)
    return scaled.astype(np.uint32)


def _add_modulo(left: UInt32s, right: UInt32s, modulus: Any) -> UInt32s:
    # Both are below the modulus, at most 2³¹: the smaller of s and s − m (which wraps when s < m) is s mod m.
    total = left + right
    return np.minimum(total, total - modulus.astype(np.uint32))
