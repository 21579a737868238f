"""Decodes logits to answers: the argmax of every slot, in one or several passes, and the text of the slots."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.config.evaluation import ONE_PASS, Decoding
from model.network.encoder import Encoder
from model.tokenizer import BLANK, MASK, Tokenizer
from storage.datasets.arrow_buffers import to_strings

_CHUNK_TOKENS = 1 << 15


@dataclass(frozen=True)
class Answers:
    """Answers of n problems: `ids` [n, slots], and `confidence` float32 [n], the product of the slot probabilities."""

    ids: NDArray[np.integer]
    confidence: NDArray[np.float32]


def fill_slots(
    encoder: Encoder,
    tokenizer: Tokenizer,
    rows: NDArray[np.integer],
    slots: int,
    precision: torch.dtype,
    decoding: Decoding = ONE_PASS,
) -> Answers:
    """Predict the last `slots` tokens of token rows [n, width], whose content is ignored; ids have the rows' type."""
    device = next(encoder.parameters()).device
    found, sure = [], []
    with answering(encoder, precision):
        for part in parts_of(*rows.shape):
            ids = torch.from_numpy(np.array(rows[part])).to(device).long()
            ids[:, -slots:] = tokenizer.id_of(MASK)
            confidence = _fill(encoder, ids, slots, decoding)
            found.append(ids[:, -slots:].cpu().numpy().astype(rows.dtype))
            sure.append(confidence.cpu().numpy())
    return Answers(np.concatenate(found), np.concatenate(sure))


def logits_of_slots(encoder: Encoder, ids: Tensor, slots: int, decoding: Decoding) -> Tensor:
    """Logits [n, slots, pieces] of one pass over token ids [n, width]; the decoding sets loops, sharpness and unit."""
    inputs = encoder.embed(ids, slots)
    inputs = replace(inputs, sharpness=decoding.sharpness, unit=inputs.unit if decoding.unit == "on" else None)
    return encoder.head(encoder.iterate(inputs, decoding.loops or encoder.config.loops_of(slots), slots))


@contextmanager
def answering(encoder: nn.Module, precision: torch.dtype) -> Iterator[None]:
    """Context for inference: evaluation mode, no gradients, and autocast to `precision`."""
    device = next(encoder.parameters()).device
    encoder.eval()
    with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision is not torch.float32):
        yield


def parts_of(rows: int, width: int) -> Iterator[slice]:
    """Slices of token rows [rows, width] that an encoder processes in one call."""
    step = max(1, _CHUNK_TOKENS // width)
    return (slice(first, first + step) for first in range(0, rows, step))


def _fill(encoder: Encoder, ids: Tensor, slots: int, decoding: Decoding) -> Tensor:
    """Fill the slots of `ids` [n, width] in place, an equal share in each pass; returns the confidence [n]."""
    answer = ids[:, -slots:]
    is_open = torch.ones_like(answer, dtype=torch.bool)
    total = torch.zeros(len(ids), device=ids.device)
    # Units first: the units are the last slot. The sign depends on all digits and is fixed last.
    urgency = torch.arange(slots, device=ids.device, dtype=torch.float32).expand(answer.shape)
    passes = min(decoding.passes, slots)
    for number in range(passes):
        logits = logits_of_slots(encoder, ids, slots, decoding)
        sure, chosen = logits.float().log_softmax(-1).max(-1)
        rank = (sure if decoding.order == "confidence" else urgency).masked_fill(~is_open, -torch.inf)
        # The sizes add up to `slots`, so the final pass fills all remaining slots.
        size = slots * (number + 1) // passes - slots * number // passes
        fixed = torch.zeros_like(is_open).scatter_(1, rank.topk(size, 1).indices, True)
        answer[fixed] = chosen[fixed]
        total += torch.where(fixed, sure, 0).sum(-1)
        is_open &= ~fixed
    return total.exp()


def spell(ids: NDArray[np.integer], tokenizer: Tokenizer) -> pa.Array:
    """The text of filled slots [n, slots], without blanks; other special pieces become '?'."""
    texts = ["?" if piece.startswith("[") else piece for piece in tokenizer.pieces()]
    texts[tokenizer.id_of(BLANK)] = ""
    # One row per piece, padded with zero bytes.
    table = np.array([text.encode() for text in texts])
    pieces = table.view(np.uint8).reshape(len(texts), -1)
    characters = pieces.take(ids, axis=0).reshape(len(ids), ids.shape[1] * pieces.shape[1])
    return to_strings(characters.tobytes(), (characters != 0).sum(1))
