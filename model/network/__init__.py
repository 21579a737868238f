"""The encoder: embeddings, positions, layers, loops and symbolic units."""
