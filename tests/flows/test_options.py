import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from flows.cli.app import app, run
from flows.cli.options import options_of, resolve
from flows.common.parameters import EndToEndRequest
from flows.common.presets import PRESETS
from flows.end_to_end import check_request
from model.config.evaluation import Decoding
from model.config.training import TrainingSpec
from pipelines.spec.corpus import CorpusSpec
from storage.errors import UserError

Options = options_of(EndToEndRequest)


def asked(source: str, **options: object) -> EndToEndRequest:
    return resolve(EndToEndRequest, source, PRESETS, Options(**options))


def test_a_plain_value_sets_the_field_that_stands_for_all() -> None:
    assert asked("quick", evaluation={"decoding": "slots"}).evaluation.decoding == Decoding(method="slots")
    with pytest.raises(ValidationError, match="Input should be 'automatic', 'slots' or 'rewriting'"):
        asked("quick", evaluation={"decoding": "other"})


def test_an_option_beside_a_plain_value_in_a_file_keeps_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("evaluation: {decoding: rewriting}")
    found = asked(str(file), evaluation={"decoding": {"marks": "code"}})
    assert found.evaluation.decoding == Decoding(method="rewriting", marks="code")
    file.write_text("evaluation: {decoding: other}")
    with pytest.raises(UserError, match=r"decoding.method is 'other': input should be 'automatic', 'slots' or"):
        asked(str(file))


def test_option_changes_only_its_value_of_a_preset() -> None:
    request = asked("quick", training={"steps": 7})
    assert request.training.steps == 7
    assert request.training.model_copy(update={"steps": 600}) == PRESETS["quick"].training
    assert request.corpus == PRESETS["quick"].corpus


@pytest.mark.parametrize("name", ["spec.yaml", "spec.json"])
def test_spec_file_can_replace_a_preset(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text('{"corpus": {"name": "mine", "terms": 3}}')
    request = asked(str(path), corpus={"terms": 2})
    assert (request.corpus.name, request.corpus.terms) == ("mine", 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "contains no parameters"),
        ("- 1", "contains no parameters"),
        ("a: [", "is not YAML or JSON"),
        ("corpus: {terms: 99}", "corpus.terms is 99: input should be less than or equal to 64"),
        ("corpus: {term: 2}", "corpus.term is not a parameter"),
        ("training: {batch_size: 100}", "training.batch_size is 100: input should be a multiple of 64"),
        ("corpus: {low: 9, high: 3}", "corpus is .*: high is 3, below low|corpus: high is 3|high is 3"),
        ("corpus: !!python/object:os.system {}", "is not YAML or JSON"),
    ],
)
def test_invalid_file_is_a_one_line_error(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as failure:
        asked(str(path))
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--operators", "-", "--operators", "*"], ["-", "*"]),
        (["--operators=-"], ["-"]),
    ],
)
def test_minus_can_be_an_operator_on_the_command_line(
    words: list[str], found: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    app(["corpus", "describe", "--rows", "9", "--json", *words], result_action="return_value")
    assert json.loads(capsys.readouterr().out)["spec"]["operators"] == found


@pytest.mark.parametrize("words", [["--mixture", "x"], ["--empty-operators"], ["--operators", "^"], ["--rows", "x"]])
def test_invalid_option_is_a_one_line_error(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["corpus", "describe", *words])
    line = capsys.readouterr().err
    assert (code, line.count("\n")) == (2, 1)
    assert line.startswith("error: ")
    assert "pydantic" not in line


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"preset 'noteboo' is unknown: use one of notebook, quick"):
        asked("noteboo")


def test_error_names_the_missing_file() -> None:
    with pytest.raises(UserError, match=r"/no/such.yaml can't be read"):
        asked("/no/such.yaml")


def test_stages_of_a_preset_use_the_same_names() -> None:
    request = PRESETS["quick"].model_copy(update={"workspace": "/w", "name": "mine"})
    assert request.generate_request().spec(CorpusSpec) == request.corpus
    assert request.train_request().spec(TrainingSpec) == request.training
    assert request.train_request().tokenizer_name == request.tokenizer_request().tokenizer_name == "quick-digit"
    assert request.train_request().run_name == request.evaluate_request().name == "mine"
    assert {part.workspace for part in (request.encode_request(), request.evaluate_request())} == {"/w"}


@pytest.mark.parametrize("kind", ["digit", "pairs", "triples"])
def test_later_stages_use_the_tokenizer_of_the_given_kind(kind: str) -> None:
    request = asked("quick", tokenizer={"kind": kind})
    names = {part.tokenizer_name for part in (request.tokenizer_request(), request.encode_request())}
    assert names | {request.train_request().tokenizer_name} == {f"quick-{kind}"}
    # A preset of one stage is for any corpus.
    assert (asked("quick").encode_request().tokenizer, asked("quick").train_request().tokenizer) == ("", "")


def test_learned_pieces_with_place_values_are_rejected_before_any_work(tmp_path: Path) -> None:
    request = asked("quick", tokenizer={"kind": "bpe"}, workspace=str(tmp_path / "w"))
    with pytest.raises(UserError, match=r"encoder.positions is place-value, and place-value needs digits") as error:
        check_request(request)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.rglob("corpora/*"))
    encoder = {"positions": ("sinusoidal",)}
    check_request(asked("quick", tokenizer={"kind": "bpe"}, training={"encoder": encoder}, workspace=str(tmp_path)))


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ({"vocabulary": 512}, "vocabulary belongs to bpe and unigram, not to kind 'digit': leave it out"),
        ({"kind": "bpe", "vocabulary": 31}, "tokenizer.vocabulary is 31: input should be greater than or equal to 32"),
        ({"kind": "words"}, "tokenizer.kind is 'words': input should be 'digit', 'pairs', 'triples', 'bpe' or"),
    ],
)
def test_invalid_tokenizer_is_a_one_line_error(tmp_path: Path, tokenizer: dict[str, object], words: str) -> None:
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"tokenizer": tokenizer}))
    with pytest.raises(UserError, match=words):
        asked(str(path))


@pytest.mark.parametrize(
    ("corpus", "kind", "words"),
    [
        ({"family": "digits", "terms": 3, "digits": 1_000}, "digit", "problems may have 3,002 tokens"),
        ({"family": "digits", "terms": 3, "digits": 1_000}, "triples", ""),
        (
            {"family": "digits", "terms": 3, "digits": 683, "operators": ["*"]},
            "digit",
            "problems may have 2,051 tokens",
        ),
        ({"family": "expression", "terms": 32, "digits": 60, "rows": 10**6}, "digit", "problems may have 2,079 tokens"),
    ],
)
def test_problems_too_long_for_a_row_of_tokens_are_rejected_before_any_work(
    tmp_path: Path, corpus: dict[str, Any], kind: str, words: str
) -> None:
    rows = {"rows": 10**6} if corpus else {}
    request = asked("quick", corpus={"name": "c", **rows, **corpus}, tokenizer={"kind": kind}, workspace=str(tmp_path))
    if not words:
        check_request(request)
        return
    with pytest.raises(UserError, match=f"{words}, but a row holds at most 2,048: lower terms or digits"):
        check_request(request)
    assert not (tmp_path / "corpora").exists()
