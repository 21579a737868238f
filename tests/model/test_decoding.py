import numpy as np
import pytest
import torch
from torch import Tensor

from model.config.encoder import EncoderConfig
from model.config.evaluation import Decoding
from model.evaluation.decoding import answering, fill_slots, parts_of, spell
from model.network.encoder import Inputs
from model.tokenizer import BLANK, MASK, PAD
from tests.builders import Built


class Scripted(torch.nn.Module):
    """Logits that follow from what stands in the slots: each slot says 5 and how many slots are still masked."""

    def __init__(self, mask: int, pieces: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.mask, self.pieces, self.seen = mask, pieces, list[list[int]]()
        self.problems, self.how = list[Tensor](), set[tuple[object, ...]]()
        self.head, self.config = torch.nn.Identity(), EncoderConfig(loops=2)

    def embed(self, ids: Tensor, slots: int) -> Inputs:
        self.problems.append(ids[:, :-slots].clone())
        return Inputs(ids, ids, unit=lambda hidden: hidden)

    def iterate(self, inputs: Inputs, loops: int, slots: int) -> Tensor:
        ids = inputs.embedded
        self.how.add((loops, inputs.sharpness, inputs.unit is not None, self.training, torch.is_grad_enabled()))
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
def test_each_pass_fills_its_share_in_the_requested_order(
    small: Built, decoding: Decoding, answer: list[int], seen: list[list[int]] | None
) -> None:
    encoder = Scripted(small.tokenizer.id_of(MASK), small.tokenizer.size)
    rows = np.zeros((3, 9), np.uint8)
    found = fill_slots(encoder, small.tokenizer, rows, 4, torch.float32, decoding)  # type: ignore[arg-type]
    assert (found.ids - 5).tolist() == [answer] * 3
    assert found.ids.dtype == rows.dtype
    assert not rows.any()
    assert not any(problems.any() for problems in encoder.problems)
    assert len(encoder.seen) == min(decoding.passes, 4)
    assert seen is None or encoder.seen == seen
    # Each slot's probability of its own answer: e^s against the other pieces.
    pieces = small.tokenizer.size
    expected = np.prod([np.exp(s) / (np.exp(s) + pieces - 1) for s in (1, 2, 3, 4)])
    # A product of four float32 probabilities, each rounded to 1e-7; another slot's probability changes it by a half.
    assert found.confidence == pytest.approx(np.full(3, expected), rel=1e-4)


@pytest.mark.parametrize(
    ("decoding", "how"),
    [
        (Decoding(), (2, 1.0, True, False, False)),
        (Decoding(loops=3, sharpness=1.5, unit="off"), (3, 1.5, False, False, False)),
    ],
)
def test_the_encoder_runs_with_the_decoding_settings_without_gradients(
    small: Built, decoding: Decoding, how: tuple[object, ...]
) -> None:
    encoder = Scripted(small.tokenizer.id_of(MASK), small.tokenizer.size)
    fill_slots(encoder, small.tokenizer, np.zeros((3, 9), np.uint8), 4, torch.float32, decoding)  # type: ignore[arg-type]
    assert encoder.how == {how}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_an_encoder_answers_in_its_precision(precision: torch.dtype) -> None:
    one = torch.ones(2, 2)
    with answering(torch.nn.Linear(1, 1), precision):  # type: ignore[arg-type]
        assert (one @ one).dtype is precision


@pytest.mark.parametrize(("rows", "width"), [(0, 9), (1, 9), (10_000, 9), (3, 1 << 15), (3, 1 << 20)])
def test_parts_are_as_large_as_they_may_be_and_hold_each_row_once(rows: int, width: int) -> None:
    parts = [range(rows)[part] for part in parts_of(rows, width)]
    assert [row for part in parts for row in part] == list(range(rows))
    most = max(1, 2**15 // width)
    assert [len(part) for part in parts[:-1]] == [most] * (len(parts) - 1)


def test_rows_of_several_parts_are_filled_in_their_order(small: Built) -> None:
    encoder = Scripted(small.tokenizer.id_of(MASK), small.tokenizer.size)
    rows = np.random.default_rng(0).integers(0, 9, (5_000, 16), np.uint8)
    found = fill_slots(encoder, small.tokenizer, rows, 4, torch.float32)  # type: ignore[arg-type]
    assert found.ids.shape == (5_000, 4)
    assert found.confidence.shape == (5_000,)
    assert len(encoder.problems) == 3
    assert np.array_equal(np.concatenate(encoder.problems), rows[:, :-4])


def test_slots_are_spelt_without_blanks_and_special_pieces_as_questions(small: Built) -> None:
    pieces = [[BLANK, "-", "4", "2"], [BLANK, BLANK, BLANK, "0"], [BLANK, MASK, "7", PAD], [BLANK] * 4]
    ids = np.array([[small.tokenizer.id_of(piece) for piece in row] for row in pieces], np.uint8)
    assert spell(ids, small.tokenizer).to_pylist() == ["-42", "0", "?7?", ""]
