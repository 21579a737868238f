"""Symbolic units inside the encoder, and the differentiable arithmetic that they use."""
