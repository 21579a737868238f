"""Files of a run: configuration, checkpoints and metrics; also the pretrained encoders shipped with Numerate."""
