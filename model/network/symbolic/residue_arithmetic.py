"""Exact differentiable arithmetic on integers as angles, for numbers given as digit probabilities.

On circle s, a number x has the angle 2π·x/10^s, which encodes x modulo 10^s. Addition rotates one number by the angle
of the other; subtraction rotates back. Multiplication by a digit is a row of the multiplication table, and a product
is the sum of shifted rows, as in long multiplication.
A number with uncertain digits is the mean of its possible points (its characteristic function), inside the circle.
Rotation multiplies these means, which is exact for independent numbers. With certain digits, the arithmetic is exact
up to rounding at any length: angles are reduced modulo one turn, and each digit is read from a tenth of a turn.
"""

from functools import lru_cache

import torch
from torch import Tensor

# Sharpness of the softmax over digits: neighbouring digits, a tenth of a turn away, get a weight of e^-9.
_SHARPNESS = 48.0


def multiples(digits: Tensor, circles: int) -> Tensor:
    """The points of 0·x, 1·x, … 9·x on the circles 1 … `circles`, complex [n, 10, circles].

    `digits` [n, places, 10] are the digit probabilities of x, units first.
    """
    table = _table(digits.shape[1], circles, digits.device).flatten(2)
    found = (digits.transpose(0, 1) @ table).transpose(0, 1)
    return pairwise_product(torch.view_as_complex(found.unflatten(-1, (10, circles, 2))))


def product(digits: Tensor, rows: Tensor) -> Tensor:
    """The points of x·y, complex [n, circles], from x's digits [n, places, 10] and y's multiples [n, 10, circles]."""
    places, circles = digits.shape[1], rows.shape[-1]
    rows = torch.cat([torch.ones_like(rows[..., :1]), rows], -1)
    found = torch.view_as_complex((digits @ torch.view_as_real(rows).flatten(2)).unflatten(-1, (circles + 1, 2)))
    return pairwise_product(found.gather(2, _shift(places, circles, digits.device).expand(len(digits), -1, -1)))


def digits_of(points: Tensor) -> Tensor:
    """Digit probabilities [..., circles, 10], units first, of a number modulo 10^circles, from points [..., circles].

    Circle 1 gives the units digit. Circle 2, rotated back by the units, gives the tens digit, and so on. Each digit is
    read from a tenth of a turn, so the length of a carry chain does not affect the precision.
    """
    circles = points.shape[-1]
    # Point of each units digit on each circle, [10, circles, 2].
    units = _table(1, circles, points.device)[0, :, 1]
    towards, back = _SHARPNESS * units[:, 0].T, (units * units.new_tensor([1.0, -1.0]))[:, 1:].flatten(1)
    found = []
    for left in range(circles - 1, -1, -1):
        digit = (torch.view_as_real(points[..., 0]) @ towards).softmax(-1)
        found.append(digit)
        turned = (digit @ back[:, : 2 * left]).unflatten(-1, (left, 2))
        points = points[..., 1:] * torch.view_as_complex(turned)
    return torch.stack(found, -2)


def signed_digits(points: Tensor) -> tuple[Tensor, Tensor]:
    """Sign and digits of a number with absolute value below 10^(circles − 1), from its points [..., circles].

    Returns the probability that it is negative [...], and the digit probabilities of its absolute value
    [..., circles − 1, 10], units first.
    """
    plus, minus = digits_of(torch.stack([points, points.conj().resolve_conj()])).unbind(0)
    # The highest digit is 9 in the complement of a negative number, and 0 otherwise.
    negative = plus[..., -1, 5:].sum(-1)
    share = negative[..., None, None]
    return negative, ((1 - share) * plus + share * minus)[..., :-1, :]


@lru_cache(maxsize=64)
def _table(places: int, circles: int, device: torch.device) -> Tensor:
    """Cosine and sine of each digit at each position, times 0 … 9, on each circle: [places, 10, 10, circles, 2]."""
    digits = torch.arange(10, dtype=torch.float64)
    powers = 10.0 ** _shift(places, circles, torch.device("cpu")).double()
    angles = 2 * torch.pi * (digits[:, None, None] * digits[:, None] / powers[:, None, None]).frac()
    return torch.stack([angles.cos(), angles.sin()], -1).float().to(device)


@lru_cache(maxsize=64)
def _shift(places: int, circles: int, device: torch.device) -> Tensor:
    """The circle on which a units digit has the angle of a digit at each position, int64 [places, circles].

    It is 0 on circles where the digit's contribution is a whole number of turns.
    """
    circle, place = torch.arange(1, circles + 1, device=device), torch.arange(places, device=device)
    return (circle - place[:, None]).clamp(min=0)


def pairwise_product(points: Tensor) -> Tensor:
    """The product over axis 1, computed pairwise: its gradient needs no division and stays finite at 0."""
    while (size := points.shape[1]) > 1:
        half = size // 2
        points = torch.cat([points[:, :half] * points[:, half : 2 * half], points[:, 2 * half :]], 1)
    return points[:, 0]
