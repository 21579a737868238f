"""What a person uses: Prefect flows, the command line, pages and reports."""
