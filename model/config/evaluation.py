"""Parameters of an evaluation and of decoding."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.config.fields import field


class Decoding(BaseModel):
    """How masked answer slots are filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passes: int = field(0, 1, "Passes of the encoder, each of which fixes some of the slots.", ge=1, le=1_024)
    order: Literal["confidence", "units-first"] = field(
        1, "confidence", "Which slots a pass fixes: the surest ones, or those from the units upwards."
    )
    loops: int = field(
        2, 0, "Runs of the block; 0 takes as many as in training, or as carries need (carry_loops).", ge=0, le=4_096
    )
    sharpness: float = field(3, 1.0, "Factor on the attention scores.", gt=0, le=100)
    unit: Literal["on", "off"] = field(4, "on", "The encoder's symbolic unit; off leaves it out, to see what it does.")


ONE_PASS = Decoding()


class EvaluationSpec(BaseModel):
    """Parameters of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["test", "validation", "train", "all"] = Field(
        "test",
        description="Split that is evaluated; all takes the problems that were trained on, too.",
        json_schema_extra={"position": 0},
    )
    limit: int = Field(
        100_000,
        ge=0,
        description="Problems, from the first of the split on; 0 takes all.",
        json_schema_extra={"position": 1},
    )
    checkpoint: Literal["best", "last"] = Field(
        "best", description="Checkpoint that answers.", json_schema_extra={"position": 2}
    )
    decoding: Decoding = Field(
        ONE_PASS, description="How the answers' slots are filled.", json_schema_extra={"position": 3}
    )
    missing: Literal["answer", "operand"] = field(
        4, "answer", "What is asked: the answer, or an operand with the answer shown, as in 12+?=30."
    )

    @model_validator(mode="after")
    def _one_pass(self) -> "EvaluationSpec":
        if self.missing == "operand" and self.decoding != ONE_PASS:
            raise ValueError("missing is operand, which is filled in one pass: leave the options of decoding out")
        return self
