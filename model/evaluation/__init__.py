"""Exact match: decoding, evaluation, intervals, calibration and the exhaustive count."""
