"""The encoder: embeddings, positions, layers and loops."""
