"""SQL over a workspace with DuckDB: views, the catalog file and read-only queries."""
