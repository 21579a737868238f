"""Generation, encoding and training in plain processes, where Ray and Prefect are not installed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.common.presets import PRESETS
from model.config.training import TrainingFile, TrainingSpec
from model.runs.checkpoints import Checkpoints
from pipelines.generation.build import build_corpus
from pipelines.spec.presets import CORPORA
from storage.datasets.manifest import load
from storage.parameters import read_parameters
from storage.places.disk import LocalLocation
from storage.workspace import Workspace
from tests.builders import TINY_TRAINING, data_files
from tests.flows.test_readme import blocks
from tests.processes import restore_sigint, wait_for

ROOT = Path(__file__).parents[2]
# Importing a blocked module raises ModuleNotFoundError.
BLOCKED = "import runpy, sys; sys.modules.update(ray=None, prefect=None); runpy.run_module(sys.argv.pop(1), alter_sys=True, run_name='__main__')"  # noqa: E501


def run(folder: Path, module: str, *words: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, module, *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=110,
    )


def test_corpus_is_generated_encoded_and_trained_on_without_ray_and_prefect(tmp_path: Path) -> None:
    result = run(tmp_path, "pipelines.generation", "quick")
    assert (result.returncode, result.stdout) == (0, "corpus quick: 10,000 rows\ntokens: 10,000 rows\n"), result.stderr
    workspace = Workspace.open(str(tmp_path / "workspace"))
    expected, _ = build_corpus(CORPORA["quick"], LocalLocation(tmp_path / "expected"), in_flight=0)
    assert load(workspace.corpus("quick"), "corpus").manifest == expected.manifest
    assert data_files(Path(workspace.corpus("quick").path)) == data_files(tmp_path / "expected")
    training = TINY_TRAINING.model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump({"corpus": "quick", "training": training}))
    result = run(tmp_path, "model.training", "job.yaml")
    assert result.returncode == 0, result.stderr
    last = Checkpoints(workspace.run("quick") / "checkpoints").index().last
    assert last
    assert last.step == TINY_TRAINING.steps
    # Nothing is left to do.
    assert run(tmp_path, "pipelines.generation", "quick").returncode == 0


def test_wrong_use_is_one_line(tmp_path: Path) -> None:
    result = run(tmp_path, "pipelines.generation", "quick", "--workspace", "/proc/nowhere")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "invalid choice: 'sums'" in run(tmp_path, "pipelines.generation", "sums").stderr


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    job = {"corpus": "quick", "training": TINY_TRAINING.model_dump(mode="json", exclude_defaults=True)}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    for module, word in (("pipelines.generation", "quick"), ("model.training", "job.yaml")):
        with open("/dev/full", "w") as full:
            command = [sys.executable, "-m", module, word]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            ended = subprocess.run(
                command, cwd=tmp_path, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
            )
        assert (ended.returncode, ended.stderr) == (1, "error: the output: No space left on device\n"), module
        assert run(tmp_path, module, word).returncode == 0


def test_ctrl_c_is_one_line_and_the_same_command_continues(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.generation", "rewriting"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=restore_sigint,
    )
    notes = tmp_path / "workspace" / "corpora" / "rewriting" / ".progress"
    wait_for(lambda: any(notes.glob("*.json")), process=process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (130, "")
    assert errors == "error: interrupted: run the same command again to continue\n"
    assert any(notes.glob("*.json"))


@pytest.mark.parametrize("name", ["arithmetic"])
def test_documented_job_is_the_training_of_the_preset(tmp_path: Path, name: str) -> None:
    (block,) = (block for block in blocks("model/README.md", "yaml") if block.startswith(f"# {name}.yaml"))
    (tmp_path / "job.yaml").write_text(block)
    file = TrainingFile.model_validate(read_parameters(str(tmp_path / "job.yaml")))
    preset = PRESETS[name]
    assert isinstance(preset.training, TrainingSpec)
    assert (file.training, file.corpus, file.name) == (preset.training, preset.corpus.name, preset.name)
