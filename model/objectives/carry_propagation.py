"""When a carry can have reached a slot of a sum, where it moves one place in a run of the block.

A slot whose carry is still under way can't be known yet. Asked for it all the same, an encoder
that looks only one place far learns to guess "no carry"; asked for it once the carry can be
there, it learns to pass carries on, as far as it is run (`EncoderConfig.carry_loops`).
"""

import torch
from torch import Tensor, nn

from model.network.positions import Positions, digit_values
from model.tokenizer import Tokenizer


class CarryArrival(nn.Module):
    """After how many moves of a carry by one place each slot is certain, from token ids; holds no weights."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.where = Positions(tokenizer)
        pieces = tokenizer.pieces()
        self.register_buffer("values", digit_values(tokenizer), persistent=False)
        self.register_buffer("plus", torch.tensor([piece == "+" for piece in pieces]), persistent=False)
        self.register_buffer("others", torch.tensor([piece in {*"*-()"} for piece in pieces]), persistent=False)
        self.values: Tensor
        self.plus: Tensor
        self.others: Tensor

    def forward(self, ids: Tensor, slots: int) -> Tensor:
        """Moves, int64 [n, slots], of complete rows of token ids [n, width] of one digit a token.

        Rows that hold anything but sums have 0 everywhere, and so has the slot of the sign, the first.
        """
        problem, place = ids[:, :-slots], self.where(ids, slots).place[:, :-slots]
        columns = slots - 1
        fits = (place > 0) & (place <= columns)
        blank = torch.zeros(len(ids), columns, dtype=torch.long, device=ids.device)
        sums = blank.scatter_add(1, torch.where(fits, place - 1, 0), torch.where(fits, self.values[problem], 0))
        # The carry into a place lies between two bounds, which each move brings together: nothing enters the units.
        low, high = torch.zeros_like(sums), self.plus[problem].sum(1, keepdim=True).expand_as(sums).clone()
        high[:, 0] = 0
        moves = torch.zeros_like(sums)
        for _ in range(columns):
            moves += low != high
            low[:, 1:], high[:, 1:] = (low + sums)[:, :-1] // 10, (high + sums)[:, :-1] // 10
        moves = moves.masked_fill(self.others[problem].any(1, keepdim=True), 0)
        return torch.cat([torch.zeros_like(moves[:, :1]), moves.flip(1)], 1)
