"""Checkpoints that were tampered with run nothing and are refused; a kill in mid-save loses none that counts."""

import json
import os
import pickle
import shutil
import signal
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load

from model.evaluation.predictor import TrainedEncoder
from model.network.encoder import Encoder
from model.runs.checkpoints import CheckpointEntry, CheckpointIndex, Checkpoints, file_of, hash_of_bytes, restore
from model.runs.run_config import load_run
from model.training.job import TrainingJob
from model.training.optimizer import build_optimizers
from model.training.trainer import train
from storage.errors import RunFailure, UserError
from storage.places.disk import LocalLocation
from storage.places.opening import open_location
from storage.places.place import Location
from tests.builders import TINY_TRAINING, Built
from tests.model.runs import job_of


@dataclass(frozen=True)
class Payload:
    """Makes a folder where it is unpickled."""

    proof: Path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.proof),)


def headed(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def torch_archive(payload: Payload, folder: Path) -> bytes:
    torch.save({"weights": payload}, folder / "archive.pt")
    return (folder / "archive.pt").read_bytes()


MALICIOUS: dict[str, Callable[[Payload, Path], bytes]] = {
    "a pickle": lambda payload, folder: pickle.dumps(payload),
    "a torch archive": torch_archive,
    "a pickle behind a header": lambda payload, folder: headed(b'{"__metadata__":{"run":"x"}}') + pickle.dumps(payload),
    "a pickle as header": lambda payload, folder: headed(pickle.dumps(payload)),
    "no object as header": lambda payload, folder: headed(b"[1]"),
    "no metadata": lambda payload, folder: headed(b'{"__metadata__":null}'),
    "a header without end": lambda payload, folder: headed(b'{"a":' * 100_000),
    "a header larger than the file": lambda payload, folder: struct.pack("<Q", 1 << 62) + b"{}",
}


@pytest.fixture(scope="module")
def trained(small: Built, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    job = job_of(small, tmp_path_factory.mktemp("trained"), TINY_TRAINING)
    train(job)
    return job


@pytest.mark.parametrize("kind", MALICIOUS)
def test_nothing_in_a_checkpoint_is_ever_run(small: Built, trained: TrainingJob, tmp_path: Path, kind: str) -> None:
    proof = tmp_path / "proof"
    data = MALICIOUS[kind](Payload(proof), tmp_path)
    pickle.loads(pickle.dumps(Payload(tmp_path / "works")))
    assert (tmp_path / "works").exists()
    job = job_of(small, tmp_path, TINY_TRAINING)
    place = job.run / "checkpoints"
    # Whoever can write the file can write the index with its hash too.
    entry = CheckpointEntry(step=5, exact_match=1.0, file="step-000000005.safetensors", sha256=hash_of_bytes(data))
    (place / entry.file).write(data)
    (place / "index.json").write(CheckpointIndex(entries=(entry,)).model_dump_json().encode())
    for use in (lambda: TrainedEncoder.open(job.run), lambda: train(job)):
        with pytest.raises(RunFailure, match=r"checkpoint .* is damaged: delete it") as failure:
            use()
        assert "\n" not in str(failure.value)
    assert not proof.exists()


def test_weights_of_another_shape_are_refused(trained: TrainingJob, small: Built) -> None:
    checkpoints = Checkpoints(trained.run / "checkpoints")
    tensors = checkpoints.load(checkpoints.choose("last"), trained.config)
    wider = trained.config.training.encoder.model_copy(update={"width": 32})
    with pytest.raises(RunFailure, match="the checkpoint does not match this encoder") as failure:
        restore(tensors, Encoder(wider, small.tokenizer))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("model.head.weight", None, "model.head.weight is missing"),
        ("optimizer.adamw.exp_avg.head.weight", None, "optimizer.adamw.exp_avg.head.weight is missing"),
        (
            "optimizer.adamw.step.head.bias",
            torch.zeros(2),
            r"step.head.bias has shape \[2\], but shape \[\] is required",
        ),
        ("optimizer", torch.zeros(2), "optimizer is unknown"),
        ("optimizer.adamw", torch.zeros(2), "optimizer.adamw is unknown"),
        ("optimizer.sgd.step.head.bias", torch.zeros(2), "optimizer.sgd.step.head.bias is unknown"),
        ("model.more", torch.zeros(2), "model.more is unknown"),
        ("more", torch.zeros(2), "more is unknown"),
        ("model.head.bias", torch.zeros(20, dtype=torch.int8), "model.head.bias has type torch.int8"),
        ("model.head.bias", torch.zeros(20, dtype=torch.complex64), "model.head.bias has type torch.complex64"),
        ("model.head.bias", torch.full((20,), torch.nan), "model.head.bias contains non-finite values"),
    ],
)
def test_tensors_that_are_missing_or_of_something_else_are_named(
    trained: TrainingJob, small: Built, name: str, change: torch.Tensor | None, words: str
) -> None:
    checkpoints, spec = Checkpoints(trained.run / "checkpoints"), trained.config.training
    tensors = checkpoints.load(checkpoints.choose("last"), trained.config)
    tensors = {key: value for key, value in tensors.items() if key != name} | ({} if change is None else {name: change})
    encoder = Encoder(spec.encoder, small.tokenizer)
    optimizers = build_optimizers(encoder, spec)
    with pytest.raises(RunFailure, match=f"the checkpoint does not match this encoder: .*{words}"):
        restore(tensors, encoder, optimizers)


@pytest.mark.parametrize("field", ["tokenizer_identity", "tokens_identity", "corpus_identity"])
def test_a_checkpoint_of_another_tokenizer_or_manifest_is_refused(trained: TrainingJob, field: str) -> None:
    checkpoints = Checkpoints(trained.run / "checkpoints")
    other = trained.config.model_copy(update={field: "0" * 64})
    with pytest.raises(
        RunFailure, match="belongs to another corpus, tokenizer or configuration: move it to another folder"
    ):
        checkpoints.load(checkpoints.choose("last"), other)


@pytest.mark.parametrize("text", [b"\xff\xfe", b"[", b"[" * 100_000, b"{}", b"null"])
def test_a_damaged_configuration_is_one_line(small: Built, tmp_path: Path, text: bytes) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    (job.run / "run.json").write(text)
    with pytest.raises(RunFailure, match=r"run.json is damaged") as failure:
        load_run(job.run)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corpus_spec": {}}, "run.json is damaged"),
        ({"corpus_spec": {"mixture": [{"family": "grid"}]}}, "run.json is damaged"),
        ({"group": 3}, "is not the tokenizer of this run"),
        ({"layouts": [{"problem": 10**9, "answer": 10**9}]}, "run.json is damaged"),
        ({"training": {**TINY_TRAINING.model_dump(), "encoder": {"width": 4096, "layers": 48}}}, "belongs to another"),
    ],
)
def test_a_configuration_that_was_changed_is_one_line(
    trained: TrainingJob, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    run = LocalLocation(tmp_path / "run")
    shutil.copytree(trained.run.path, run.path)
    values = json.loads((run / "run.json").read())
    (run / "run.json").write(json.dumps({**values, **changes}).encode())
    with pytest.raises(RunFailure, match=words) as failure:
        TrainedEncoder.open(run)
    assert "\n" not in str(failure.value)


def test_a_tokenizer_that_is_none_is_one_line(trained: TrainingJob, tmp_path: Path) -> None:
    run = LocalLocation(tmp_path / "run")
    shutil.copytree(trained.run.path, run.path)
    values, data = json.loads((run / "run.json").read()), b"no model"
    (run / "tokenizer.model").write(data)
    (run / "run.json").write(json.dumps({**values, "tokenizer_identity": hash_of_bytes(data)}).encode())
    with pytest.raises(RunFailure, match="is not the tokenizer of this run"):
        TrainedEncoder.open(run)


def test_a_run_of_another_model_version_is_not_reported_as_damaged(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    values = json.loads((job.run / "run.json").read())
    for version in (1, 3):
        (job.run / "run.json").write(json.dumps({**values, "model_version": version}).encode())
        with pytest.raises(UserError, match=f"has model version {version}, but this release needs 2: train it again"):
            load_run(job.run)


def save_without_end(job: TrainingJob, encoder: Encoder, pipe: int, first: int) -> None:
    """Save checkpoint after checkpoint, each third better than all before; tell of each that is saved."""
    checkpoints = Checkpoints(job.run / "checkpoints")
    for step in range(first, first + 1_000):
        match = step / 10_000 if step % 3 == 0 else 0.0
        entry = CheckpointEntry(step=step, exact_match=match, file=f"step-{step:09d}.safetensors")
        checkpoints.save(entry, job.config, encoder, {}, keep=1)
        os.write(pipe, step.to_bytes(4, "little"))


def test_a_kill_in_mid_save_loses_neither_the_best_nor_the_last(small: Built, tmp_path: Path) -> None:
    job = job_of(small, tmp_path, TINY_TRAINING)
    encoder = Encoder(job.config.training.encoder, small.tokenizer)
    checkpoints, step = Checkpoints(job.run / "checkpoints"), 0
    for saves in range(1, 11):
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            save_without_end(job, encoder, theirs, step + 1)
            os._exit(0)
        os.close(theirs)
        for _ in range(saves):
            step = int.from_bytes(os.read(ours, 4), "little")
        # It goes on with the next one meanwhile.
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        while told := os.read(ours, 4):
            step = int.from_bytes(told, "little")
        os.close(ours)
        index = checkpoints.index()
        assert index.last
        assert index.best
        assert index.last.step in (step, step + 1)
        assert index.best.step >= step - step % 3
        for entry in index.entries:
            checkpoints.load(entry, job.config)
        assert len(index.entries) <= 3
        step = index.last.step
    job.run.sweep()
    named = {entry.file for entry in checkpoints.index().entries}
    lying = {name for name in checkpoints.folder.children() if name.endswith(".safetensors")}
    # At most the one that was being saved, which the next save removes.
    assert len(lying - named) <= 2
    assert json.loads((checkpoints.folder / "index.json").read())


def test_a_trainer_that_slept_deletes_no_checkpoint_of_the_one_that_went_on(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(open_location(bucket) / "checkpoints")
    entries = tuple(CheckpointEntry(step=step, exact_match=0.1, file=f"step-{step}.safetensors") for step in range(4))

    def write(index: tuple[CheckpointEntry, ...]) -> None:
        for entry in index:
            (checkpoints.folder / entry.file).write(b"weights")
        (checkpoints.folder / "index.json").write(CheckpointIndex(entries=index).model_dump_json().encode())

    write(entries[:2])
    files_except = Checkpoints._files_except

    def sleep(self: Checkpoints, kept: tuple[CheckpointEntry, ...]) -> list[Location]:
        """Between two requests of the first one another takes over and goes on."""
        write(entries)
        return files_except(self, kept)

    monkeypatch.setattr(Checkpoints, "_files_except", sleep)
    with pytest.raises(RunFailure, match="was written by another process in the meantime"):
        checkpoints.prune()
    assert checkpoints.index().entries == entries


def test_equal_checkpoints_are_equal_files(small: Built, tmp_path: Path) -> None:
    config = job_of(small, tmp_path, TINY_TRAINING).config
    tensors = {"model.weight": torch.arange(3.0), "optimizer.adamw.step.weight": torch.tensor(2.0)}
    files = {file_of(tensors, 7, config) for _ in range(32)}
    assert len(files) == 1
    loaded = load(files.pop())
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], value) for name, value in tensors.items())
