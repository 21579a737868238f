"""Ray: a private one on this machine, a cluster that others started, and its jobs."""
