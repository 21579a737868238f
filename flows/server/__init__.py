"""The Prefect server, its deployments, and the runner that starts flow runs."""
