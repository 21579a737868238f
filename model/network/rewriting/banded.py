"""Attention of every position to its neighbours only, in blocks, so that the cost grows with the length.

Positions are cut into blocks. The keys of a block are its own positions and `reach` more at each side. A learned score
per head and distance is added; keys further away are masked. Up to `_ONE_BLOCK` positions are a single block.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.network.positions import MASKED_SCORE

_BLOCK = 16
_ONE_BLOCK = 24


def block_size(positions: int) -> int:
    """Positions of a block; a row of `positions` must be padded to a multiple of it."""
    return positions if positions <= _ONE_BLOCK else _BLOCK


def windows(values: Tensor, size: int, reach: int) -> Tensor:
    """The keys or values of every block, [n, blocks, size + 2 · reach, c], from those of all positions [n, length, c].

    Positions beyond the ends are zero. A single block has only its own positions, [n, 1, size, c].
    """
    if values.shape[1] == size:
        return values[:, None]
    return pad(values, (0, 0, reach, reach)).unfold(1, size + 2 * reach, size).transpose(2, 3)


def unseen_scores(inside: Tensor, size: int, reach: int) -> Tensor:
    """Scores that mask the keys of a block that are padding or beyond the ends, [n, blocks, 1, 1, keys].

    So a row does not depend on how far it is padded, or on the number of blocks. `inside` [n, length] is bool.
    """
    keys = windows(inside[..., None].float(), size, reach)[..., 0]
    return ((1 - keys) * MASKED_SCORE)[:, :, None, None]


def distance_scores(scores: Tensor, size: int, blocks: int) -> Tensor:
    """Scores of every query and key of a block, [heads, …, size, keys], from `scores` [heads, …, 2 · reach + 1].

    `scores` are those of the distances −reach to reach; keys further away are masked. The keys are those of `windows`.
    """
    reach = scores.shape[-1] // 2
    first = 0 if blocks > 1 else reach
    keys = torch.arange(size + 2 * reach - 2 * first, device=scores.device) + first
    distance = keys[None] - torch.arange(size, device=scores.device)[:, None]
    inside = (distance >= 0) & (distance <= 2 * reach)
    return scores[..., distance.clamp(0, 2 * reach)].masked_fill(~inside, MASKED_SCORE)
