"""Number of loops after which a carry can reach each slot of a sum, at one digit position per run of the block.

Before the carry arrives, an encoder that attends only to neighbouring digits cannot know the slot. A loss on such
slots trains it to guess "no carry". If the loss counts only slots whose carry can have arrived, the encoder learns to
pass carries on, over any number of loops (`EncoderConfig.carry_loops`).
"""

import torch
from torch import Tensor, nn

from model.network.positions import TokenPositions, digit_values, piece_masks
from model.tokenizer import Tokenizer


class CarryArrival(nn.Module):
    """Number of carry moves by one digit position after which each slot is determined; has no weights."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.values, self.kinds = digit_values(tokenizer), piece_masks(tokenizer, "+", "*-()")

    def forward(self, ids: Tensor, slots: int, positions: TokenPositions) -> Tensor:
        """Moves, int64 [n, slots], for complete rows of token ids [n, width] with one digit per token.

        The first slot, the sign, is 0. Rows with operators other than + or with brackets are 0 in all slots.
        """
        problem, value = ids[:, :-slots], positions.place_value[:, :-slots]
        plus, other = (kind[problem] for kind in self.kinds)
        columns = slots - 1
        fits = (value > 0) & (value <= columns)
        blank = torch.zeros(len(ids), columns, dtype=torch.long, device=ids.device)
        sums = blank.scatter_add(1, torch.where(fits, value - 1, 0), torch.where(fits, self.values[problem], 0))
        # Bounds on the carry into each digit position. Each move tightens them; the carry into the units is 0.
        low, high = torch.zeros_like(sums), plus.sum(1, keepdim=True).expand_as(sums).clone()
        high[:, 0] = 0
        moves = torch.zeros_like(sums)
        for _ in range(columns):
            moves += low != high
            low[:, 1:], high[:, 1:] = (low + sums)[:, :-1] // 10, (high + sums)[:, :-1] // 10
        moves = moves.masked_fill(other.any(1, keepdim=True), 0)
        return torch.cat([torch.zeros_like(moves[:, :1]), moves.flip(1)], 1)
