"""The data side: problem families, exact arithmetic, order and split, generation and encoding."""
