"""Generation, encoding and training over three real nodes that lose one in the middle: nothing shows in the result."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from model.runs.checkpoints import Checkpoints
from model.tokenizer import load_tokenizer
from model.training.job import TrainingJob
from pipelines.generation.build import build_corpus, build_tokens
from pipelines.tokens.vocabulary import train_tokenizer
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.builders import SMALL_TOKENIZER, build_small
from tests.cluster.nodes import Nodes, cluster
from tests.model.runs import LONGER, job_of, losses, same_bits
from tests.model.workers import train_with
from tests.pipelines.test_kills import corpus_of, files, writing

_RANGES, _ROWS = 12, 150_000

# At such small rates rounding doesn't grow, and a loss tells which rows and masks its step had.
LONG = LONGER.model_copy(
    update={
        "steps": 400,
        "checkpoint_every": 20,
        "validate_every": 200,
        "learning_rate": 1e-6,
        "matrix_learning_rate": 1e-6,
    }
)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    """A head that works too, and two workers, of one CPU each."""
    with cluster(cpus=1, workers=2, head_cpus=1) as nodes:
        nodes.wait(3)
        yield nodes


def begin(nodes: Nodes, api: str, *words: str) -> subprocess.Popen[str]:
    """Begin a command on the head."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows", *words, "--ray", nodes.gcs],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**nodes.environment, "PREFECT_API_URL": api},
    )


def wait_for(what: Callable[[], bool], command: subprocess.Popen[str]) -> None:
    """Until something is so, while the command runs."""
    until = time.monotonic() + 180
    while not what():
        assert command.poll() is None, command.communicate()[0]
        assert time.monotonic() < until
        time.sleep(0.02)


def finish(command: subprocess.Popen[str]) -> str:
    """What the command wrote, once it has ended well."""
    output, _ = command.communicate(timeout=600)
    assert command.returncode == 0, output
    return output


def made(folder: Path) -> dict[str, bytes]:
    """The files of a dataset, without how long it took."""
    return {
        name: data
        for name, data in files(folder).items()
        if name not in ("made.json", "README.md") and not name.startswith("tokens")
    }


def lose_while_writing(nodes: Nodes, lost: int, folder: Path, command: subprocess.Popen[str]) -> None:
    """Kill a worker's node while one of its processes writes a shard of `folder`."""
    node = nodes.workers[lost]

    def at_work() -> bool:
        """Whether a shard is being written on that node."""
        return any(node.started(pid) for pid, _ in writing(folder))

    wait_for(at_work, command)
    node.kill()


def test_a_generation_and_an_encoding_that_lose_a_node_come_out_the_same(
    nodes: Nodes, prefect_api: str, tmp_path: Path
) -> None:
    spec, workspace = corpus_of(_RANGES, _ROWS), Workspace.create(str(tmp_path / "workspace"))
    (tmp_path / "spec.json").write_text(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))
    place = ("--workspace", str(workspace.root))
    folder, name = workspace.corpus(spec.name), f"{spec.name}-digit"
    generation = begin(nodes, prefect_api, "corpus", "generate", str(tmp_path / "spec.json"), *place)
    lose_while_writing(nodes, 0, folder.path, generation)
    finish(generation)
    whole, _ = build_corpus(spec, LocalLocation(tmp_path / "whole"), in_flight=0)
    assert made(folder.path) == made(whole.location.path)

    train_tokenizer(SMALL_TOKENIZER, whole, workspace.tokenizer(name))
    encoding = begin(nodes, prefect_api, "encode", "--corpus", spec.name, *place)
    lose_while_writing(nodes, 1, workspace.tokens(spec.name, name).path, encoding)
    finish(encoding)
    tokenizer, _ = load_tokenizer(workspace.tokenizer(name))
    tokens, _ = build_tokens(whole, tokenizer, LocalLocation(tmp_path / "tokens"), in_flight=0)
    assert made(workspace.tokens(spec.name, name).path) == made(tokens.location.path)
    nodes.wait(1)
    assert not nodes.left()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "least", "loss", "left"), [(2, 0, "worker", 2), (2, 0, "node", 2), (3, 2, "node", 2)]
)
def test_a_training_that_loses_a_worker_or_a_node_goes_on_with_exactly_the_rows_left(
    nodes: Nodes, prefect_api: str, tmp_path: Path, workers: int, least: int, loss: str, left: int
) -> None:
    built = build_small(tmp_path)
    spec = LONG.model_copy(update={"workers": workers, "min_workers": least})
    (tmp_path / "spec.json").write_text(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))
    place = ("--workspace", str(built.workspace.root), "--corpus", built.spec.name, "--name", "hurt")
    whole = job_of(built, tmp_path / "a", spec)
    hurt = TrainingJob(built.workspace.run("hurt"), whole.tokens, whole.config)
    training = begin(nodes, prefect_api, "train", str(tmp_path / "spec.json"), *place)
    wait_for(lambda: bool(Checkpoints(hurt.run / "checkpoints").index().last), training)
    node = next(node for node in nodes.workers if node.works_on("TrainWorker"))
    if loss == "node":
        node.kill()
    else:
        os.kill(nodes.processes("TrainWorker")[-1], signal.SIGKILL)
    assert f"run hurt: {LONG.steps:,} steps" in finish(training)
    assert nodes.alive() == (2 if loss == "node" else 3)
    assert not nodes.left()
    train_with(whole, left)
    assert [step for step, _ in losses(hurt)] == list(range(1, LONG.steps + 1))
    for (step, one), (_, other) in zip(losses(whole), losses(hurt), strict=True):
        assert one == pytest.approx(other, rel=1e-4), step
    # On as many ranks as before nothing at all differs.
    assert same_bits(whole, hurt) or least
