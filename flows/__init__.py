"""User-facing code: Prefect flows, the command line, HTML pages and reports."""
