"""Committed datasets: their manifest, shards and columns."""
