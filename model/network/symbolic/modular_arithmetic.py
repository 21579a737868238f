"""Exact differentiable arithmetic on residues modulo small primes, for numbers given as digit probabilities.

A number x is represented modulo p by points on the unit circle, at the angle 2π·x/p and its multiples. These points
are its characteristic function; they determine the probability of each residue. Addition multiplies points,
subtraction multiplies by conjugates, and multiplication uses a table of residues. All residues together determine a
number below the product of the primes (Chinese remainder theorem). They do not contain its digits directly, so the
later layers have to reconstruct them.
"""

from functools import lru_cache

import torch
from torch import Tensor

from model.network.symbolic.residue_arithmetic import pairwise_product

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23)
"""The product of these primes, 223,092,870, exceeds every product of two four-digit numbers."""


def residues(first: Tensor, second: Tensor, operation: Tensor, prime: int) -> Tensor:
    """Probability of each residue of the result, [n, prime].

    `first` and `second` [n, places, 10] are the digit probabilities of the operands, units first. `operation` [n, 3]
    holds the probabilities of +, - and *.
    """
    one, other = points(first, prime), points(second, prime)
    turned = torch.stack([one * other, one * other.conj()], 1)
    added, subtracted = likely(turned, prime).unbind(1)
    pairs = (likely(one, prime)[:, :, None] * likely(other, prime)[:, None]).flatten(1)
    results = torch.stack([added, subtracted, pairs @ _products(prime, first.device)], 1)
    return (operation[..., None] * results).sum(1)


def points(digits: Tensor, prime: int) -> Tensor:
    """Expected points of a number modulo `prime`, at 0 … ⌊prime/2⌋ times its angle, complex [n, k]."""
    table = _points(digits.shape[1], prime, digits.device)
    found = (digits.transpose(0, 1) @ table).transpose(0, 1)
    return pairwise_product(torch.view_as_complex(found.unflatten(-1, (-1, 2))))


def likely(points: Tensor, prime: int) -> Tensor:
    """Probability of each residue, [..., prime], from the points of a number."""
    return torch.fft.irfft(points.conj(), prime)


@lru_cache(maxsize=256)
def _points(places: int, prime: int, device: torch.device) -> Tensor:
    """Cosine and sine of each digit at each digit position, for each multiple: [places, 10, 2·multiples]."""
    powers = torch.tensor([pow(10, place, prime) for place in range(places)])
    standing = powers[:, None, None] * torch.arange(10)[:, None] * torch.arange(prime // 2 + 1) % prime
    angles = 2 * torch.pi * standing.double() / prime
    return torch.stack([angles.cos(), angles.sin()], -1).flatten(2).float().to(device)


@lru_cache(maxsize=64)
def _products(prime: int, device: torch.device) -> Tensor:
    """The multiplication table modulo `prime`: the one-hot residue of each pair, [prime², prime]."""
    numbers = torch.arange(prime)
    table = (numbers[:, None] * numbers % prime).flatten()
    return torch.nn.functional.one_hot(table, prime).float().to(device)
