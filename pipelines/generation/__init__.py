"""From a specification to committed shards: generation, verification and repair."""
