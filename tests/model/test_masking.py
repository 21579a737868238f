import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.objectives.step_randomness import draws, loops_of, place_offsets, warm_loops_of
from model.objectives.step_randomness import slot_masks as masks_on_the_device
from storage.order import uniforms


def slot_masks(seed: int, step: int, rows: int, slots: int, full_share: float) -> NDArray[np.bool_]:
    return masks_on_the_device(seed, step, torch.arange(rows), slots, full_share).numpy()


@given(key=st.integers(0, 2**64 - 1), first=st.integers(0, 2**40), columns=st.integers(1, 9))
def test_what_is_drawn_on_the_device_has_numpys_bits(key: int, first: int, columns: int) -> None:
    rows = torch.arange(first, first + 20)
    counters = rows.numpy().astype(np.uint64)[:, None] * np.uint64(columns) + np.arange(columns, dtype=np.uint64)
    assert np.array_equal(draws(key, rows, columns).numpy(), uniforms(key, counters))


def test_a_rank_draws_for_its_rows_what_one_process_draws_for_them() -> None:
    whole, mine = torch.arange(128), torch.arange(32, 96)
    assert torch.equal(masks_on_the_device(1, 2, whole, 5, 0.3)[32:96], masks_on_the_device(1, 2, mine, 5, 0.3))
    assert torch.equal(place_offsets(1, 2, whole)[32:96], place_offsets(1, 2, mine))


@given(seed=st.integers(0, 99), step=st.integers(0, 10**6), slots=st.integers(2, 12), share=st.floats(0, 1))
def test_every_row_hides_at_least_one_slot(seed: int, step: int, slots: int, share: float) -> None:
    assert slot_masks(seed, step, 64, slots, share).any(1).all()


def test_masks_follow_from_seed_and_step_alone() -> None:
    one = slot_masks(1, 7, 512, 4, 0.5)
    assert np.array_equal(one, slot_masks(1, 7, 512, 4, 0.5))
    assert not np.array_equal(one, slot_masks(1, 8, 512, 4, 0.5))
    assert not np.array_equal(one, slot_masks(2, 7, 512, 4, 0.5))


def test_the_shares_are_the_requested_ones() -> None:
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


def test_half_of_the_steps_have_no_warm_loops_and_the_others_one_to_most() -> None:
    drawn = [warm_loops_of(0, step, 4) for step in range(4_000)]
    assert np.allclose(np.bincount(drawn) / 4_000, [1 / 2, 1 / 8, 1 / 8, 1 / 8, 1 / 8], atol=0.03)
    assert warm_loops_of(0, 5, 0) == 0


def test_offsets_are_spread_evenly_and_follow_from_seed_and_step() -> None:
    rows = torch.arange(10_000)
    shares = place_offsets(3, 9, rows).numpy()
    assert np.allclose(np.histogram(shares, bins=10, range=(0, 1))[0] / 10_000, 0.1, atol=0.02)
    assert np.array_equal(shares, place_offsets(3, 9, rows).numpy())
    assert not np.array_equal(shares, place_offsets(3, 10, rows).numpy())
