"""Masks an operand instead of the answer, as in 12+?=30, in rows of the same width, if exactly one number solves it.

The slots of the masked operand take up the row's padding, up to the number of digits that an answer can have. Like
the answer's slots, they hold blanks, then digits. So the visible tokens determine the number of slots, and it does not
reveal the operand's length.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from model.network.positions import Positions, piece_masks
from model.tokenizer import BLANK, PAD, Tokenizer


class MaskedRows(NamedTuple):
    """Rows of token ids, int64 [n, width], and the mask of the tokens to predict, bool [n, width]."""

    ids: Tensor
    masked: Tensor


class MissingOperand(nn.Module):
    """Masks one operand of each row that has an operand with a unique solution; has no weights.

    A problem without brackets is linear in each operand. So the solution is unique if no other factor in the operand's
    product is zero. Problems with brackets or a minus sign before a number are left out, as are operands with more
    digits than an answer can have.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.positions = Positions(tokenizer)
        self.pad, self.blank, self.zero = (tokenizer.id_of(piece) for piece in (PAD, BLANK, "0"))
        self.kinds = piece_masks(tokenizer, "+-*", "+-", "()")

    def forward(self, ids: Tensor, slots: int, share: Tensor) -> MaskedRows:
        """Rows [n, width] with one operand each as slots; `share` [n] in [0, 1) selects it among the candidates.

        The last `slots` tokens are the answer. A row without a candidate is unchanged and has no masked tokens.
        """
        problem = ids[:, :-slots]
        place_value = self.positions(ids, slots).place_value[:, :-slots]
        begins = place_value > 0
        begins[:, 1:] &= place_value[:, :-1] == 0
        candidates = begins & (place_value < slots) & self._solvable(problem, begins, place_value)
        number = 1 + (share * candidates.sum(1)).long()
        chosen = candidates & (candidates.cumsum(1) == number[:, None])
        begin, length = chosen.int().argmax(1), (place_value * chosen).sum(1)
        extra = torch.minimum((problem == self.pad).sum(1), slots - 1 - length) * (length > 0)
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        first, begin, end = ((begin + more)[:, None] for more in (-extra, 0, length))
        # The tokens before the operand move left, into the padding.
        moved = ids.gather(1, columns + torch.where(columns < first, extra[:, None], 0))
        masked = (columns >= first) & (columns < end)
        return MaskedRows(moved.masked_fill(masked & (columns < begin), self.blank), masked)

    def _solvable(self, problem: Tensor, begins: Tensor, place_value: Tensor) -> Tensor:
        """Positions where an operand with a unique solution begins, bool [n, columns]."""
        operator, additive, bracket = (kind[problem] for kind in self.kinds)
        zero = begins & (place_value == 1) & (problem == self.zero)
        term = additive.cumsum(1)
        zeros = torch.zeros_like(term).scatter_add(1, term, zero.long()).gather(1, term)
        plain = ~bracket.any(1) & (operator.sum(1) == begins.sum(1) - 1)
        return plain[:, None] & (zeros - zero.long() == 0)
