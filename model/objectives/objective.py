"""Selects the tokens that training masks, on the device, from token ids.

`answer` masks slots of the answer. `anywhere` masks an operand instead in a share of the rows, if exactly one number
solves the problem; so 12+?=30 also trains subtraction. `all` masks digits of the problem and slots of the answer
alike. Its masked tokens may have several solutions, and the loss then trains their probabilities.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from model.config.training import TrainingSpec
from model.evaluation.operand_recovery import MissingOperand, Question
from model.objectives.step_randomness import draws, slot_masks, some_of
from model.tokenizer import Tokenizer
from storage.order import derive_key


class Objective(nn.Module):
    """Masks the rows of a training step, keyed by (seed, step, row); has no weights."""

    def __init__(self, spec: TrainingSpec, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.spec = spec
        # Other objectives need a tokenizer with one token per digit.
        self.operand = MissingOperand(tokenizer) if spec.objective != "answer" else None

    def forward(self, ids: Tensor, slots: int, step: int, rows: Tensor) -> Question:
        """Masks complete rows `ids`, int64 [n, width], whose last `slots` tokens are the answer.

        `rows`, int64 [n], are their indices in the global batch.
        """
        spec, width = self.spec, ids.shape[1]
        if self.operand and spec.objective == "all":
            places = self.operand.where(ids, slots).place
            return Question(ids, self._tokens(places > 0, slots, step, rows))
        masks = slot_masks(spec.seed, step, rows, slots, spec.full_mask_share)
        answer = Question(ids, pad(masks, (width - slots, 0)))
        if self.operand is None:
            return answer
        drawn = draws(derive_key(spec.seed, "operand", step), rows, 2)
        operand = self.operand(ids, slots, drawn[:, 1])
        taken = (operand.hidden.any(1) & (drawn[:, 0] < spec.operand_share))[:, None]
        return Question(*(torch.where(taken, one, other) for one, other in zip(operand, answer, strict=True)))

    def asked(self, slots: int, width: int) -> int:
        """Number of last tokens of a row that may be masked."""
        return slots if self.spec.objective == "answer" else width

    def _tokens(self, digit: Tensor, slots: int, step: int, rows: Tensor) -> Tensor:
        """Mask over digits and slots alike, bool [n, width]; a share of the rows masks exactly the answer."""
        drawn = draws(derive_key(self.spec.seed, "all", step), rows, digit.shape[1] + 2)
        slot = torch.zeros_like(digit)
        slot[:, -slots:] = True
        full = drawn[:, :1] < self.spec.full_mask_share
        return torch.where(full, slot, some_of(slot | digit, drawn[:, 1], drawn[:, 2:]))
