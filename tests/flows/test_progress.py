"""How long work shows itself: what was there before says nothing of how fast it goes."""

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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that the meter sees."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_rate_counts_what_is_made_now_alone(clock: list[float]) -> None:
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


@pytest.mark.parametrize("asked", [TokenizerRequest, EncodeRequest, TrainRequest, EvaluateRequest])
def test_what_is_made_first_is_made_on_the_same_cluster(
    asked: type[InWorkspace], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    from flows import encode_corpus, generate_corpus, train_tokenizer

    begun: list[InWorkspace] = []
    for module, flow in [
        (generate_corpus, "generate_corpus"),
        (train_tokenizer, "train_tokenizer"),
        (encode_corpus, "encode_corpus"),
    ]:
        monkeypatch.setattr(module, flow, begun.append)
    request = asked(workspace=f"{tmp_path}/workspace", ray="head:6379")
    train_tokenizer.ensure_tokenizer(request, "notebook", "notebook-digit")
    encode_corpus.ensure_tokens(request, "notebook", "notebook-digit")
    assert len(begun) == 3
    # Not named after this corpus: nothing says how to train it.
    train_tokenizer.ensure_tokenizer(request, "notebook", "digit")
    assert [type(each) for each in begun[3:]] == [GenerateRequest]
    begun.pop()
    assert {tuple(each.workspace_and_ray.items()) for each in begun} == {tuple(request.workspace_and_ray.items())}
