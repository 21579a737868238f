"""The Prefect server, the runner of its flows and its deployments."""
