import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.order import LARGEST_SIZE, Permutation, derive_key, halves, permuted, uniforms


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
    with pytest.raises(ValueError, match=f"^a permutation of {size} rows is not possible, take 1 to {2**62}$"):
        Permutation(size, 0)


@given(size=st.integers(1, LARGEST_SIZE))
def test_the_halves_of_a_size_are_nearly_equal_and_hardly_too_large(size: int) -> None:
    high, low = map(int, halves(size))
    assert size <= high * low < size + high
    assert high - 1 <= size**0.5 * (1 + 1e-9) + 1
    assert (high - 1) ** 2 < size


def salted(positions: np.ndarray, sizes: list[int], key: int, salts: np.ndarray) -> np.ndarray:
    high, low = np.array([halves(size) for size in sizes], np.uint64).T
    return permuted(positions, np.array(sizes, np.uint64), high, low, key, salts)


def test_a_permutation_for_each_row_without_salt_is_the_plain_one_of_its_size() -> None:
    sizes = [size for size in (1, 2, 3, 5, 6, 11, 50, 1_000) for _ in range(size)]
    positions = np.array([row for size in (1, 2, 3, 5, 6, 11, 50, 1_000) for row in range(size)], np.uint64)
    found = salted(positions, sizes, 99, np.zeros(len(sizes), np.uint32))
    expected = [
        int(Permutation(size, 99)(np.array([row], np.uint64))[0]) for size, row in zip(sizes, positions, strict=True)
    ]
    assert found.tolist() == expected


def test_a_permutation_for_each_row_is_another_bijection_for_each_salt() -> None:
    positions, orders = np.arange(51, dtype=np.uint64), set()
    for salt in range(20):
        found = salted(positions, [51] * 51, 7, np.full(51, salt, np.uint32))
        assert sorted(found.tolist()) == list(range(51))
        orders.add(tuple(found.tolist()))
    assert len(orders) == 20


def test_keys_depend_on_every_part_and_on_the_kinds() -> None:
    keys = {derive_key(1, "a"), derive_key("a", 1), derive_key("1", "a"), derive_key(1, "a", 0), derive_key("1a")}
    assert len(keys) == 5


def test_uniforms_are_uniform() -> None:
    drawn = uniforms(derive_key("uniform"), np.arange(200_000, dtype=np.uint64))
    assert 0 <= drawn.min() <= drawn.max() < 1
    distance = np.abs(np.sort(drawn) - (np.arange(len(drawn)) + 0.5) / len(drawn)).max()
    assert distance < 1.95 / np.sqrt(len(drawn))  # Kolmogorov–Smirnov at 0.1 %
