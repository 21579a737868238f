"""Where a token stands, computed from the token ids on the device: place value and operand.

A digit's place counts from its number's last digit (1, 2, …), an answer slot's from the last
slot; everything else has place 0. Place ids follow Abacus (arXiv 2405.17399).
"""

import torch
from torch import Tensor, nn

from model.tokenizer import Tokenizer, TokenLayout

DIGITS, OPERATORS = "0123456789", "+-*"


class Positions(nn.Module):
    """Place and operand ids of rows of token ids; holds no weights."""

    def __init__(self, tokenizer: Tokenizer, layout: TokenLayout) -> None:
        super().__init__()
        self.layout = layout
        kinds = torch.zeros(2, tokenizer.size, dtype=torch.bool)
        for kind, pieces in enumerate((DIGITS, OPERATORS)):
            kinds[kind, [tokenizer.id_of(piece) for piece in pieces]] = True
        self.register_buffer("kinds", kinds, persistent=False)
        slots = torch.arange(layout.answer - 1, -1, -1) + 1
        slots[0] = 0
        self.register_buffer("slots", slots, persistent=False)
        self.kinds: Tensor
        self.slots: Tensor

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Place ids and operand ids, int64 [n, width] each, of token ids [n, width]."""
        problem = ids[:, : self.layout.problem + 1]
        digit, operator = self.kinds[0][problem], self.kinds[1][problem]
        columns = torch.arange(problem.shape[1], device=ids.device)
        ends = torch.where(digit, problem.shape[1], columns).flip(1).cummin(1).values.flip(1)
        places = torch.where(digit, ends - columns, 0)
        operands = torch.where(digit | operator, operator.cumsum(1) - operator.long() + 1, 0)
        slots = self.slots.expand(len(ids), -1)
        return torch.cat([places, slots], 1), torch.cat([operands, torch.zeros_like(slots)], 1)
