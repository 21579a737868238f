"""Exact arithmetic on whole numbers as angles, differentiable, for numbers whose digits are known only by probability.

On circle s a number x stands at the angle 2π·x/10^s: its residue modulo 10^s. To add numbers is to
turn one by the other's angle, and to subtract to turn it back. To multiply by a digit is a row of
the multiplication table; a product is the sum of its shifted rows, as people write it below each other.
A number whose digits are uncertain is the mean of its points (its characteristic function), and
lies inside the circle; turning multiplies such means, which is exact where numbers are independent. Where
digits are certain everything is exact, at any length, as no angle is larger than the digits that follow it ask for.
"""

from functools import lru_cache

import torch
from torch import Tensor

# How sure a digit is of which a circle tells: neighbours, a tenth of a turn away, are left e^-9.
_SHARPNESS = 48.0


def multiples(digits: Tensor, circles: int) -> Tensor:
    """The points of 0·x, 1·x, … 9·x on the circles 1 … `circles`, complex [n, 10, circles].

    `digits` [n, places, 10] are how likely each digit of x is, the units first.
    """
    table = _table(digits.shape[1], circles, digits.device).flatten(2)
    found = (digits.transpose(0, 1) @ table).transpose(0, 1)
    return pairwise_product(torch.view_as_complex(found.unflatten(-1, (10, circles, 2))))


def product(digits: Tensor, rows: Tensor) -> Tensor:
    """The points of x·y, complex [n, circles]: x by its digits [n, places, 10], y by its multiples [n, 10, circles]."""
    places, circles = digits.shape[1], rows.shape[-1]
    rows = torch.cat([torch.ones_like(rows[..., :1]), rows], -1)
    found = torch.view_as_complex((digits @ torch.view_as_real(rows).flatten(2)).unflatten(-1, (circles + 1, 2)))
    return pairwise_product(found.gather(2, _shift(places, circles, digits.device).expand(len(digits), -1, -1)))


def digits_of(points: Tensor) -> Tensor:
    """The digits of a number modulo 10^circles, the units first, from its points [..., circles]: [..., circles, 10].

    Circle 1 tells the units. Turned back by them, circle 2 tells the tens, and so on: each digit is read off a
    tenth of a turn, so that how far a carry has come is never a matter of precision.
    """
    circles = points.shape[-1]
    # How a digit of the units stands on each circle, [10, circles, 2].
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
    """Sign and digits of a number below 10^(circles − 1), from its points [..., circles].

    How likely it is negative [...], and the digits of its absolute value [..., circles − 1, 10], the units first.
    """
    plus, minus = digits_of(torch.stack([points, points.conj().resolve_conj()])).unbind(0)
    # The complement of a negative number begins with a nine, where others have a zero.
    negative = plus[..., -1, 5:].sum(-1)
    share = negative[..., None, None]
    return negative, ((1 - share) * plus + share * minus)[..., :-1, :]


@lru_cache(maxsize=64)
def _table(places: int, circles: int, device: torch.device) -> Tensor:
    """Cosine and sine of a digit at each place, times 0 … 9, on each circle: [places, 10, 10, circles, 2]."""
    digits = torch.arange(10, dtype=torch.float64)
    powers = 10.0 ** _shift(places, circles, torch.device("cpu")).double()
    angles = 2 * torch.pi * (digits[:, None, None] * digits[:, None] / powers[:, None, None]).frac()
    return torch.stack([angles.cos(), angles.sin()], -1).float().to(device)


@lru_cache(maxsize=64)
def _shift(places: int, circles: int, device: torch.device) -> Tensor:
    """On each circle, the one on which the units stand as a digit of each place does, int64 [places, circles].

    Below a digit's own place nothing is seen of it: that is circle 0.
    """
    circle, place = torch.arange(1, circles + 1, device=device), torch.arange(places, device=device)
    return (circle - place[:, None]).clamp(min=0)


def pairwise_product(points: Tensor) -> Tensor:
    """The product over axis 1, pair by pair: without a division, which gradients could not survive at 0."""
    while (size := points.shape[1]) > 1:
        half = size // 2
        points = torch.cat([points[:, :half] * points[:, half : 2 * half], points[:, 2 * half :]], 1)
    return points[:, 0]
