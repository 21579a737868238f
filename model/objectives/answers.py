"""Objectives of the encoder that answers in one pass: which tokens of a batch are masked, and the loss.

`answer` masks slots of the answer. `anywhere` masks an operand instead in a share of the rows, if exactly one number
solves the problem; so 12+?=30 also trains subtraction. `all` masks digits of the problem and slots of the answer
alike. Its masked tokens may have several solutions, and the loss then trains their probabilities.

Everything depends on (seed, step, row) only. The loss divides by the number of masked tokens in the whole batch. So
only the order of additions depends on the number of processes.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad

from model.config.training import TrainingSpec
from model.network.encoder import Encoder
from model.network.flops import training_flops
from model.network.positions import Positions
from model.objectives.carry_propagation import CarryArrival
from model.objectives.column_sums import OUTPUTS, RunningSum, running_sum_loss
from model.objectives.missing_operand import MaskedRows, MissingOperand
from model.objectives.objective import Batch, Objective, per_token
from model.objectives.step_randomness import draws, loops_of, place_offsets, slot_masks, some_of, warm_loops_of
from model.objectives.training_pass import Loops, TrainingPass
from model.tokenizer import MASK, Tokenizer
from storage.order import derive_key

_IGNORED = -100


class AnswerObjective(Objective[Encoder]):
    """Masks the rows of a training step and computes the loss of predicting what is masked."""

    def __init__(self, spec: TrainingSpec, tokenizer: Tokenizer) -> None:
        super().__init__(spec, tokenizer)
        self.pieces, self.mask_id = tokenizer.size, tokenizer.id_of(MASK)
        self.positions = Positions(tokenizer)
        # Other objectives need a tokenizer with one token per digit.
        self.operand = MissingOperand(tokenizer) if spec.objective != "answer" else None
        self.running_sum = RunningSum(tokenizer) if spec.running_sum else None
        self.arrival = CarryArrival(tokenizer) if spec.encoder.carry_loops else None

    def encoder(self) -> Encoder:
        return Encoder(self.spec.encoder, self.tokenizer, running_sum=self.running_sum is not None)

    def training_pass(self, encoder: Encoder, precision: torch.dtype) -> TrainingPass:
        return TrainingPass(encoder, precision)

    def right(self, encoder: Encoder, ids: Tensor, slots: int) -> Tensor:
        """Which complete rows of token ids [n, width] are answered exactly in one pass, bool [n]."""
        shown = ids.clone()
        shown[:, -slots:] = self.mask_id
        return (encoder(shown, slots).argmax(-1) == ids[:, -slots:]).all(1)

    def flops(self, batch: Batch) -> int:
        (rows, width), loops = batch.ids.shape, self.loops(batch.step)
        return rows * training_flops(self.spec.encoder, self.outputs, width, self.last(batch), *loops)

    @property
    def outputs(self) -> int:
        """Number of logits per token."""
        return self.pieces + (OUTPUTS if self.running_sum else 0)

    def last(self, batch: Batch) -> int:
        """Number of last tokens of a row that may be masked."""
        return batch.slots if self.spec.objective == "answer" else batch.ids.shape[1]

    def loops(self, step: int) -> Loops:
        """Runs of the block in a step."""
        seed, encoder = self.spec.seed, self.spec.encoder
        trained = loops_of(seed, step, encoder.min_loops, encoder.loops)
        return Loops(trained, warm_loops_of(seed, step, encoder.warm_loops))

    def loss(self, forward: nn.Module, batch: Batch) -> Tensor:
        spec, slots, last = self.spec, batch.slots, self.last(batch)
        ids, masked = self.masks(batch)
        shown = ids.masked_fill(masked, self.mask_id)
        positions = self.positions(shown, slots)
        loops = self.loops(batch.step)
        offset = place_offsets(spec.seed, batch.step, batch.rows).float() if spec.encoder.random_offset else None
        logits = forward(shown, slots, positions, last, loops, offset)

        scored = masked[:, -last:]
        if self.arrival:
            undetermined = self.arrival(ids, slots, positions) + spec.encoder.carry_loops > sum(loops)
            scored = scored & ~pad(undetermined, (last - slots, 0))
        # Ignored by the loss instead of removed: their number would force a wait for the device.
        targets = ids[:, -last:].masked_fill(~scored, _IGNORED)
        pieces = logits[..., : self.pieces].float().flatten(0, 1)
        total = cross_entropy(pieces, targets.flatten(), ignore_index=_IGNORED, reduction="sum")
        loss = total * per_token(scored)
        if self.running_sum is None:
            return loss
        sums, product = self.running_sum(ids, slots, positions)
        scored = masked[:, -slots:] & product[:, None]
        auxiliary = running_sum_loss(logits[:, -slots:, self.pieces :].float(), sums, scored)
        return loss + auxiliary * per_token(scored) * spec.running_sum

    def masks(self, batch: Batch) -> MaskedRows:
        """The rows with the tokens to predict."""
        ids, slots, step, rows = batch
        spec, width = self.spec, ids.shape[1]
        if self.operand and spec.objective == "all":
            digits = self.positions(ids, slots).place_value > 0
            return MaskedRows(ids, self._tokens(digits, slots, step, rows))
        masks = slot_masks(spec.seed, step, rows, slots, spec.full_mask_share)
        answer = MaskedRows(ids, pad(masks, (width - slots, 0)))
        if self.operand is None:
            return answer
        drawn = draws(derive_key(spec.seed, "operand", step), rows, 2)
        operand = self.operand(ids, slots, drawn[:, 1])
        chosen = (operand.masked.any(1) & (drawn[:, 0] < spec.operand_share))[:, None]
        return MaskedRows(*(torch.where(chosen, one, other) for one, other in zip(operand, answer, strict=True)))

    def _tokens(self, digits: Tensor, slots: int, step: int, rows: Tensor) -> Tensor:
        """Mask over digits and slots alike, bool [n, width]; a share of the rows masks exactly the answer."""
        drawn = draws(derive_key(self.spec.seed, "all", step), rows, digits.shape[1] + 2)
        slot = torch.zeros_like(digits)
        slot[:, -slots:] = True
        full = drawn[:, :1] < self.spec.full_mask_share
        return torch.where(full, slot, some_of(slot | digits, drawn[:, 1], drawn[:, 2:]))
