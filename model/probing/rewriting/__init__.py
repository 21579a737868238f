"""Probing of the encoder that rewrites: what its slots know, what its heads read, and what edits of its states do."""
