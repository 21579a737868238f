"""Calibration of an encoder's confidence, and accuracy against coverage if answers of low confidence are withheld."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

THRESHOLDS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99, 0.999)
_BINS = 10


class Coverage(BaseModel, frozen=True):
    """Coverage and accuracy if answers below a confidence threshold are withheld."""

    below: float = Field(description="Answers with a lower confidence are withheld.")
    answered: float = Field(description="Share of the problems whose answer is not withheld.")
    right: float | None = Field(description="Share of these answers that are correct; null if all are withheld.")


class Calibration(BaseModel, frozen=True):
    """Agreement of confidence and accuracy."""

    expected_error: float = Field(description="Expected calibration error, over ten bins of equal width.")
    coverage: tuple[Coverage, ...]


def calibration(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> Calibration:
    """Calibration of n ≥ 1 answers, from `confidence` [n], 0 to 1, and `correct` [n]."""
    sure = confidence.astype(np.float64)
    return Calibration(
        expected_error=_expected_error(sure, correct),
        coverage=tuple(_coverage(sure, correct, below) for below in THRESHOLDS),
    )


def _expected_error(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Mean absolute difference of confidence and accuracy over bins, weighted by size (Guo et al., 2017, section 2)."""
    bins = np.minimum((confidence * _BINS).astype(np.intp), _BINS - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=_BINS)
    return float(np.abs(gaps).sum() / len(confidence))


def _coverage(confidence: NDArray[np.float64], correct: NDArray[np.bool_], below: float) -> Coverage:
    """One point of the risk-coverage curve (El-Yaniv and Wiener, 2010)."""
    kept = confidence >= below
    return Coverage(below=below, answered=float(kept.mean()), right=float(correct[kept].mean()) if kept.any() else None)
