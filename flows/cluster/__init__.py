"""Ray: a private instance on this machine, connections to an existing cluster, and jobs on it."""
