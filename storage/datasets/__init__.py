"""Committed datasets: their manifest, their shards and the columns in them."""
