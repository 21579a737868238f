"""The machine-learning part of Numerate: configuration, network, objectives, training, evaluation and probing."""
