"""Problem families: each turns row numbers into blocks of problems."""
