"""Figures and sections of a probing."""
