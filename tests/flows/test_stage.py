"""What every flow has in common, with a real Prefect server."""

from typing import Any

import pytest

from flows import stage as stages
from flows.requests import InWorkspace
from flows.stage import stage
from storage.errors import RunFailure, TransientFailure


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        pytest.param(TransientFailure("a worker was lost"), 3, id="lost worker"),
        pytest.param(RunFailure("the disk is full"), 1, id="anything else"),
    ],
)
def test_only_what_a_lost_worker_failed_is_tried_again(
    failure: Exception, tries: int, prefect_api: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setattr(stages, "_RETRY_SECONDS", [0.1])
    tried = []

    @stage(name="fragile", run_name="fragile")
    def fragile(request: InWorkspace) -> dict[str, Any]:
        """Works the third time, if it is asked so often."""
        tried.append(request)
        if len(tried) < 3:
            raise failure
        return {"tries": len(tried)}

    request = InWorkspace(workspace=str(tmp_path / "workspace"))
    if tries == 3:
        assert fragile(request) == {"tries": 3}
    else:
        with pytest.raises(type(failure), match=str(failure)):
            fragile(request)
    assert len(tried) == tries
