"""What an encoder may be asked beside a product's answer: the running sum in every column, by which people multiply.

Of a·b the running sum of column k is the carry into it and all products of digits that fall
on it: c_k = Σ_{i+j=k} a_i·b_j + ⌊c_{k−1} / 10⌋, and the answer's digit is its last one
(arXiv 2510.00184, which asks for it too). A linear layer on the slots' states tells its
digits; their cross-entropy is added to the loss. Nothing but training reads that layer.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from model.network.positions import Positions, digit_values
from model.tokenizer import Tokenizer

# Last digits of a running sum that are told: all of them, for factors of up to 111 digits.
_DIGITS = 4
OUTPUTS = 10 * _DIGITS


class RunningSum(nn.Module):
    """The running sums of products, from token ids; holds no weights."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.where = Positions(tokenizer)
        pieces = tokenizer.pieces()
        self.register_buffer("values", digit_values(tokenizer), persistent=False)
        self.register_buffer("times", torch.tensor([piece == "*" for piece in pieces]), persistent=False)
        self.register_buffer("others", torch.tensor([piece in {*"+-()"} for piece in pieces]), persistent=False)
        self.values: Tensor
        self.times: Tensor
        self.others: Tensor

    def forward(self, ids: Tensor, slots: int) -> tuple[Tensor, Tensor]:
        """Running sums, int64 [n, slots], of complete rows of token ids [n, width], and which rows are products, [n].

        A row counts as a product if two numbers and one `*` are all that it holds. The sum of a
        slot is that of its column; the sign's slot, the first, has 0.
        """
        problem, places = ids[:, :-slots], self.where(ids, slots)
        product = (self.times[problem].sum(1) == 1) & ~self.others[problem].any(1)
        columns = self._columns(problem, places.place[:, :-slots], places.operand[:, :-slots], slots - 1)
        answer = self.values[ids[:, 1 - slots :]].flip(1).double()
        # 10·carry_k = c_k − digit_k, so the carries need no loop over columns: a sum over those below, each
        # divided by ten once a column. What doubles lose is far below the half at which rounding would err.
        below = torch.arange(slots - 1, device=ids.device)
        distance = below[:, None] - below[None, :]
        shares = torch.where(distance > 0, 10.0 ** -distance.double(), 0.0)
        carried = ((columns - answer) @ shares.T).round()
        return pad((columns + carried).long().flip(1), (1, 0)), product

    def _columns(self, problem: Tensor, place: Tensor, operand: Tensor, columns: int) -> Tensor:
        """Sums of the products of digits that fall on each column, the units first, float64 [n, columns]."""
        fits = (place > 0) & (place <= columns)
        at = torch.where(fits, place - 1, 0)
        blank = torch.zeros(len(problem), columns, dtype=torch.float64, device=problem.device)
        digits = self.values[problem].double()
        first, second = (
            blank.scatter_add(1, at, torch.where(fits & (operand == number), digits, 0.0)) for number in (1, 2)
        )
        # A product of polynomials, by Toeplitz matrices of the second factor.
        shifted = pad(second, (columns - 1, 0)).unfold(1, columns, 1).flip(2)
        return (shifted @ first[:, :, None]).squeeze(2)


def running_sum_loss(logits: Tensor, sums: Tensor, counted: Tensor) -> Tensor:
    """Cross-entropy of the digits of running sums [n, k], in nats, added up over the slots that are `counted` [n, k].

    `logits` are [n, k, OUTPUTS], the units first.
    """
    powers = 10 ** torch.arange(_DIGITS, device=sums.device)
    digits = sums[..., None] // powers % 10
    targets = torch.where(counted[..., None], digits, -100)
    return cross_entropy(logits.unflatten(-1, (_DIGITS, 10)).flatten(0, -2), targets.flatten(), reduction="sum")
