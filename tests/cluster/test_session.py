"""`--ray ADDRESS` on a real cluster: the same bytes as without, nothing left on it, and one line for what is wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.training.trainer import train
from pipelines.spec.presets import CORPORA
from storage.places.disk import LocalLocation
from tests.builders import TINY_TRAINING, build_corpus_plainly, build_small
from tests.cluster.nodes import Nodes, cluster, free_port
from tests.model.runs import job_of
from tests.pipelines.test_kills import files

PAIRS = CORPORA["quick"].model_copy(update={"rows_per_shard": 2_000})


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """A head that works for nobody, and one worker."""
    with cluster(cpus=2, workers=1) as nodes:
        (nodes.folder / "driver").mkdir()
        nodes.wait(2)
        yield nodes


def numerate(nodes: Nodes, api: str, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a member of the cluster."""
    return subprocess.run(
        [sys.executable, "-m", "flows", *words],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=nodes.folder / "driver",
        env={**nodes.environment, "PREFECT_API_URL": api, **environment},
    )


def generate(nodes: Nodes, api: str, workspace: Path, address: str, **environment: str) -> str:
    """Ask for the corpus, and what comes of it on standard error."""
    words = ("corpus", "generate", "quick", "--rows-per-shard", "2000")
    done = numerate(nodes, api, *words, "--workspace", str(workspace), "--ray", address, **environment)
    return f"{done.returncode}: {done.stderr.strip()}" if done.returncode else ""


@pytest.mark.slow
def test_a_corpus_made_on_a_cluster_is_the_same_and_leaves_nothing_there(
    nodes: Nodes, prefect_api: str, tmp_path: Path
) -> None:
    assert generate(nodes, prefect_api, tmp_path / "workspace", nodes.gcs) == ""
    made = tmp_path / "workspace" / "corpora" / PAIRS.name
    plain = build_corpus_plainly(PAIRS, LocalLocation(tmp_path / "plain"))
    found = files(made)
    for beside in ("made.json", "README.md"):
        found.pop(beside)
    assert found == files(plain.location.path)
    assert nodes.alive() == 2
    assert not nodes.left()


@pytest.mark.slow
def test_a_tokenizer_is_trained_and_an_encoder_asked_on_a_cluster(
    nodes: Nodes, prefect_api: str, tmp_path: Path
) -> None:
    built = build_small(tmp_path)
    train(job_of(built, (built.workspace.root / "runs").path, TINY_TRAINING))
    place = ("--workspace", str(built.workspace.root), "--ray", nodes.gcs)
    for words, result in (
        (("tokenizer", "train", "--corpus", "small", "--tokenizer", "small-pairs", "--kind", "pairs"), "120 pieces in"),
        (("evaluate", "--name", "run"), "test problems of small right"),
    ):
        done = numerate(nodes, prefect_api, *words, *place)
        assert (done.returncode, result in done.stderr) == (0, True), done.stderr
    assert not nodes.left()


@pytest.mark.slow
def test_what_is_wrong_with_an_address_is_one_line(nodes: Nodes, prefect_api: str, tmp_path: Path) -> None:
    other = tmp_path / "token"
    other.write_text("f" * 64)
    closed = f"127.0.0.1:{free_port()}"
    for address, environment, line in (
        ("ray://head:10001", {}, "2: error: ray 'ray://head:10001': the address must be host:port, not ray://: "),
        (
            "nonsense",
            {},
            "2: error: ray 'nonsense' is not an address: use host:port of the head node, or 'auto'",
        ),
        (closed, {}, f"1: error: no Ray head node responds at {closed} (unavailable): check host and port "),
        (nodes.gcs, {"RAY_AUTH_TOKEN_PATH": str(other)}, f"2: error: ray '{nodes.gcs}' rejects the token: set "),
        (nodes.gcs, {"RAY_AUTH_TOKEN_PATH": os.devnull}, f"2: error: ray '{nodes.gcs}' requires a token, but "),
    ):
        said = generate(nodes, prefect_api, tmp_path / "workspace", address, **environment)
        assert said.startswith(line), said
        assert "\n" not in said


@pytest.mark.slow
def test_a_node_that_does_not_see_the_workspace_is_named(nodes: Nodes, prefect_api: str) -> None:
    # Every process sees a folder of its own there.
    said = generate(nodes, prefect_api, Path("/proc/self/cwd/workspace"), nodes.gcs)
    assert said.startswith("2: error: workspace /proc/self/cwd/workspace cannot be used on node "), said
    assert "files written on this machine do not appear on the node; choose a --workspace that all nodes share" in said
    assert not list((nodes.folder / "driver" / "workspace").glob(".seen*"))
    assert not nodes.left()
