"""From logits to answers: the argmax of every slot in one pass, and the text that the slots spell."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from model.encoder import Encoder
from model.tokenizer import BLANK, MASK, Tokenizer
from storage.columns import to_strings

PASSES = 1
_CHUNK = 2048


@dataclass(frozen=True)
class Answers:
    """Answers of n problems: `ids` uint8 [n, slots], and `confidence` float32 [n], the slots' joint probability."""

    ids: NDArray[np.uint8]
    confidence: NDArray[np.float32]


def fill_slots(encoder: Encoder, tokenizer: Tokenizer, rows: NDArray[np.uint8], precision: torch.dtype) -> Answers:
    """Fill the answer slots of token rows, uint8 [n, width], whatever stands in them now."""
    slots, mask = encoder.layout.answer, tokenizer.id_of(MASK)
    device = next(encoder.parameters()).device
    found, sure = [], []
    encoder.eval()
    with torch.no_grad(), torch.autocast(device.type, precision, enabled=precision is not torch.float32):
        for first in range(0, len(rows), _CHUNK):
            ids = torch.from_numpy(np.array(rows[first : first + _CHUNK])).to(device)
            ids[:, -slots:] = mask
            best, chosen = encoder(ids).float().log_softmax(-1).max(-1)
            found.append(chosen.to(torch.uint8).cpu().numpy())
            sure.append(best.sum(-1).exp().cpu().numpy())
    return Answers(np.concatenate(found), np.concatenate(sure))


def spell(ids: NDArray[np.uint8], tokenizer: Tokenizer) -> pa.Array:
    """The text of filled slots [n, slots]: blanks are left out, a special piece in a slot is written '?'."""
    table = bytearray(b"?" * 256)
    for number, piece in enumerate(tokenizer.pieces()):
        if len(piece) == 1:
            table[number] = ord(piece)
    table[tokenizer.id_of(BLANK)] = 0
    characters = ids.tobytes().translate(bytes(table))
    return to_strings(characters, (np.frombuffer(characters, np.uint8).reshape(ids.shape) != 0).sum(1))
