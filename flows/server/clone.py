"""Where a worker's runs work: in the clone of the worker, so that a path that isn't absolute means the same in each."""

from pathlib import Path


def work_in_clone() -> dict[str, str]:
    """A pull step of `prefect.yaml`: nothing is pulled, and the run's folder is the one that this code lies in."""
    return {"directory": str(Path(__file__).parents[2])}
