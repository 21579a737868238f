"""A suggested command is exact: the command line parses it into the same request."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from flows.cli.app import app
from flows.cli.options import resolve
from flows.common.parameters import EncodeRequest, GenerateRequest, TokenizerRequest, TrainRequest
from flows.common.presets import CORPUS_PRESETS, PRESETS
from flows.diagnostics.remedies import Remedies, removal
from model.config.encoder import EncoderConfig
from model.config.training import CurriculumStage, TrainingSpec
from model.runs.run_config import RunConfig, load_run
from model.training.preflight import prepare
from pipelines.spec.corpus import CorpusSpec
from pipelines.spec.presets import CORPORA
from storage.places.disk import LocalLocation
from storage.places.opening import open_location
from tests.builders import LONGER, SMALL, Built

TRAININGS = {name: preset.train_request() for name, preset in PRESETS.items()}


def read_back(command: str, model: type[BaseModel], presets: Any) -> Any:
    """The request that the command line makes of a command of a flow."""
    words = shlex.split(command)
    assert words[0] == "numerate"
    _, bound, *_ = app.parse_args(words[1:], exit_on_error=False, print_error=False)
    return resolve(model, bound.arguments.get("spec", "notebook"), presets, bound.arguments.get("options"))


@pytest.mark.parametrize(
    "spec",
    [
        *CORPORA.values(),
        SMALL,
        LONGER,
        CorpusSpec(name="it", terms=3, operators=("-",), rows=5_000, split_key="two words; $HOME 'x'"),
        CORPORA["arithmetic"].model_copy(update={"name": "other", "rows": 2_000_000}),
        CORPORA["signed-5"].model_copy(update={"only_test": True}),
    ],
    ids=lambda spec: spec.name,
)
def test_generate_command_has_the_same_spec(spec: CorpusSpec) -> None:
    command = Remedies("/tmp/my place").generate(spec)
    request = read_back(command, GenerateRequest, CORPUS_PRESETS)
    assert (request.spec(CorpusSpec), request.workspace) == (spec, "/tmp/my place")


def test_command_names_a_preset_if_possible() -> None:
    assert Remedies("./workspace").generate(CORPORA["billion"]) == "numerate corpus generate billion"
    assert Remedies("x").generate(CORPORA["notebook"]) == "numerate corpus generate --workspace x"


def test_custom_mixture_needs_a_spec_file() -> None:
    mixed = next(spec for spec in CORPORA.values() if spec.mixture)
    own = mixed.model_copy(update={"mixture": mixed.mixture[:1]})
    assert Remedies("./workspace").generate(own) == ""
    assert Remedies("w").generate_from("a b.yaml") == "numerate corpus generate 'a b.yaml' --workspace w"


@pytest.mark.parametrize("kind", ["digit", "pairs", "unigram"])
@pytest.mark.parametrize("name", ["", "other"])
def test_tokenizer_and_encode_commands_have_the_same_requests(kind: str, name: str) -> None:
    request = TokenizerRequest(corpus="pairs", kind=kind, tokenizer=name, workspace="w")
    command = Remedies("w").tokenizer(request.tokenizer_name, "pairs", kind)
    assert read_back(command, TokenizerRequest, {"notebook": TokenizerRequest()}) == request
    command = Remedies("w").encode("pairs", request.tokenizer_name)
    encode = read_back(command, EncodeRequest, {"notebook": EncodeRequest()})
    assert (encode.corpus, encode.tokenizer_name, encode.workspace) == ("pairs", request.tokenizer_name, "w")


@pytest.fixture(scope="module")
def config(small: Built) -> Iterator[RunConfig]:
    prepare(small.workspace, "resumed", "small", "small-digit", TrainingSpec(batch_size=128, validation_rows=128))
    yield load_run(small.workspace.run("resumed"))
    small.workspace.run("resumed").remove()


@pytest.mark.parametrize("training", [*(request.spec(TrainingSpec) for request in TRAININGS.values())])
def test_train_command_has_the_same_request(config: RunConfig, training: TrainingSpec) -> None:
    training = training.model_copy(update={"seed": 7, "min_workers": 1, "where": "a < 'x' -- \"\n AND true"})
    run = config.model_copy(update={"training": training})
    request = read_back(Remedies("w").train(run), TrainRequest, TRAININGS)
    assert request.spec(TrainingSpec) == training
    assert (request.run_name, request.corpus, request.tokenizer_name) == ("resumed", "small", "small-digit")
    assert request.workspace == "w"


def test_custom_curriculum_has_no_command(config: RunConfig) -> None:
    training = TrainingSpec(
        encoder=EncoderConfig(random_offset=True), curriculum=(CurriculumStage(where="a > 3", steps=10),)
    )
    assert Remedies("./workspace").train(config.model_copy(update={"training": training})) == ""


def test_folder_is_deleted_only_if_a_command_makes_it_again() -> None:
    assert removal(LocalLocation(Path("/a b")), "make") == "rm -r '/a b' && make"
    assert removal(LocalLocation(Path("/a b")), "") == ""
    assert removal(open_location("s3://bucket/a"), "make") == ""
    assert Remedies("w").repair("x") == "numerate corpus verify x --workspace w --repair"
    assert Remedies("./workspace").migrate("x") == "numerate corpus migrate x"
