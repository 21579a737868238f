"""Masks an operand instead of the answer, as in 12+?=30, in rows of the same width, if exactly one number solves it.

The slots of the masked operand take up the row's padding, up to the number of digits that an answer can have. Like
the answer's slots, they hold blanks, then digits. So the visible tokens determine the number of slots, and it does not
reveal the operand's length.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.evaluation.decoding import answering, parts_of, spell
from model.network.encoder import Encoder
from model.network.positions import Positions
from model.tokenizer import BLANK, MASK, PAD, Tokenizer


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
        pieces = tokenizer.pieces()
        kinds = torch.tensor([[piece in known for piece in pieces] for known in ("+-*", "+-", "()")])
        self.register_buffer("kinds", kinds, persistent=False)
        self.kinds: Tensor

    def forward(self, ids: Tensor, slots: int, share: Tensor) -> MaskedRows:
        """Rows [n, width] with one operand each as slots; `share` [n] in [0, 1) selects it among the candidates.

        The last `slots` tokens are the answer. A row without a candidate is unchanged and has no masked tokens.
        """
        problem = ids[:, :-slots]
        place = self.positions(ids, slots).place_value[:, :-slots]
        begins = place > 0
        begins[:, 1:] &= place[:, :-1] == 0
        candidates = begins & (place < slots) & self._solvable(problem, begins, place)
        number = 1 + (share * candidates.sum(1)).long()
        chosen = candidates & (candidates.cumsum(1) == number[:, None])
        begin, length = chosen.int().argmax(1), (place * chosen).sum(1)
        extra = torch.minimum((problem == self.pad).sum(1), slots - 1 - length) * (length > 0)
        columns = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        first, begin, end = ((begin + more)[:, None] for more in (-extra, 0, length))
        # The tokens before the operand move left, into the padding.
        moved = ids.gather(1, columns + torch.where(columns < first, extra[:, None], 0))
        masked = (columns >= first) & (columns < end)
        return MaskedRows(moved.masked_fill(masked & (columns < begin), self.blank), masked)

    def _solvable(self, problem: Tensor, begins: Tensor, place: Tensor) -> Tensor:
        """Positions where an operand with a unique solution begins, bool [n, columns]."""
        operator, additive, bracket = (kind[problem] for kind in self.kinds)
        zero = begins & (place == 1) & (problem == self.zero)
        term = additive.cumsum(1)
        zeros = torch.zeros_like(term).scatter_add(1, term, zero.long()).gather(1, term)
        plain = ~bracket.any(1) & (operator.sum(1) == begins.sum(1) - 1)
        return plain[:, None] & (zeros - zero.long() == 0)


class OperandAnswers(NamedTuple):
    """An encoder's predictions of n masked operands."""

    problems: pa.Array
    """Text, such as 12+?=30."""
    operands: pa.Array
    """The masked operands as text."""
    predictions: pa.Array
    correct: NDArray[np.bool_]
    confidence: NDArray[np.float32]


def fill_operands(
    encoder: Encoder,
    tokenizer: Tokenizer,
    rows: NDArray[np.integer],
    slots: int,
    precision: torch.dtype,
    share: NDArray[np.float64],
) -> tuple[NDArray[np.bool_], OperandAnswers]:
    """Mask and predict one operand per row [n, width], in one pass.

    Returns which rows have an operand with a unique solution, bool [n], and the predictions for these rows. `share` [n]
    in [0, 1) selects the operand. The rows contain their true answers, which stay visible.
    """
    device = next(encoder.parameters()).device
    mask_operand = MissingOperand(tokenizer).to(device)
    rows_with = mask_operand(torch.from_numpy(rows.copy()).to(device).long(), slots, torch.from_numpy(share).to(device))
    solvable = rows_with.masked.any(1)
    ids, masked = rows_with.ids[solvable], rows_with.masked[solvable]
    filled, confidence = _filled(encoder, ids, masked, slots, tokenizer.id_of(MASK), precision)
    first = masked & (masked.cumsum(1) == 1)
    blank = mask_operand.blank
    shown = ids.masked_fill(ids == mask_operand.pad, blank).masked_fill(masked, blank)
    shown = shown.masked_fill(first, tokenizer.id_of(MASK))
    texts = [shown, *(values.masked_fill(~masked, blank) for values in (ids, filled))]
    problems, operands, predictions = (spell(text.to(torch.uint8).cpu().numpy(), tokenizer) for text in texts)
    correct = (filled == ids).all(1).cpu().numpy()
    return solvable.cpu().numpy(), OperandAnswers(problems, operands, predictions, correct, confidence.cpu().numpy())


def _filled(
    encoder: Encoder, ids: Tensor, masked: Tensor, slots: int, mask: int, precision: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The rows with the encoder's tokens at masked positions, int64 [n, width], and their joint probability, [n]."""
    filled, sure = ids.clone(), torch.zeros(len(ids), device=ids.device)
    with answering(encoder, precision):
        for part in parts_of(*ids.shape):
            logits = encoder(ids[part].masked_fill(masked[part], mask), slots, last=ids.shape[1])
            probability, chosen = logits.float().log_softmax(-1).max(-1)
            filled[part] = torch.where(masked[part], chosen, ids[part])
            sure[part] = torch.where(masked[part], probability, 0).sum(1).exp()
    return filled, sure
