"""Targets of one operation, place by place: carries, comparisons, digit products, and the loop that can know each.

A carry moves up by one place per loop. So the carry into a place is certain only after as many loops as the columns
below it leave it open. A loss before that would teach the encoder to guess (`carry_propagation`). For a difference of
magnitudes, the comparison of all lower digits moves upward in the same way, and the digits need the comparison of the
whole numbers.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.network.rewriting.encoder import CARRIES, EQUAL, GREATER, LESS
from model.network.rewriting.rows import EMPTY, MULTIPLY, SUBTRACT, Operations


class ColumnChains(NamedTuple):
    """Targets of n operations of up to W places, int64; all moves count places."""

    chains: Tensor
    """Carry into each place, 0 to 2·k, or the comparison of all lower digits of a and b, [n, W]."""
    chain_moves: Tensor
    """Moves after which that is certain, [n, W]."""
    digit_moves: Tensor
    """Moves after which the result's digit is certain, [n, W]."""
    end_moves: Tensor
    """Moves after which the result's sign is certain, [n]."""
    products: Tensor
    """Products of a's digit and the k digits that a product's step consumes, the units first, [n, W, k].

    0 for other operations.
    """
    totals: Tensor
    """Sum of each column without the carry into it, [n, W]; absolute differences for a difference of magnitudes."""


def column_chains(operations: Operations, digits_per_step: int = 1) -> ColumnChains:
    """The targets of complete rows, computed from the operands and the register.

    The step of a product consumes the digits of b that leave a multiple of `digits_per_step`.
    """
    digits = operations.fields[:, :, 1:-1]
    digits = torch.where(digits < EMPTY, digits, 0)
    first, second, register = digits.unbind(1)
    times = (operations.kind == MULTIPLY)[:, None]
    length = operations.lengths[:, 1, None]
    lowest = (length - 1).clamp(min=0) // digits_per_step * digits_per_step
    places = lowest + torch.arange(digits_per_step, device=first.device)
    consumed = second.gather(1, places.clamp(max=second.shape[1] - 1)) * (places < length)
    products = torch.where(times[..., None], first[..., None] * consumed[:, None], 0)
    step = _moved(register, digits_per_step)
    for place, product in enumerate(products.unbind(2)):
        step = step + _moved(product % 10, place) + _moved(product // 10, place + 1)
    differ = _magnitudes_differ(operations)[:, None] & ~times
    totals = torch.where(times, step, torch.where(differ, (first - second).abs(), first + second))
    most = 2 * digits_per_step
    carries, carry_moves = _carries(totals, torch.where(times[:, 0], most, 1))
    compared, compare_moves = _comparisons(first, second)
    # Comparisons come after the carries.
    compared = compared + most + 1 - CARRIES
    chains = torch.where(differ, compared, carries)
    moves = torch.where(differ, compare_moves, carry_moves)
    top = moves.gather(1, operations.places[:, None])
    digit_moves = torch.where(differ, torch.maximum(moves[:, :-1], top + 1), moves[:, :-1])
    end_moves = torch.where(differ, top, 0)[:, 0]
    return ColumnChains(chains[:, :-1], moves[:, :-1], digit_moves, end_moves, products, totals)


def _moved(columns: Tensor, places: int) -> Tensor:
    """Columns [n, W], moved up by so many places; those that leave the row are dropped."""
    return pad(columns, (places, 0))[:, : columns.shape[1]]


def _magnitudes_differ(operations: Operations) -> Tensor:
    """Whether the operation subtracts magnitudes instead of adding them, bool [n]; of no meaning for products."""
    minuses = operations.negative.sum(1) + (operations.kind == SUBTRACT).long()
    return minuses % 2 == 1


def _carries(totals: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Carries into each place, and the moves after which each is certain, [n, W + 1]; no carry exceeds `most` [n]."""
    carries = torch.zeros(len(totals), totals.shape[1] + 1, dtype=torch.long, device=totals.device)
    low, moves = carries.clone(), carries.clone()
    high = most[:, None].expand_as(carries).clone()
    high[:, 0] = 0
    for place in range(totals.shape[1]):
        carries[:, place + 1] = (totals[:, place] + carries[:, place]) // 10
        moves += low != high
        low[:, 1:], high[:, 1:] = (low[:, :-1] + totals) // 10, (high[:, :-1] + totals) // 10
    return carries, moves


def _comparisons(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Comparison of all digits below each place and the moves after which it is certain, [n, W + 1]."""
    rows, width = first.shape
    states = torch.full((rows, width + 1), EQUAL, device=first.device)
    moves = torch.zeros(rows, width + 1, dtype=torch.long, device=first.device)
    for place in range(width):
        one, other = first[:, place], second[:, place]
        differ = one != other
        states[:, place + 1] = torch.where(differ, torch.where(one < other, LESS, GREATER), states[:, place])
        moves[:, place + 1] = torch.where(differ, 1, moves[:, place] + 1)
    return states, moves
