"""Figures and sections of evaluations and comparisons."""
