import pytest

from tests.benchmarks.measure import Figure, ratio


def test_only_ratios_and_bytes_have_a_verdict() -> None:
    assert Figure("a", 2.0, "×", 3, 1).verdict == "least"
    assert Figure("a", 2.0, "MB", 1, at_most=True).verdict == "missed"
    assert Figure("a", 2.0, "M rows/s").verdict == ""
    for unit in ("M rows/s", "ms", "s", "rows/s/core"):
        with pytest.raises(ValueError, match="set it to a ratio or to bytes"):
            Figure("a", 2.0, unit, least=1)


def test_both_sides_of_a_ratio_are_timed_by_turns() -> None:
    turns = list[str]()

    def side(name: str, rate: float) -> float:
        turns.append(name)
        return rate

    assert ratio(lambda: side("ours", 6.0), lambda: side("peer", 2.0), 3) == (6.0, 2.0, 3.0)
    assert turns == ["ours", "peer"] * 3
