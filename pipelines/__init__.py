"""Data generation: corpus specs, problems, splits, generation and tokens."""
