"""Compares encoders on the same problems with the same training time."""
