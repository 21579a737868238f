"""Where data lies and how it is read: locations, shards, manifests, SQL and the elastic reader."""
