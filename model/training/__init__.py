"""The training loop and its launchers: a single process, several seeds in parallel, or Ray Train."""
