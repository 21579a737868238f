"""Progress of work: the rate excludes units that were finished earlier."""

import re

import pytest
from rich.progress import Progress

from flows.common import progress
from flows.common.parameters import (
    EncodeRequest,
    EvaluateRequest,
    GenerateRequest,
    InWorkspace,
    TokenizerRequest,
    TrainRequest,
)
from flows.common.progress import Meter, human
from model.training import job


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the meter sees."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_rate_excludes_units_that_were_finished_earlier(clock: list[float]) -> None:
    bar = Progress()
    meter = Meter("corpus long", 1_000, "rows", bar, None)
    meter.add_finished(600)
    clock[0] = 10.0
    meter.add(100)
    assert (meter.done, bar.tasks[0].completed, bar.tasks[0].fields["rate"]) == (700, 700, "10 rows/s")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (87.4, "87.4"), (999.4, "999"), (999.6, "1 k"), (12_345, "12.3 k"), (999_600, "1 M"),
     (5.94e6, "5.94 M"), (2e9, "2 G"), (5e12, "5 T"), (7e15, "7000 T")],
)  # fmt: skip
def test_numbers_have_three_figures_and_no_exponent(value: float, text: str) -> None:
    assert human(value) == text
    assert not re.search("e[+-]", human(value))


def test_progress_of_a_training_is_readable() -> None:
    progress = job.Progress(1_200, 9_000, 0.51234, 0.97265, 20_345.6)
    text = "step 1,200 of 9,000, loss 0.5123, exact match on validation 97.27%, 20,346 problems/s"
    assert f"{progress}" == text


@pytest.mark.parametrize("kind", [TokenizerRequest, EncodeRequest, TrainRequest, EvaluateRequest])
def test_missing_inputs_are_made_on_the_same_cluster(
    kind: type[InWorkspace], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from flows import encode_corpus, generate_corpus, train_tokenizer

    begun: list[InWorkspace] = []
    for module, flow in [
        (generate_corpus, "generate_corpus"),
        (train_tokenizer, "train_tokenizer"),
        (encode_corpus, "encode_corpus"),
    ]:
        monkeypatch.setattr(module, flow, begun.append)
    request = kind(workspace=f"{tmp_path}/workspace", ray="head:6379")
    train_tokenizer.ensure_tokenizer(request, "notebook", "notebook-digit")
    encode_corpus.ensure_tokens(request, "notebook", "notebook-digit")
    assert len(begun) == 3
    # Not named after this corpus: nothing says how to train it.
    train_tokenizer.ensure_tokenizer(request, "notebook", "digit")
    assert [type(each) for each in begun[3:]] == [GenerateRequest]
    begun.pop()
    assert {tuple(each.workspace_and_ray.items()) for each in begun} == {tuple(request.workspace_and_ray.items())}
