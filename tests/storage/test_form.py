"""The order of the fields in Prefect's forms."""

import pytest
from pydantic import BaseModel, Field

from flows.common.parameters import EndToEndRequest, GenerateRequest, ProbeRequest, TokenizerRequest, TrainRequest
from model.config.encoder import EncoderConfig
from model.config.probing import ProbingSpec
from model.config.training import TrainingSpec
from storage.form import Form

END = ["make_missing", "workspace", "ray"]


def form_of(model: type[BaseModel]) -> list[str]:
    """The fields of a form from top to bottom."""
    fields = model.model_json_schema()["properties"]
    positions = {name: field["position"] for name, field in fields.items()}
    assert len(set(positions.values())) == len(positions)
    return sorted(positions, key=positions.__getitem__)


def test_a_form_has_the_order_of_the_fields_in_the_class() -> None:
    class First(Form):
        zebra: int = 1
        apple: EncoderConfig = Field(EncoderConfig(), description="A model of its own.")

    class Second(First):
        shown_last = ("zebra",)
        middle: str = ""

    assert form_of(First) == ["zebra", "apple"]
    assert form_of(Second) == ["apple", "middle", "zebra"]
    nested = First.model_json_schema()["$defs"]["EncoderConfig"]["properties"]
    assert [nested[name]["position"] for name in EncoderConfig.model_fields] == [*range(len(nested))]


@pytest.mark.parametrize(
    ("request_type", "order"),
    [
        (TokenizerRequest, ["kind", "sample_rows", "proof_rows", "vocabulary", "corpus", "tokenizer", *END]),
        (TrainRequest, [*TrainingSpec.model_fields, "corpus", "tokenizer", "name", "seeds", *END]),
        (ProbeRequest, [*ProbingSpec.model_fields, "name", "compare", "workspace", "ray"]),
        (
            EndToEndRequest,
            ["name", "corpus", "tokenizer", "training", "evaluation", "seeds", "workspace", "ray"],
        ),
    ],
)
def test_the_fields_that_several_forms_have_come_last(request_type: type[BaseModel], order: list[str]) -> None:
    assert form_of(request_type) == order


def test_a_corpus_keeps_the_order_of_its_own_fields() -> None:
    order = form_of(GenerateRequest)
    assert order[:2] == ["name", "family"]
    assert order[-3:] == ["only_test", "workspace", "ray"]
