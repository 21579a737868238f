"""The loss of one of three real nodes does not change the results of generation, encoding and training."""

import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from model.runs.checkpoints import Checkpoints
from model.tokenizer import load_tokenizer
from model.training.job import TrainingJob
from pipelines.generation.build import build_corpus, build_tokens
from pipelines.tokens.vocabulary import train_tokenizer
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.builders import SMALL_TOKENIZER, build_small, data_files
from tests.cluster.nodes import Nodes, cluster
from tests.model.runs import LONGER, job_of, losses, same_bits
from tests.model.workers import train_with
from tests.pipelines.test_kills import corpus_of, writing
from tests.processes import command_line, result_of, start_command, wait_for

_RANGES, _ROWS = 12, 150_000

# At small learning rates rounding errors do not grow, so the loss of a step shows which rows and masks it used.
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
    """A head node and two worker nodes, which all run tasks, with one CPU each."""
    with cluster(cpus=1, workers=2, head_cpus=1) as nodes:
        nodes.wait(3)
        yield nodes


def start(nodes: Nodes, api: str, *words: str) -> "subprocess.Popen[str]":
    """Start a command on the head."""
    environment = {**nodes.environment, "PREFECT_API_URL": api}
    return start_command(*words, "--ray", nodes.gcs, env=environment, stderr=subprocess.STDOUT)


def output_of(command: "subprocess.Popen[str]") -> str:
    """The output of a command that succeeds."""
    code, output, _ = result_of(command)
    assert code == 0, output
    return output


def kill_while_writing(nodes: Nodes, number: int, folder: Path, command: "subprocess.Popen[str]") -> None:
    """Kill a worker node while one of its processes writes a shard of `folder`."""
    node = nodes.workers[number]

    def is_writing() -> bool:
        writers = [pid for pid, _ in writing(folder)]
        return bool(writers) and any(worker.pid in writers for worker in node.workers())

    wait_for(is_writing, process=command, poll=0.02)
    node.kill()


def test_generation_and_encoding_that_lose_a_node_write_the_same_files(
    nodes: Nodes, prefect_api: str, tmp_path: Path
) -> None:
    spec, workspace = corpus_of(_RANGES, _ROWS), Workspace.create(str(tmp_path / "workspace"))
    (tmp_path / "spec.json").write_text(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))
    option = ("--workspace", str(workspace.root))
    folder, name = workspace.corpus(spec.name), f"{spec.name}-digit"
    generation = start(nodes, prefect_api, "corpus", "generate", str(tmp_path / "spec.json"), *option)
    kill_while_writing(nodes, 0, folder.path, generation)
    output_of(generation)
    expected, _ = build_corpus(spec, LocalLocation(tmp_path / "expected"), in_flight=0)
    assert data_files(folder.path) == data_files(expected.location.path)

    train_tokenizer(SMALL_TOKENIZER, expected, workspace.tokenizer(name))
    encoding = start(nodes, prefect_api, "encode", "--corpus", spec.name, *option)
    kill_while_writing(nodes, 1, workspace.tokens(spec.name, name).path, encoding)
    output_of(encoding)
    tokenizer, _ = load_tokenizer(workspace.tokenizer(name))
    tokens, _ = build_tokens(expected, tokenizer, LocalLocation(tmp_path / "tokens"), in_flight=0)
    assert data_files(workspace.tokens(spec.name, name).path) == data_files(tokens.location.path)
    nodes.wait(1)
    assert not nodes.running()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "min_workers", "lost", "remaining"), [(2, 0, "worker", 2), (2, 0, "node", 2), (3, 2, "node", 2)]
)
def test_training_that_loses_a_worker_or_a_node_continues_with_exactly_the_remaining_rows(
    nodes: Nodes, prefect_api: str, tmp_path: Path, workers: int, min_workers: int, lost: str, remaining: int
) -> None:
    built = build_small(tmp_path)
    spec = LONG.model_copy(update={"workers": workers, "min_workers": min_workers})
    (tmp_path / "spec.json").write_text(json.dumps(spec.model_dump(mode="json", exclude_unset=True)))
    options = ("--workspace", str(built.workspace.root), "--corpus", built.spec.name, "--name", "interrupted")
    undisturbed = job_of(built, tmp_path / "a", spec)
    interrupted = TrainingJob(built.workspace.run("interrupted"), undisturbed.tokens, undisturbed.config)
    training = start(nodes, prefect_api, "train", str(tmp_path / "spec.json"), *options)
    wait_for(lambda: Checkpoints(interrupted.run / "checkpoints").index().last, process=training, poll=0.02)
    node = next(node for node in nodes.workers if any("TrainWorker" in command_line(each) for each in node.workers()))
    if lost == "node":
        node.kill()
    else:
        nodes.processes("TrainWorker")[-1].send_signal(signal.SIGKILL)
    assert f"run interrupted: {LONG.steps:,} steps" in output_of(training)
    assert nodes.alive() == (2 if lost == "node" else 3)
    assert not nodes.running()
    train_with(undisturbed, remaining)
    assert [step for step, _ in losses(interrupted)] == list(range(1, LONG.steps + 1))
    for (step, expected), (_, loss) in zip(losses(undisturbed), losses(interrupted), strict=True):
        assert expected == pytest.approx(loss, rel=1e-4), step
    # With the same number of ranks the results are identical.
    assert same_bits(undisturbed, interrupted) or min_workers
