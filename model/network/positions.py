"""Token positions: place value, operand, depth and column, computed from token ids on the device.

The place value of a digit, or of a group of digits, counts from the right end of its number: 1, 2, … The place value
of an answer slot counts from the last slot. All other tokens have place value 0. So place values do not depend on
where in the row a number is.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding

from model.config.encoder import EncoderConfig
from model.tokenizer import DIGITS, MASK, Tokenizer

# Added to the attention score of a masked key; finite, also in bfloat16.
MASKED_SCORE = -1e4


class TokenPositions(NamedTuple):
    """Positions of every token, int64 [n, width] each."""

    place_value: Tensor
    """Place value of a digit or slot, 1 for the units; 0 for all other tokens and for the answer's sign."""
    operand: Tensor
    """Index of the operand, from 1; operators and opening brackets belong to the number after them; otherwise 0."""
    depth: Tensor
    """Number of brackets that are open around the token."""
    column: Tensor
    """Distance from the `=`, positive to the right and negative to the left."""


class Positions(nn.Module):
    """Computes place values, operands, depths and columns from rows of token ids; has no weights."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.kinds = piece_masks(tokenizer, DIGITS, "+-*", "(", ")")
        # A masked token of the problem counts as a digit, because only digits are masked; masking changes no position.
        self.kinds[0, tokenizer.id_of(MASK)] = True

    def forward(self, ids: Tensor, slots: int) -> TokenPositions:
        """Positions of token ids [n, width], whose last `slots` tokens are the answer."""
        problem = ids[:, :-slots]
        rows, width = problem.shape
        digit, operator, opening, closing = (kind[problem] for kind in self.kinds)
        columns = torch.arange(width, device=ids.device)
        ends = torch.where(digit, width, columns).flip(1).cummin(1).values.flip(1)
        place_value = torch.where(digit, ends - columns, 0)
        begins = digit.clone()
        begins[:, 1:] &= ~digit[:, :-1]
        number = begins.cumsum(1)
        operand = torch.where(digit | closing, number, torch.where(operator | opening, number + 1, 0))
        depth = opening.cumsum(1) - closing.cumsum(1) + closing.long()
        answer = torch.arange(slots - 1, -1, -1, device=ids.device) + 1
        answer[0] = 0
        nothing = torch.zeros(rows, slots, dtype=torch.long, device=ids.device)
        return TokenPositions(
            torch.cat([place_value, answer.expand(rows, -1)], 1),
            torch.cat([operand, nothing], 1),
            torch.cat([depth, nothing], 1),
            torch.arange(1 - width, slots + 1, device=ids.device).expand(rows, -1),
        )


def piece_masks(tokenizer: Tokenizer, *kinds: str) -> nn.Buffer:
    """Which pieces consist of the characters of each kind, bool [kinds, pieces]."""
    masks = [[set(piece) <= set(kind) for piece in tokenizer.pieces()] for kind in kinds]
    return nn.Buffer(torch.tensor(masks), persistent=False)


def digit_values(tokenizer: Tokenizer) -> nn.Buffer:
    """Digit of each piece, int64 [pieces]; 0 for pieces that are not digits.

    Raises `UserError` for a tokenizer whose pieces hold several digits.
    """
    tokenizer.character_ids()
    values = [int(piece) if piece in {*DIGITS} else 0 for piece in tokenizer.pieces()]
    return nn.Buffer(torch.tensor(values), persistent=False)


class PositionEmbedding(nn.Module):
    """Position embeddings that are added to token embeddings; 0 if the only kind of position is `relative`."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        if "learned" in config.positions:
            self.columns = nn.Embedding(2 * config.longest + 1, config.width)
        if "place-value" in config.positions:
            self.places = nn.Embedding(config.places + 1, config.width)
            self.operands = nn.Embedding(config.operands + 1, config.width)
            self.depths = nn.Embedding(config.depth + 1, config.width)

    def forward(self, positions: TokenPositions, offset: Tensor | None) -> Tensor | float:
        """Embeddings [n, width, d], or 0. `offset` [n] in [0, 1) shifts each row's place values.

        The offset is a share of the largest possible shift. Random offsets in training train all place values equally
        (Abacus, arXiv 2405.17399).
        """
        added: Tensor | float = 0.0
        if "sinusoidal" in self.config.positions:
            added = sinusoids(positions.column, self.config.width)
        if "learned" in self.config.positions:
            longest = self.config.longest
            added = added + self.columns(positions.column.clamp(-longest, longest) + longest)
        if "place-value" in self.config.positions:
            value = positions.place_value
            if offset is not None:
                room = self.config.places + 1 - value.max(1).values
                value = torch.where(value > 0, value + (offset * room).long()[:, None], 0)
            added = added + self.places(value) + self.operands(positions.operand) + self.depths(positions.depth)
        return added


class RelativeBias(nn.Module):
    """Learned attention scores, indexed by the difference of two tokens' place values and by the key's operand.

    Differences larger than `reach` share one score per direction (`far` is `shared`) or are masked (`hidden`). With
    `hidden`, the computation does not depend on the length of a number, except for information that each loop passes
    to neighbouring digits.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.reach, self.masks_far, self.operands = config.reach, config.far == "hidden", config.operands
        # Differences −reach … reach, larger ones, smaller ones, and three kinds of pairs without place values.
        self.scores = nn.Embedding((2 * config.reach + 6) * (config.operands + 1), config.heads)

    def forward(self, positions: TokenPositions) -> Tensor:
        """Bias [n, heads, width, width] of every query (third dimension) and key (last dimension)."""
        queries, keys = positions.place_value[:, :, None], positions.place_value[:, None, :]
        difference = (keys - queries).clamp(-self.reach - 1, self.reach + 1) + self.reach + 1
        far = 2 * self.reach + 3
        pair = torch.where(queries > 0, difference, far)
        pair = torch.where(keys > 0, pair, torch.where(queries > 0, far + 1, far + 2))
        bias = embedding(pair * (self.operands + 1) + positions.operand[:, None, :], self.scores.weight)
        if self.masks_far:
            out_of_reach = (pair == 0) | (pair == 2 * self.reach + 2) | (pair == far)
            bias = bias.masked_fill(out_of_reach[..., None], MASKED_SCORE)
        return bias.permute(0, 3, 1, 2)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines [..., width] of integer positions ("Attention Is All You Need", section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2, device=positions.device) * (-math.log(10_000.0) / width))
    angles = positions[..., None] * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)[..., :width]
