"""Looking after a workspace and a machine: what is there, what is broken, and what mends it."""
