"""Parameters of an evaluation and of decoding."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from model.config.fields import field


class Decoding(BaseModel):
    """How masked answer slots are filled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    passes: int = field(0, 1, "Passes of the encoder; each pass fills an equal share of the slots.", ge=1, le=1_024)
    order: Literal["confidence", "units-first"] = field(
        1, "confidence", "Order in which passes fill the slots: highest confidence first, or from the units upwards."
    )
    loops: int = field(
        2,
        0,
        "Loops of the block; 0 uses the encoder's loops, or more for a long answer if carry_loops is set.",
        ge=0,
        le=4_096,
    )
    sharpness: float = field(3, 1.0, "Factor that multiplies the attention scores.", gt=0, le=100)
    unit: Literal["on", "off"] = field(4, "on", "The encoder's symbolic unit; off disables it, to measure its effect.")


ONE_PASS = Decoding()


class EvaluationSpec(BaseModel):
    """Parameters of an evaluation."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["test", "validation", "train", "all"] = Field(
        "test",
        description="Split to evaluate; all includes the training problems.",
        json_schema_extra={"position": 0},
    )
    limit: int = Field(
        100_000,
        ge=0,
        description="Maximum number of problems, the first of each family and width in the split; 0 evaluates all.",
        json_schema_extra={"position": 1},
    )
    checkpoint: Literal["best", "last"] = Field(
        "best",
        description="Checkpoint to evaluate: the best one on validation, or the last one.",
        json_schema_extra={"position": 2},
    )
    decoding: Decoding = Field(
        ONE_PASS, description="How the slots of the answer are filled.", json_schema_extra={"position": 3}
    )
    missing: Literal["answer", "operand"] = field(
        4, "answer", "What to predict: the answer, or a masked operand, as in 12+?=30."
    )

    @model_validator(mode="after")
    def _one_pass(self) -> "EvaluationSpec":
        if self.missing == "operand" and self.decoding != ONE_PASS:
            raise ValueError("missing is operand, which is filled in one pass: remove the decoding options")
        return self
