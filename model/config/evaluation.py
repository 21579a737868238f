"""Parameters of an evaluation and of decoding."""

from typing import Literal

from pydantic import Field, model_validator

from storage.form import Form


class Decoding(Form):
    """How a problem is answered."""

    shorthand = "method"

    method: Literal["automatic", "slots", "rewriting"] = Field(
        "automatic",
        description="Fill the slots of the answer, or rewrite the problem step by step; automatic is what the encoder "
        "was trained for, and another method is refused.",
    )
    passes: int = Field(
        1, description="Passes of the encoder; each pass fills an equal share of the slots.", ge=1, le=1_024
    )
    order: Literal["confidence", "units-first"] = Field(
        "confidence",
        description="Order in which passes fill the slots: highest confidence first, or from the units upwards.",
    )
    loops: int = Field(
        0,
        description="Loops of the block; 0 uses the encoder's loops, or more for a long answer if carry_loops is set.",
        ge=0,
        le=4_096,
    )
    sharpness: float = Field(1.0, description="Factor that multiplies the attention scores.", gt=0, le=100)
    unit: Literal["on", "off"] = Field(
        "on", description="The encoder's symbolic unit; off disables it, to measure its effect."
    )
    marks: Literal["encoder", "code"] = Field(
        "encoder",
        description="Rewriting: what marks the operations to carry out; code, which knows precedence, shows what wrong "
        "marks cost.",
    )
    values: Literal["encoder", "code"] = Field(
        "encoder",
        description="Rewriting: what computes the value of an operation; code, which is exact, shows what wrong values "
        "cost.",
    )

    @model_validator(mode="after")
    def _something_by_the_encoder(self) -> "Decoding":
        if self.marks == self.values == "code":
            raise ValueError("marks and values are code, so nothing is left to the encoder: set one of them to encoder")
        return self

    def is_default(self, *exceptions: str) -> bool:
        """Whether all options have their defaults, apart from `exceptions` and the method, which only refuses."""
        return not self.model_dump(exclude_defaults=True, exclude={"method", *exceptions})


ONE_PASS = Decoding()


class EvaluationSpec(Form):
    """Parameters of an evaluation."""

    split: Literal["test", "validation", "train", "all"] = Field(
        "test", description="Split to evaluate; all includes the training problems."
    )
    limit: int = Field(
        100_000,
        ge=0,
        description="Maximum number of problems, the first of each family and width in the split; 0 evaluates all.",
    )
    checkpoint: Literal["best", "last"] = Field(
        "best", description="Checkpoint to evaluate: the best one on validation, or the last one."
    )
    decoding: Decoding = Field(ONE_PASS, description="How a problem is answered; a plain value is the method.")
    missing: Literal["answer", "operand"] = Field(
        "answer", description="What to predict: the answer, or a masked operand, as in 12+?=30."
    )

    @model_validator(mode="after")
    def _one_pass(self) -> "EvaluationSpec":
        if self.missing == "operand" and not self.decoding.is_default():
            raise ValueError("missing is operand, which is filled in one pass: remove the decoding options")
        return self
