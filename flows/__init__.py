"""The faces: Prefect flows, the command line, progress and reports."""
