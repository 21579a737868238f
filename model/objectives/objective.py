"""What is hidden of a row in training, and what is asked beside it; on the device, from token ids alone.

`answer` hides slots of the answer. `anywhere` hides an operand instead in a share of the
rows, where one number alone solves the problem, so that 12+?=30 teaches subtraction too.
`all` hides digits of the problem and slots of the answer alike; what is hidden then need not
be certain, and the loss asks for how likely it is.
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
    """The questions of a training, keyed by (seed, step, row); holds no weights."""

    def __init__(self, spec: TrainingSpec, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.spec = spec
        # A tokenizer whose tokens aren't digits can be asked for answers alone.
        self.operand = MissingOperand(tokenizer) if spec.objective != "answer" else None

    def forward(self, ids: Tensor, slots: int, step: int, rows: Tensor) -> Question:
        """Questions from complete rows, int64 [n, width], the last `slots` of them the answer's.

        `rows`, int64 [n], are their numbers in the global batch.
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
        """How many of a row's last tokens may be hidden."""
        return slots if self.spec.objective == "answer" else width

    def _tokens(self, digit: Tensor, slots: int, step: int, rows: Tensor) -> Tensor:
        """Digits and slots hidden alike, bool [n, width]; of a share of the rows the answer, and nothing else."""
        drawn = draws(derive_key(self.spec.seed, "all", step), rows, digit.shape[1] + 2)
        slot = torch.zeros_like(digit)
        slot[:, -slots:] = True
        full = drawn[:, :1] < self.spec.full_mask_share
        return torch.where(full, slot, some_of(slot | digit, drawn[:, 1], drawn[:, 2:]))
