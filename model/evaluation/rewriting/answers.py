"""Answers to single steps: the marks of an expression, or the result of one operation, for rows of these corpora.

These measure the two halves of a rewriting apart from each other, row by row, and with the corpus's own columns, such
as the largest column total of an operation.
"""

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from model.evaluation.decoding import answering, parts_of
from model.evaluation.predictor import TrainedRewriter
from model.evaluation.rewriting.outputs import mark_confidence, results_of
from model.objectives.rewriting import RewritingObjective
from model.tokenizer import MARK, UNMARKED, holds_marks

STEP_FAMILIES = ("marks", "steps")

_UNIT = re.compile(r"\d+|\D")


def step_answers(
    model: TrainedRewriter, problems: Sequence[str], rows: NDArray[np.integer], slots: int
) -> tuple[pa.Array, NDArray[np.bool_], NDArray[np.float32]]:
    """Texts, correctness and confidence of the answers to n complete token rows [n, width] with `slots` slots.

    An operation is right if its digits, its sign and whether it is done are right; its text has digits and sign.
    """
    encoder, device = model.encoder, next(model.encoder.parameters()).device
    objective = RewritingObjective(model.config.training, model.tokenizer).to(device)
    texts, right, confidence = list[str](), list[torch.Tensor](), list[torch.Tensor]()
    with answering(encoder, model.precision):
        for part in parts_of(*rows.shape):
            ids = torch.from_numpy(rows[part].astype(np.int64)).to(device)
            problem = ids[:, : -slots - 1]
            if holds_marks(ids.shape[1], slots):
                units = encoder.reader.units(problem)
                logits = encoder.mark(units, encoder.config.mark_loops).float()
                right.append(objective.right_marks(units, logits, ids, slots))
                confidence.append(mark_confidence(units, logits))
                marked = [row[there].tolist() for row, there in zip(logits > 0, units.inside, strict=True)]
                texts += [_marks(text, row) for text, row in zip(problems[part], marked, strict=True)]
            else:
                operations = encoder.reader.operations(problem)
                found = encoder.logits(operations, encoder.settled(operations))
                right.append(objective.right_results(operations, found, ids, slots))
                results = results_of(operations, found)
                confidence.append(torch.tensor([result.confidence for result in results]))
                texts += [result.text for result in results]
    return pa.array(texts), torch.cat(right).cpu().numpy(), torch.cat(confidence).float().cpu().numpy()


def _marks(text: str, marked: Sequence[bool]) -> str:
    """The marks of a problem, one per character, from those of its units."""
    units = _UNIT.findall(text)
    return "".join((MARK if mark else UNMARKED) * len(unit) for unit, mark in zip(units, marked, strict=True))
