"""Where data is and how it is read: places, datasets, SQL and the elastic reader."""
