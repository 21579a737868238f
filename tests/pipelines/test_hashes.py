import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.split.hash_set import HashSet

HASHES = st.integers(0, 2**64 - 1)


@given(st.sets(HASHES, max_size=300), st.lists(HASHES, max_size=300), st.randoms())
def test_find_returns_exactly_the_hashes_of_the_set_and_their_positions(
    held: set, others: list, random: object
) -> None:
    queries = [*held, *others]
    random.shuffle(queries)  # type: ignore[attr-defined]
    ordered = sorted(held)
    rows, places = HashSet.of(np.array(ordered, np.uint64)).find(np.array(queries, np.uint64))
    assert rows.tolist() == [row for row, query in enumerate(queries) if query in held]
    assert [ordered[place] for place in places] == [queries[row] for row in rows]


@pytest.mark.parametrize("size", [1, 63, 64, 65, 100_000])
def test_sets_of_any_size_contain_their_hashes(size: int) -> None:
    hashes = np.unique(np.random.default_rng(size).integers(0, 2**64, size, np.uint64))
    rows, places = HashSet.of(hashes).find(hashes)
    assert np.array_equal(rows, np.arange(len(hashes)))
    assert np.array_equal(places, rows)
    assert not HashSet.of(hashes).find(hashes + np.uint64(1))[0].size
