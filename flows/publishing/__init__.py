"""A corpus or a trained encoder for the Hugging Face hub: files, cards, and the way there."""
