"""What an encoder is and how it is trained: the parameters that the form, the options and the spec file share."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from storage.lanes import LANES
from storage.manifest import hash_of


class EncoderConfig(BaseModel):
    """Shape of the encoder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    width: int = Field(128, ge=8, le=4096, description="Size of a hidden state.", json_schema_extra={"position": 0})
    heads: int = Field(4, ge=1, le=64, description="Attention heads.", json_schema_extra={"position": 1})
    layers: int = Field(2, ge=1, le=48, description="Layers in the block.", json_schema_extra={"position": 2})
    loops: int = Field(
        1, ge=1, le=32, description="Times the block is run, its input added anew.", json_schema_extra={"position": 3}
    )
    feedforward: int = Field(
        512, ge=8, le=16384, description="Size of the feed-forward layer.", json_schema_extra={"position": 4}
    )
    places: int = Field(32, ge=2, le=1024, description="Largest place value.", json_schema_extra={"position": 5})
    operands: int = Field(16, ge=2, le=256, description="Most operands.", json_schema_extra={"position": 6})

    @model_validator(mode="after")
    def _divisible(self) -> "EncoderConfig":
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}: change one of them")
        return self


class TrainingSpec(BaseModel):
    """How an encoder is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoder: EncoderConfig = Field(
        EncoderConfig(), description="Shape of the encoder.", json_schema_extra={"position": 0}
    )
    steps: int = Field(2_000, ge=1, le=10**8, description="Optimizer steps.", json_schema_extra={"position": 1})
    batch_size: int = Field(
        512,
        ge=LANES,
        le=1 << 20,
        multiple_of=LANES,
        description="Problems in a step, over all workers.",
        json_schema_extra={"position": 2},
    )
    matrix_learning_rate: float = Field(
        0.02, gt=0, le=1, description="Muon's rate, for the matrices of the layers.", json_schema_extra={"position": 3}
    )
    learning_rate: float = Field(
        8e-3, gt=0, le=1, description="AdamW's rate, for everything else.", json_schema_extra={"position": 4}
    )
    warmup: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps in which the rates rise.", json_schema_extra={"position": 5}
    )
    full_mask_share: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Share of problems whose whole answer is masked; others at random.",
        json_schema_extra={"position": 6},
    )
    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Arithmetic; auto takes bfloat16 where the machine has it.",
        json_schema_extra={"position": 7},
    )
    workers: int = Field(
        0,
        ge=0,
        le=LANES,
        description="DDP workers; 0 takes one a GPU, or two without a GPU.",
        json_schema_extra={"position": 8},
    )
    validate_every: int = Field(200, ge=1, description="Steps between validations.", json_schema_extra={"position": 9})
    validation_rows: int = Field(
        2_048,
        ge=LANES,
        le=1 << 20,
        multiple_of=LANES,
        description="Problems in a validation.",
        json_schema_extra={"position": 10},
    )
    checkpoint_every: int = Field(
        500, ge=1, description="Steps between checkpoints.", json_schema_extra={"position": 11}
    )
    keep: int = Field(
        2, ge=0, le=100, description="Older checkpoints kept besides best and last.", json_schema_extra={"position": 12}
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of weights, order and masks.", json_schema_extra={"position": 13}
    )

    def identity(self) -> dict[str, Any]:
        """What decides the weights, as JSON values; the number of workers is not part of it."""
        return self.model_dump(mode="json", exclude={"workers"})

    @property
    def spec_hash(self) -> str:
        """Hash of `identity`."""
        return hash_of(self.identity())


class EvaluationSpec(BaseModel):
    """What is evaluated."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: Literal["test", "validation", "train"] = Field(
        "test", description="Split that is asked.", json_schema_extra={"position": 0}
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
