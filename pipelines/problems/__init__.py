"""Problem families, and the exact arithmetic on arrays below them."""
