"""Auxiliary loss for products: the running sum of every column, as in long multiplication.

For a·b, the running sum of column k adds the carry into it and all products of digits in this column:
c_k = Σ_{i+j=k} a_i·b_j + ⌊c_{k−1} / 10⌋. Its last digit is the answer's digit (arXiv 2510.00184 uses the same target).
A linear layer on the slots' states predicts its digits, and their cross-entropy is added to the loss. Only training
uses this layer.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from model.network.positions import TokenPositions, digit_values, piece_masks
from model.tokenizer import Tokenizer

# Number of last digits of a running sum that are predicted; all of them for factors of up to 111 digits.
_DIGITS = 4
OUTPUTS = 10 * _DIGITS


class RunningSum(nn.Module):
    """Computes the running sums of products from token ids; has no weights."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.values, self.kinds = digit_values(tokenizer), piece_masks(tokenizer, "*", "+-()")

    def forward(self, ids: Tensor, slots: int, positions: TokenPositions) -> tuple[Tensor, Tensor]:
        """Running sums, int64 [n, slots], of complete rows of token ids [n, width], and which rows are products, [n].

        A row is a product if it consists of two numbers and one `*`. Each slot has the sum of its column; the first
        slot, the sign, has 0.
        """
        problem = ids[:, :-slots]
        times, other = (kind[problem] for kind in self.kinds)
        product = (times.sum(1) == 1) & ~other.any(1)
        columns = self._columns(problem, positions.place_value[:, :-slots], positions.operand[:, :-slots], slots - 1)
        answer = self.values[ids[:, 1 - slots :]].flip(1).double()
        # Because 10·carry_k = c_k − digit_k, the carries need no loop over columns: they are a sum over lower columns,
        # divided by ten once per column. The error of doubles is far below 0.5, so rounding is exact.
        below = torch.arange(slots - 1, device=ids.device)
        distance = below[:, None] - below[None, :]
        shares = torch.where(distance > 0, 10.0 ** -distance.double(), 0.0)
        carried = ((columns - answer) @ shares.T).round()
        return pad((columns + carried).long().flip(1), (1, 0)), product

    def _columns(self, problem: Tensor, place_value: Tensor, operand: Tensor, columns: int) -> Tensor:
        """Sums of the digit products in each column, units first, float64 [n, columns]."""
        fits = (place_value > 0) & (place_value <= columns)
        at = torch.where(fits, place_value - 1, 0)
        blank = torch.zeros(len(problem), columns, dtype=torch.float64, device=problem.device)
        digits = self.values[problem].double()
        first, second = (
            blank.scatter_add(1, at, torch.where(fits & (operand == number), digits, 0.0)) for number in (1, 2)
        )
        # Polynomial product, computed with Toeplitz matrices of the second factor.
        shifted = pad(second, (columns - 1, 0)).unfold(1, columns, 1).flip(2)
        return (shifted @ first[:, :, None]).squeeze(2)


def running_sum_loss(logits: Tensor, sums: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of the digits of running sums [n, k], in nats, summed over the slots in `counted` [n, k].

    `logits` are [n, k, OUTPUTS], units first.
    """
    powers = 10 ** torch.arange(_DIGITS, device=sums.device)
    digits = sums[..., None] // powers % 10
    targets = torch.where(counted[..., None], digits, -100)
    return cross_entropy(logits.unflatten(-1, (_DIGITS, 10)).flatten(0, -2), targets.flatten(), reduction="sum")
