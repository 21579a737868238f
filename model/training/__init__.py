"""The training loop, and how it is started: alone, for several seeds, under Ray Train."""
