"""Assigns problems to splits: canonical forms, reserved problems and the leakage check."""
