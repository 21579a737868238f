"""Committed datasets: their manifest, shards and Arrow buffers."""
