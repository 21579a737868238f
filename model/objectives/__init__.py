"""What a training step masks and predicts, and what is drawn at random for it."""
