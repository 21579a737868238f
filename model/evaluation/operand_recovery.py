"""Scores predictions of a masked operand instead of the answer, as in 12+?=30."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.evaluation.decoding import answering, parts_of, spell
from model.evaluation.predictor import TrainedEncoder
from model.evaluation.problem_batches import ProblemBatch, ScoredBatch
from model.objectives.missing_operand import MissingOperand
from model.tokenizer import MASK


def score_operands(model: TrainedEncoder, batch: ProblemBatch, share: NDArray[np.float64]) -> ScoredBatch:
    """Mask and predict one operand of each problem that has an operand with a unique solution, in one pass.

    `share` [n] in [0, 1) selects the operand. The true answers stay visible. Other problems are left out.
    """
    tokenizer, device = model.tokenizer, next(model.encoder.parameters()).device
    mask_operand = MissingOperand(tokenizer).to(device)
    rows = torch.from_numpy(batch.rows.copy()).to(device).long()
    rows, masked = mask_operand(rows, batch.slots, torch.from_numpy(share).to(device))
    solvable = masked.any(1)
    ids, masked = rows[solvable], masked[solvable]
    filled, confidence = _filled(model, ids, masked, batch.slots)
    first = masked & (masked.cumsum(1) == 1)
    blank = mask_operand.blank
    shown = ids.masked_fill(ids == mask_operand.pad, blank).masked_fill(masked, blank)
    shown = shown.masked_fill(first, tokenizer.id_of(MASK))
    texts = [shown, *(values.masked_fill(~masked, blank) for values in (ids, filled))]
    problems, operands, predictions = (spell(text.to(torch.uint8).cpu().numpy(), tokenizer) for text in texts)
    return ScoredBatch(
        batch.where(solvable.cpu().numpy()),
        {"problem": problems, "answer": operands},
        predictions,
        (filled == ids).all(1).cpu().numpy(),
        confidence.cpu().numpy(),
    )


def _filled(model: TrainedEncoder, ids: Tensor, masked: Tensor, slots: int) -> tuple[Tensor, Tensor]:
    """The rows with the encoder's tokens at masked positions, int64 [n, width], and their joint probability, [n]."""
    filled, confidence = ids.clone(), torch.zeros(len(ids), device=ids.device)
    mask = model.tokenizer.id_of(MASK)
    with answering(model.encoder, model.precision):
        for part in parts_of(*ids.shape):
            logits = model.encoder(ids[part].masked_fill(masked[part], mask), slots, last=ids.shape[1])
            probability, chosen = logits.float().log_softmax(-1).max(-1)
            filled[part] = torch.where(masked[part], chosen, ids[part])
            confidence[part] = torch.where(masked[part], probability, 0).sum(1).exp()
    return filled, confidence
