import numpy as np
import pytest

from model.evaluation.calibration import THRESHOLDS, calibration


def test_honest_confidence_has_no_error_and_boasting_has_its_excess() -> None:
    correct = np.arange(1000) % 4 > 0
    assert calibration(np.full(1000, 0.75, np.float32), correct).expected_error == pytest.approx(0)
    assert calibration(np.full(1000, 1.0, np.float32), correct).expected_error == pytest.approx(0.25)
    assert calibration(np.full(1000, 0.0, np.float32), correct).expected_error == pytest.approx(0.75)


def test_calibration_error_and_coverage_equal_a_plain_count() -> None:
    chance = np.random.default_rng(0)
    confidence = chance.random(5_000, np.float32) ** 0.2
    correct = chance.random(5_000) < confidence**2
    found = calibration(confidence, correct)
    expected = 0.0
    for low in range(10):
        inside = [i for i in range(5_000) if low / 10 <= float(confidence[i]) < (low + 1) / 10 + (low == 9)]
        if inside:
            right, sure = (sum(float(values[i]) for i in inside) / len(inside) for values in (correct, confidence))
            expected += len(inside) / 5_000 * abs(right - sure)
    assert found.expected_error == pytest.approx(expected, abs=1e-6)
    assert [point.below for point in found.coverage] == list(THRESHOLDS)
    for point in found.coverage:
        kept = [bool(c) for c, s in zip(correct, confidence, strict=True) if float(s) >= point.below]
        assert point.answered == pytest.approx(len(kept) / 5_000)
        assert point.right == pytest.approx(sum(kept) / len(kept))
    assert (found.coverage[0].answered, found.coverage[0].right) == (1.0, pytest.approx(correct.mean()))


def test_where_nothing_is_sure_enough_nothing_is_right() -> None:
    found = calibration(np.zeros(3, np.float32), np.ones(3, np.bool_))
    assert [(point.answered, point.right) for point in found.coverage] == [(1.0, 1.0)] + [(0.0, None)] * 6
