"""The commands of `numerate`, one module per group."""
