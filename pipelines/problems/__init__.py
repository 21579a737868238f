"""Problem families and the exact array arithmetic that they use."""
