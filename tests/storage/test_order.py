import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.order import LARGEST_SIZE, Permutation, derive_key, uniforms


@given(size=st.integers(1, 20_000), key=st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_a_permutation_is_a_bijection_of_any_size(size: int, key: int) -> None:
    images = Permutation(size, key)(np.arange(size, dtype=np.uint64))
    assert np.array_equal(np.sort(images), np.arange(size))


@given(size=st.integers(1, LARGEST_SIZE), seed=st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_a_permutation_of_huge_size_stays_inside_and_never_collides(size: int, seed: int) -> None:
    positions = np.unique(np.random.default_rng(seed).integers(0, size, 5_000, dtype=np.uint64))
    images = Permutation(size, derive_key(seed))(positions)
    assert images.max() < size
    assert len(np.unique(images)) == len(positions)


def test_a_permutation_is_computed_alike_in_one_piece_and_in_many() -> None:
    permutation = Permutation(99_991, derive_key("pieces"))
    positions = np.arange(99_991, dtype=np.uint64)
    pieces = [permutation(part) for part in np.array_split(positions, 37)]
    assert np.array_equal(np.concatenate(pieces), permutation(positions))


@pytest.mark.parametrize("size", [10**4, 10**8, 2_700_000_000])
def test_neighbours_are_not_neighbours_after_the_permutation(size: int) -> None:
    rows = min(size, 200_000)
    images = Permutation(size, derive_key("neighbours", size))(np.arange(rows, dtype=np.uint64)).astype(float)
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 5 / np.sqrt(rows)
    steps = np.abs(np.diff(images)) / size
    # The distance of two random points of [0, 1) is 1/3 on average, with a standard deviation of 0.236.
    assert abs(steps.mean() - 1 / 3) < 5 * 0.236 / np.sqrt(rows) + 2 / size


def test_a_permutation_fills_its_range_evenly() -> None:
    images = Permutation(10**8, derive_key("even"))(np.arange(10**6, dtype=np.uint64))
    counts = np.bincount((images // 10**6).astype(int), minlength=100)
    chi_squared = ((counts - 10_000) ** 2 / 10_000).sum()
    assert chi_squared < 99 + 6 * np.sqrt(2 * 99)


def test_other_keys_give_other_orders() -> None:
    positions = np.arange(1_000, dtype=np.uint64)
    one, other = (Permutation(10**6, derive_key(seed))(positions) for seed in (0, 1))
    assert (one == other).mean() < 0.01


@pytest.mark.parametrize("size", [0, -1, LARGEST_SIZE + 1])
def test_an_impossible_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="not possible"):
        Permutation(size, 0)


def test_keys_depend_on_every_part_and_on_the_kinds() -> None:
    keys = {derive_key(1, "a"), derive_key("a", 1), derive_key("1", "a"), derive_key(1, "a", 0), derive_key("1a")}
    assert len(keys) == 5


def test_uniforms_are_uniform() -> None:
    drawn = uniforms(derive_key("uniform"), np.arange(200_000, dtype=np.uint64))
    assert 0 <= drawn.min() <= drawn.max() < 1
    distance = np.abs(np.sort(drawn) - (np.arange(len(drawn)) + 0.5) / len(drawn)).max()
    assert distance < 1.95 / np.sqrt(len(drawn))  # Kolmogorov–Smirnov at 0.1 %
