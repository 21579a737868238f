"""Storage and access: locations, datasets, SQL and the elastic reader."""
