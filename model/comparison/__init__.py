"""Encoders compared on the same problems for the same time."""
