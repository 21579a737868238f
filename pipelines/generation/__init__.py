"""From a specification to committed shards: generate, verify and repair."""
