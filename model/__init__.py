"""The learning side: configuration, network, objectives, training, evaluation and probing."""
