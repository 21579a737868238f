"""Submissions before any cluster is contacted; `tests/cluster` uses real clusters."""

import pytest

from flows.cli.app import app
from flows.cli.verbs.submit import _with_resolved_names
from flows.cluster.jobs import job_name, job_server
from flows.common.parameters import EncodeRequest, EndToEndRequest, InWorkspace, TrainRequest
from storage.errors import UserError


def name_of(request: InWorkspace) -> str:
    return job_name("stage", _with_resolved_names(request).model_dump(mode="json"))


@pytest.mark.parametrize(
    "same",
    [
        [InWorkspace(workspace=place) for place in ("/shared/n", "/shared/n/", "/shared//n", "file:///shared/n")],
        [InWorkspace(workspace=place) for place in ("s3://b/p", "s3://b/p/")],
        [
            TrainRequest(workspace="/w", **given)
            for given in ({}, {"name": "notebook"}, {"tokenizer": "notebook-digit"})
        ],
        [EncodeRequest(workspace="/w", **given) for given in ({}, {"tokenizer": "notebook-digit"})],
        [EndToEndRequest(workspace="/w", **given) for given in ({}, {"name": "notebook"})],
    ],
    ids=["folder", "bucket", "training", "encoding", "whole"],
)
def test_equivalent_requests_are_one_job(same: list[InWorkspace]) -> None:
    assert len({name_of(request) for request in same}) == 1


def test_different_requests_are_different_jobs() -> None:
    requests = [TrainRequest(workspace="/w"), TrainRequest(workspace="/w", seed=1), TrainRequest(workspace="/v")]
    assert len({name_of(request) for request in requests}) == 3


@pytest.mark.parametrize("address", ["http://[::1", "http://h:99999", "ray://h:10001", "://", "auto"])
def test_invalid_address_of_a_job_server_is_a_one_line_error(address: str) -> None:
    with pytest.raises(UserError, match="is not the URL of a job server: use one such as http://HEAD:8265"):
        job_server(address)


@pytest.mark.parametrize(
    ("variable", "server"),
    [
        ("auto", "http://127.0.0.1:8265"),
        ("local", "http://127.0.0.1:8265"),
        ("head:6379", "http://head:8265"),
        ("[::1]:6379", "http://[::1]:8265"),
        ("http://head:9000/", "http://head:9000"),
    ],
)
def test_job_server_comes_from_rays_own_variables(variable: str, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert job_server("") == server


@pytest.mark.parametrize("words", [["dance", "{}"], ["train", "{"], ["train", "[]"]])
def test_execute_outside_a_job_is_a_one_line_error(words: list[str]) -> None:
    with pytest.raises(UserError, match="runs inside a job only"):
        app(["submit", "execute", *words], exit_on_error=False, print_error=False)
