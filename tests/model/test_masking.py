import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.masking import slot_masks


@given(seed=st.integers(0, 99), step=st.integers(0, 10**6), slots=st.integers(2, 12), share=st.floats(0, 1))
def test_every_row_hides_at_least_one_slot(seed: int, step: int, slots: int, share: float) -> None:
    assert slot_masks(seed, step, 64, slots, share).any(1).all()


def test_masks_follow_from_seed_and_step_alone() -> None:
    one = slot_masks(1, 7, 512, 4, 0.5)
    assert np.array_equal(one, slot_masks(1, 7, 512, 4, 0.5))
    assert not np.array_equal(one, slot_masks(1, 8, 512, 4, 0.5))
    assert not np.array_equal(one, slot_masks(2, 7, 512, 4, 0.5))


def test_the_shares_are_those_asked_for() -> None:
    assert slot_masks(0, 0, 1_000, 4, 1.0).all()
    counts = np.bincount(slot_masks(0, 0, 40_000, 4, 0.0).sum(1), minlength=5)
    assert counts[0] == 0
    assert np.allclose(counts[1:] / 40_000, 0.25, atol=0.015)
    columns = slot_masks(0, 1, 40_000, 4, 0.0).mean(0)
    assert np.allclose(columns, columns.mean(), atol=0.015)
