"""Symbolic units inside the encoder, and the exact differentiable arithmetic that they use."""
