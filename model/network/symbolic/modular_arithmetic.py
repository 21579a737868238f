"""Exact arithmetic on residues modulo small primes, differentiable, for numbers known only by probability.

A number stands at the angle 2π·x/p on the circle of p steps, and at each multiple of it: these points (its
characteristic function) say how likely each residue is. To add is to multiply points, to subtract to turn the
other way, and to multiply is a table of the residues. All residues together tell a number below the product of the
primes, but none of its digits: that is the Chinese remainder theorem's, and left to whoever reads them.
"""

from functools import lru_cache

import torch
from torch import Tensor

from model.network.symbolic.residue_arithmetic import pairwise_product

PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23)
"""Their product, 223,092,870, is beyond the products of two numbers of four digits."""


def residues(first: Tensor, second: Tensor, operation: Tensor, prime: int) -> Tensor:
    """How likely the result has each residue, [n, prime].

    `first` and `second` [n, places, 10] are how likely each digit of the operands is, the units first, and
    `operation` [n, 3] how likely +, - and * are asked for.
    """
    one, other = points(first, prime), points(second, prime)
    turned = torch.stack([one * other, one * other.conj()], 1)
    added, subtracted = likely(turned, prime).unbind(1)
    pairs = (likely(one, prime)[:, :, None] * likely(other, prime)[:, None]).flatten(1)
    results = torch.stack([added, subtracted, pairs @ _products(prime, first.device)], 1)
    return (operation[..., None] * results).sum(1)


def points(digits: Tensor, prime: int) -> Tensor:
    """The mean points of a number on the circle of `prime` steps at 0 … ⌊prime/2⌋ times its angle, complex [n, k]."""
    table = _points(digits.shape[1], prime, digits.device)
    found = (digits.transpose(0, 1) @ table).transpose(0, 1)
    return pairwise_product(torch.view_as_complex(found.unflatten(-1, (-1, 2))))


def likely(points: Tensor, prime: int) -> Tensor:
    """How likely each residue is, [..., prime], by the points of a number."""
    return torch.fft.irfft(points.conj(), prime)


@lru_cache(maxsize=256)
def _points(places: int, prime: int, device: torch.device) -> Tensor:
    """Cosine and sine of each digit at each place, at each multiple: [places, 10, 2·multiples]."""
    powers = torch.tensor([pow(10, place, prime) for place in range(places)])
    standing = powers[:, None, None] * torch.arange(10)[:, None] * torch.arange(prime // 2 + 1) % prime
    angles = 2 * torch.pi * standing.double() / prime
    return torch.stack([angles.cos(), angles.sin()], -1).flatten(2).float().to(device)


@lru_cache(maxsize=64)
def _products(prime: int, device: torch.device) -> Tensor:
    """The multiplication table modulo `prime`, of each pair the residue as one of `prime`, [prime², prime]."""
    numbers = torch.arange(prime)
    table = (numbers[:, None] * numbers % prime).flatten()
    return torch.nn.functional.one_hot(table, prime).float().to(device)
