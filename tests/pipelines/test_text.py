import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.problems.arithmetic import digit_counts, limbs_of
from pipelines.problems.text import character_words, decimal_text
from storage.datasets.arrow_buffers import to_strings


def texts(values: list[int]) -> list[str]:
    numbers = np.array(values, np.int64)
    limbs = limbs_of(np.abs(numbers), 10**18 + 1)
    return decimal_text(limbs, digit_counts(limbs), numbers < 0).to_pylist()  # type: ignore[no-any-return]


@given(st.lists(st.integers(-(10**18), 10**18), min_size=1, max_size=200))
def test_decimal_text_equals_pythons(values: list[int]) -> None:
    assert texts(values) == [str(value) for value in values]


@pytest.mark.parametrize("value", [0, 9, 10, 9_999, 10_000, -1, -9_999, -10_000, 99_999_999, -99_999_999, 10**18])
def test_decimal_text_is_right_where_its_length_changes(value: int) -> None:
    for near in (value - 1, value, value + 1):
        assert texts([near]) == [str(near)]


@pytest.mark.parametrize(("low", "high", "suffix"), [(0, 99, "+"), (0, 9, ""), (5, 1_234, "*"), (0, 99_999, "-")])
def test_a_table_holds_every_number_with_its_suffix(low: int, high: int, suffix: str) -> None:
    texts = [f"{number}{suffix}" for number in range(low, high + 1)]
    words = character_words(low, high, suffix)
    assert to_strings(words.tobytes(), np.array([len(text) for text in texts])).to_pylist() == texts


def test_lengths_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="add up"):
        to_strings(b"1\0002", np.array([3]))
