"""Prefect as a person sees it: the server, the runner of flow runs, and the deployments that its pages list."""
