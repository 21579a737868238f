"""The data side: specifications, problems, split, generation and tokens."""
