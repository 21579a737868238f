"""`--ray ADDRESS` on a real cluster gives the same bytes as without it, leaves nothing running and explains errors."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.training.trainer import train
from pipelines.spec.presets import CORPORA
from storage.places.disk import LocalLocation
from tests.builders import TINY_TRAINING, build_corpus_plainly, build_small, data_files
from tests.cluster.nodes import Nodes, cluster
from tests.model.runs import job_of
from tests.processes import free_port, result_of, start_command

PAIRS = CORPORA["quick"].model_copy(update={"rows_per_shard": 2_000})


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head node without CPUs and one worker node."""
    with cluster(cpus=2, workers=1) as nodes:
        (nodes.folder / "driver").mkdir()
        nodes.wait(2)
        yield nodes


def numerate(nodes: Nodes, api: str, *words: str, **environment: str) -> tuple[int, str, str]:
    """Run the command on a node of the cluster; its exit code, output and errors."""
    environment = {**nodes.environment, "PREFECT_API_URL": api, **environment}
    return result_of(start_command(*words, env=environment, cwd=nodes.folder / "driver"), seconds=120)


def generate(nodes: Nodes, api: str, workspace: Path, address: str, **environment: str) -> str:
    """Generate the corpus; the exit code and the error message, or an empty string on success."""
    words = ("corpus", "generate", "quick", "--rows-per-shard", "2000")
    code, _, errors = numerate(nodes, api, *words, "--workspace", str(workspace), "--ray", address, **environment)
    return f"{code}: {errors.strip()}" if code else ""


@pytest.mark.slow
def test_corpus_generated_on_a_cluster_is_identical_and_leaves_nothing_running(
    nodes: Nodes, prefect_api: str, tmp_path: Path
) -> None:
    assert generate(nodes, prefect_api, tmp_path / "workspace", nodes.gcs) == ""
    expected = build_corpus_plainly(PAIRS, LocalLocation(tmp_path / "expected"))
    assert data_files(tmp_path / "workspace" / "corpora" / PAIRS.name) == data_files(expected.location.path)
    assert nodes.alive() == 2
    assert not nodes.running()


@pytest.mark.slow
def test_tokenizer_training_and_evaluation_run_on_a_cluster(nodes: Nodes, prefect_api: str, tmp_path: Path) -> None:
    built = build_small(tmp_path)
    train(job_of(built, (built.workspace.root / "runs").path, TINY_TRAINING))
    options = ("--workspace", str(built.workspace.root), "--ray", nodes.gcs)
    for words, result in (
        (("tokenizer", "train", "--corpus", "small", "--tokenizer", "small-pairs", "--kind", "pairs"), "120 pieces in"),
        (("evaluate", "--name", "run"), "test problems of small right"),
    ):
        code, _, errors = numerate(nodes, prefect_api, *words, *options)
        assert (code, result in errors) == (0, True), errors
    assert not nodes.running()


@pytest.mark.slow
def test_invalid_address_or_token_prints_a_one_line_error(nodes: Nodes, prefect_api: str, tmp_path: Path) -> None:
    wrong_token = tmp_path / "token"
    wrong_token.write_text("f" * 64)
    closed = f"127.0.0.1:{free_port()}"
    for address, environment, line in (
        ("ray://head:10001", {}, "2: error: ray 'ray://head:10001': the address must be host:port, not ray://: "),
        (
            "nonsense",
            {},
            "2: error: ray 'nonsense' is not an address: use host:port of the head node, or 'auto'",
        ),
        (closed, {}, f"1: error: no Ray head node responds at {closed} (unavailable): check host and port "),
        (nodes.gcs, {"RAY_AUTH_TOKEN_PATH": str(wrong_token)}, f"2: error: ray '{nodes.gcs}' rejects the token: set "),
        (nodes.gcs, {"RAY_AUTH_TOKEN_PATH": os.devnull}, f"2: error: ray '{nodes.gcs}' requires a token, but "),
    ):
        error = generate(nodes, prefect_api, tmp_path / "workspace", address, **environment)
        assert error.startswith(line), error
        assert "\n" not in error


@pytest.mark.slow
def test_error_names_the_node_that_does_not_see_the_workspace(nodes: Nodes, prefect_api: str) -> None:
    # This path is a different folder in every process.
    error = generate(nodes, prefect_api, Path("/proc/self/cwd/workspace"), nodes.gcs)
    assert error.startswith("2: error: workspace /proc/self/cwd/workspace cannot be used on node "), error
    assert "files written on this machine do not appear on the node; choose a --workspace that all nodes share" in error
    assert not list((nodes.folder / "driver" / "workspace").glob(".seen*"))
    assert not nodes.running()
