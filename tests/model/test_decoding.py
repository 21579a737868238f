import numpy as np
import pytest
import torch
from torch import Tensor

from model.config import Decoding
from model.decoding import fill_slots
from model.tokenizer import MASK
from tests.builders import Built


class Scripted(torch.nn.Module):
    """Logits that follow from what stands in the slots: each slot says 5 and how many slots are still masked."""

    def __init__(self, mask: int, pieces: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.mask, self.pieces, self.seen = mask, pieces, list[list[int]]()

    def forward(self, ids: Tensor, slots: int, *, loops: int, sharpness: float, unit: bool) -> Tensor:
        open_slots = ids[:, -slots:] == self.mask
        self.seen.append(open_slots[0].long().tolist())
        logits = torch.zeros(len(ids), slots, self.pieces)
        # The further left, the surer.
        sure = torch.arange(slots, 0, -1).float().expand(len(ids), -1)
        return logits.scatter_(2, 5 + open_slots.sum(1)[:, None, None].expand(-1, slots, 1), sure[..., None])


@pytest.mark.parametrize(
    ("decoding", "answer", "seen"),
    [
        (Decoding(), [4, 4, 4, 4], [[1, 1, 1, 1]]),
        (Decoding(passes=2), [4, 4, 2, 2], [[1, 1, 1, 1], [0, 0, 1, 1]]),
        (Decoding(passes=2, order="units-first"), [2, 2, 4, 4], [[1, 1, 1, 1], [1, 1, 0, 0]]),
        (Decoding(passes=4, order="units-first"), [1, 2, 3, 4], None),
        (Decoding(passes=3), [4, 3, 2, 2], None),
        (Decoding(passes=99), [4, 3, 2, 1], None),
    ],
)
def test_each_pass_fixes_its_share_in_the_order_asked_for(
    small: Built, decoding: Decoding, answer: list[int], seen: list[list[int]] | None
) -> None:
    encoder = Scripted(small.tokenizer.id_of(MASK), small.tokenizer.size)
    rows = np.zeros((3, 9), np.uint8)
    found = fill_slots(encoder, small.tokenizer, rows, 4, torch.float32, decoding)  # type: ignore[arg-type]
    assert (found.ids - 5).tolist() == [answer] * 3
    assert not rows.any()
    assert len(encoder.seen) == min(decoding.passes, 4)
    assert seen is None or encoder.seen == seen
    # Each slot's probability of its own answer: e^s against the other pieces.
    pieces = small.tokenizer.size
    expected = np.prod([np.exp(s) / (np.exp(s) + pieces - 1) for s in (1, 2, 3, 4)])
    assert found.confidence == pytest.approx(np.full(3, expected), rel=1e-4)
