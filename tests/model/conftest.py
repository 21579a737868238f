import pytest

from pipelines.spec.corpus import CorpusSpec
from tests.builders import Built, build_small

OPERATIONS = CorpusSpec(
    name="operations", terms=2, high=30, operators=("+", "-", "*"), rows_per_shard=3_000, validation=0.1, test=0.1
)


@pytest.fixture(scope="session")
def operations(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A corpus with all three operators; not to be changed by a test."""
    return build_small(tmp_path_factory.mktemp("operations"), OPERATIONS)
