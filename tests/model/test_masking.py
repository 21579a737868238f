import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.masking import loops_of, place_offsets, slot_masks


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


def test_loops_are_drawn_between_their_bounds_or_fixed() -> None:
    drawn = [loops_of(0, step, 2, 8) for step in range(2_000)]
    assert np.allclose(np.bincount(drawn, minlength=9)[2:] / 2_000, 1 / 7, atol=0.03)
    assert min(drawn) == 2
    assert drawn == [loops_of(0, step, 2, 8) for step in range(2_000)]
    assert loops_of(0, 5, 0, 3) == 3


def test_offsets_are_spread_evenly_and_follow_from_seed_and_step() -> None:
    shares = place_offsets(3, 9, 10_000)
    assert np.allclose(np.histogram(shares, bins=10, range=(0, 1))[0] / 10_000, 0.1, atol=0.02)
    assert np.array_equal(shares, place_offsets(3, 9, 10_000))
    assert not np.array_equal(shares, place_offsets(3, 10, 10_000))
