"""HTML pages, figures, tables, and artifacts of flow runs."""
