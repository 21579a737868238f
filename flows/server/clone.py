"""Working folder of a worker's flow runs: the worker's clone, so that relative paths mean the same in every run."""

from pathlib import Path


def work_in_clone() -> dict[str, str]:
    """A pull step of `prefect.yaml` that pulls nothing: the run's folder is the clone that contains this file."""
    return {"directory": str(Path(__file__).parents[2])}
