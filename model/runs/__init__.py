"""What a run keeps on disk: configuration, checkpoints, metrics; and the encoders that come with Numerate."""
