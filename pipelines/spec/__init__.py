"""The specification of a corpus, and named specifications."""
